{{/*
Times of a shutdown, from the gate's own `limits.drain_delay` and `limits.drain_timeout`.
*/}}

{{/* Seconds of a duration such as `500ms`, `5s`, `1m30s`, rounded up. */}}
{{- define "cedargate.seconds" -}}
{{- $text := . | toString | replace " " "" -}}
{{- if not (regexMatch "^([0-9]+(ms|s|sec|m|min|h))+$" $text) -}}
{{- fail (printf "cedargate: `%s` is no duration that the chart can read; write it in ms, s, m or h, such as `30s`" $text) -}}
{{- end -}}
{{- $ms := 0 -}}
{{- $units := dict "ms" 1 "s" 1000 "sec" 1000 "m" 60000 "min" 60000 "h" 3600000 -}}
{{- range $part := regexFindAll "[0-9]+[a-z]+" $text -1 -}}
{{- $number := regexFind "^[0-9]+" $part -}}
{{- $ms = add $ms (mul (atoi $number) (get $units (trimPrefix $number $part))) -}}
{{- end -}}
{{- div (add $ms 999) 1000 -}}
{{- end -}}

{{/* Longest time of a drain in seconds: the delay, then the requests in flight. */}}
{{- define "cedargate.drainSeconds" -}}
{{- $config := include "cedargate.config" . | fromYaml -}}
{{- $limits := $config.limits | default dict -}}
{{- $delay := include "cedargate.seconds" ($limits.drain_delay | default "5s") -}}
{{- $timeout := include "cedargate.seconds" ($limits.drain_timeout | default "30s") -}}
{{- add (atoi $delay) (atoi $timeout) -}}
{{- end -}}

{{/*
Grace period of a pod: the drain, then the app's own end, then five seconds for kubelet. A pod that needs less ends sooner.
*/}}
{{- define "cedargate.terminationGracePeriodSeconds" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- add (atoi (include "cedargate.drainSeconds" .)) (int $v.app.shutdownSeconds) 5 -}}
{{- end -}}
