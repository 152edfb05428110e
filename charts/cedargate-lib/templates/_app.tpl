{{/*
What the app's container needs beside the gate: probes through the gate, and an end in the right order.
*/}}

{{/* `upstream.probes` of the configuration, from `app.probes`; nothing where the app is in another pod. */}}
{{- define "cedargate.probesConfig" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- $names := dict "liveness" "livez" "readiness" "readyz" "startup" "startupz" -}}
{{- $probes := dict -}}
{{- range $kind, $probe := ($v.app.probes | default dict) -}}
{{- if and $probe (ne ($v.mode | default "sidecar") "standalone") -}}
{{- if and $probe.path $probe.grpc -}}
{{- fail (printf "cedargate: app.probes.%s has `path` and `grpc`; give one of them" $kind) -}}
{{- end -}}
{{- $port := $probe.port | default $v.app.port -}}
{{- $target := dict "timeout" ($probe.timeout | default "1s") -}}
{{- if $probe.path -}}
{{- $_ := set $target "url" (printf "%s://127.0.0.1:%v%s" ($probe.scheme | default "http") $port $probe.path) -}}
{{- with $probe.headers -}}{{- $_ := set $target "headers" . -}}{{- end -}}
{{- else if $probe.grpc -}}
{{- $_ := set $target "grpc" (printf "127.0.0.1:%v" $port) -}}
{{- with $probe.service -}}{{- $_ := set $target "service" . -}}{{- end -}}
{{- else -}}
{{- $_ := set $target "tcp" (printf "127.0.0.1:%v" $port) -}}
{{- end -}}
{{- $_ := set $probes (get $names $kind) $target -}}
{{- end -}}
{{- end -}}
{{- toYaml $probes -}}
{{- end -}}

{{/*
Probes of the app's container: keys `startupProbe`, `readinessProbe`, `livenessProbe`. Kubelet cannot reach an app on loopback;
it asks the gate's admin port, and the gate asks the app.
*/}}
{{- define "cedargate.appProbes" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- $root := . -}}
{{- $probes := dict -}}
{{- range $kind, $name := dict "startup" "startupz" "readiness" "readyz" "liveness" "livez" -}}
{{- with get ($v.app.probes | default dict) $kind -}}
{{- $port := include "cedargate.adminPort" $root | atoi -}}
{{- $seconds := include "cedargate.seconds" (.timeout | default "1s") | atoi -}}
{{- $probe := dict "httpGet" (dict "path" (printf "/app/%s" $name) "port" $port) "timeoutSeconds" (add $seconds 1) -}}
{{- include "cedargate.overlay" (dict "into" $probe "from" (.settings | default dict)) -}}
{{- $_ := set $probes (printf "%sProbe" $kind) $probe -}}
{{- end -}}
{{- end -}}
{{- if $probes -}}{{- toYaml $probes -}}{{- end -}}
{{- end -}}

{{/*
`lifecycle` of the app's container. On the end of a pod kubelet runs all preStop hooks at once: the gate begins to drain and
still forwards requests. The app must answer them, so its own SIGTERM waits until the gate says that it has drained. `sleep`
and `exec` wait for the longest drain instead, each time.
*/}}
{{- define "cedargate.appLifecycle" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- $seconds := atoi (include "cedargate.drainSeconds" .) -}}
{{- if eq $v.app.preStop "gate" -}}
preStop:
  httpGet: { path: /drained, port: {{ include "cedargate.adminPort" . }} }
{{- else if eq $v.app.preStop "sleep" -}}
preStop:
  sleep: { seconds: {{ $seconds }} }
{{- else if eq $v.app.preStop "exec" -}}
preStop:
  exec: { command: [sleep, {{ $seconds | quote }}] }
{{- end -}}
{{- end -}}
