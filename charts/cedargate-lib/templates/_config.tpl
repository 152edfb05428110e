{{/*
cedargate.yaml: the chart's own settings, with `config` of the values laid over them.
*/}}

{{/* Lays the mapping `from` over the mapping `into`, key by key; `false` and `null` count. Changes `into`, prints nothing. */}}
{{- define "cedargate.overlay" -}}
{{- $into := .into -}}
{{- range $key, $value := .from -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $into $key)) -}}
{{- include "cedargate.overlay" (dict "into" (get $into $key) "from" $value) -}}
{{- else -}}
{{- $_ := set $into $key $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The whole configuration, as YAML. */}}
{{- define "cedargate.config" -}}
{{- include "cedargate.checkValues" . -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- $config := dict
  "listen" (dict
    "proxy" (dict "address" "0.0.0.0:8900")
    "decision" (dict "address" "127.0.0.1:8901")
    "admin" (dict "address" "0.0.0.0:8903")
    "control" (dict "address" "unix:/run/cedargate/control.sock"))
  "upstream" (dict "url" (printf "http://127.0.0.1:%v" $v.app.port))
  "limits" (dict "workers" 2 "drain_delay" "5s") -}}
{{- $_ := set $config "policies" (include "cedargate.policiesConfig" . | fromYaml) -}}
{{- with include "cedargate.probesConfig" . | fromYaml -}}
{{- $_ := set $config.upstream "probes" . -}}
{{- end -}}
{{- with include "cedargate.redisConfig" . | fromYaml -}}
{{- $_ := set $config "sessions" . -}}
{{- end -}}
{{- include "cedargate.overlay" (dict "into" $config "from" (deepCopy ($v.config | default dict))) -}}
{{- toYaml $config -}}
{{- end -}}

{{/* Name of the ConfigMap that holds cedargate.yaml. */}}
{{- define "cedargate.configMapName" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- $v.existingConfigMap | default (include "cedargate.fullname" .) -}}
{{- end -}}

{{/* The ConfigMap with cedargate.yaml; nothing if the values name an existing one. */}}
{{- define "cedargate.configMap" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- if not $v.existingConfigMap -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "cedargate.configMapName" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "cedargate.labels" . | nindent 4 }}
data:
  cedargate.yaml: |
    # Made from the values of the chart. The gate reads it at start: an edit needs a restart of the pods.
    {{- include "cedargate.config" . | nindent 4 }}
{{- end -}}
{{- end -}}

{{/*
Annotations for pods. A new configuration needs new pods, so its hash is one of them. SECURITY: the policies' hash is not:
the gate takes up an edit by itself, and a restart for each edit would make every edit a rollout.
*/}}
{{- define "cedargate.podAnnotations" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- if not $v.existingConfigMap -}}
cedargate.io/config: {{ include "cedargate.config" . | sha256sum | trunc 16 | quote }}
{{ end -}}
kubectl.kubernetes.io/default-logs-container: {{ $v.app.containerName | default "cedargate" | quote }}
{{- end -}}

{{/* Port of one listener (`listener`) of the configuration (`config`); empty if it is off or a Unix socket. */}}
{{- define "cedargate.portOf" -}}
{{- $listener := get (.config.listen | default dict) .listener | default dict -}}
{{- $address := $listener.address | default "" -}}
{{- if not (hasPrefix "unix:" $address) -}}
{{- regexFind "[0-9]+$" $address -}}
{{- end -}}
{{- end -}}

{{/* `true` if the listener can be reached from outside of the pod. */}}
{{- define "cedargate.isOpen" -}}
{{- $listener := get (.config.listen | default dict) .listener | default dict -}}
{{- $address := $listener.address | default "" -}}
{{- if and $address (not (regexMatch "^(unix:|127\\.|\\[::1\\]|localhost)" $address)) -}}true{{- end -}}
{{- end -}}

{{/* Ends the rendering where two listeners, or a listener and the app, share a port. All containers of a pod share one network. */}}
{{- define "cedargate.checkPorts" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- if not $v.existingConfigMap -}}
{{- $config := include "cedargate.config" . | fromYaml -}}
{{- $taken := dict -}}
{{- range $listener := list "proxy" "decision" "ext_authz" "admin" -}}
{{- $port := include "cedargate.portOf" (dict "config" $config "listener" $listener) -}}
{{- if $port -}}
{{- if hasKey $taken $port -}}
{{- fail (printf "cedargate: port %s is used twice, by config.listen.%s and config.listen.%s; give one of them another port" $port (get $taken $port) $listener) -}}
{{- end -}}
{{- $_ := set $taken $port $listener -}}
{{- end -}}
{{- end -}}
{{- $control := ($config.listen.control | default dict).address | default "" -}}
{{- if not (hasPrefix "unix:/run/cedargate/" $control) -}}
{{- fail (printf "cedargate: config.listen.control is `%s`, but the end of a pod begins with `cedargate drain`, which needs it; use `unix:/run/cedargate/control.sock`" ($control | default "off")) -}}
{{- end -}}
{{- $apps := dict "config.upstream.url" ($config.upstream.url | default "") -}}
{{- range $slug, $portal := ($config.portals | default dict) -}}
{{- $upstream := ($portal | default dict).upstream | default "" -}}
{{- if kindIs "map" $upstream -}}{{- $upstream = $upstream.url | default "" -}}{{- end -}}
{{- $_ := set $apps (printf "config.portals.%s.upstream" $slug) $upstream -}}
{{- end -}}
{{- range $key, $url := $apps -}}
{{- if regexMatch "^[a-z0-9]+://(127\\.|localhost|\\[::1\\])" $url -}}
{{- $port := regexFind "[0-9]+$" $url -}}
{{- if hasKey $taken $port -}}
{{- fail (printf "cedargate: the app's port %s (%s, app.port) is the gate's own, config.listen.%s; move one of them" $port $key (get $taken $port)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Configuration as far as the chart needs it: ports and times. An existing ConfigMap cannot be read; `config` stands in. */}}
{{- define "cedargate.adminPort" -}}
{{- $config := include "cedargate.config" . | fromYaml -}}
{{- $port := include "cedargate.portOf" (dict "config" $config "listener" "admin") -}}
{{- if not $port -}}
{{- fail "cedargate: config.listen.admin is off or a Unix socket; the probes of the pod need it on a TCP port" -}}
{{- end -}}
{{- if not (include "cedargate.isOpen" (dict "config" $config "listener" "admin")) -}}
{{- fail "cedargate: config.listen.admin is on loopback; kubelet's probes come from outside of the pod: use `0.0.0.0:8903`" -}}
{{- end -}}
{{- $port -}}
{{- end -}}

{{- define "cedargate.proxyPort" -}}
{{- $config := include "cedargate.config" . | fromYaml -}}
{{- $port := include "cedargate.portOf" (dict "config" $config "listener" "proxy") -}}
{{- if not (include "cedargate.isOpen" (dict "config" $config "listener" "proxy")) -}}
{{- fail "cedargate: config.listen.proxy is on loopback; clients come from outside of the pod: use `0.0.0.0:8900`" -}}
{{- end -}}
{{- $port -}}
{{- end -}}
