{{/*
The gate's container: the one definition for charts, Kustomize and `cedargate inject`.
*/}}

{{- define "cedargate.container" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- include "cedargate.check" . -}}
{{- $config := include "cedargate.config" . | fromYaml -}}
name: cedargate
image: {{ include "cedargate.image" . | quote }}
imagePullPolicy: {{ $v.image.pullPolicy }}
{{- if $v.native }}
{{- /* a native sidecar: starts before the app, ends after it, and does not keep a Job from completing */}}
restartPolicy: Always
{{- end }}
command: [cedargate, serve, --config, /etc/cedargate/cedargate.yaml]
env:
  {{- /* for `kubectl exec POD -c cedargate -- cedargate status` */}}
  - name: CEDARGATE_CONFIG
    value: /etc/cedargate/cedargate.yaml
  {{- with $v.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  {{- $names := dict "proxy" "gate-http" "decision" "gate-decision" "ext_authz" "gate-ext-authz" "admin" "gate-admin" }}
  {{- $_ := list (include "cedargate.proxyPort" .) (include "cedargate.adminPort" .) }}
  {{- range $listener := list "proxy" "decision" "ext_authz" "admin" }}
  {{- if include "cedargate.isOpen" (dict "config" $config "listener" $listener) }}
  - name: {{ get $names $listener }}
    containerPort: {{ include "cedargate.portOf" (dict "config" $config "listener" $listener) }}
    protocol: TCP
  {{- end }}
  {{- end }}
startupProbe:
  httpGet: { path: /startupz, port: gate-admin }
  {{- toYaml $v.probes.startup | nindent 2 }}
readinessProbe:
  httpGet: { path: /readyz, port: gate-admin }
  {{- toYaml $v.probes.readiness | nindent 2 }}
livenessProbe:
  httpGet: { path: /livez, port: gate-admin }
  {{- toYaml $v.probes.liveness | nindent 2 }}
lifecycle:
  preStop:
    {{- /* stops new work and lets requests in flight finish; the SIGTERM that follows does not cut the drain short */}}
    exec: { command: [cedargate, drain] }
resources:
  {{- toYaml $v.resources | nindent 2 }}
securityContext:
  {{- toYaml $v.securityContext | nindent 2 }}
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
  {{- include "cedargate.volumeMounts" . | nindent 2 }}
{{- end -}}

{{/* Items for `initContainers` of a pod. */}}
{{- define "cedargate.initContainers" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- include "cedargate.gitSyncInit" . -}}
{{- if $v.native -}}
- {{ include "cedargate.container" . | nindent 2 | trim }}
{{- end -}}
{{- end -}}

{{/* Items for `containers` of a pod. */}}
{{- define "cedargate.containers" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- include "cedargate.gitSyncContainer" . -}}
{{- if not $v.native -}}
- {{ include "cedargate.container" . | nindent 2 | trim }}
{{- end -}}
{{- end -}}

{{- define "cedargate.volumeMounts" -}}
{{- $v := .Values.cedargate | default .Values -}}
- name: cedargate-config
  mountPath: /etc/cedargate
  readOnly: true
{{- include "cedargate.policyMounts" . }}
{{- range include "cedargate.secretMounts" . | fromYamlArray }}
- name: {{ .name }}
  mountPath: {{ .path }}
  readOnly: true
{{- end }}
{{- range $v.secrets }}
- name: {{ include "cedargate.secretVolume" . }}
  mountPath: {{ printf "/etc/cedargate/secrets/%s" (.path | default .name) }}
  readOnly: true
{{- end }}
- name: cedargate-run
  mountPath: /run/cedargate
{{- if $v.state.enabled }}
- name: cedargate-state
  mountPath: /var/lib/cedargate
{{- end }}
{{- with $v.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Secrets that other values name, as a YAML list of `{name, secret, path}`. */}}
{{- define "cedargate.secretMounts" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- $mounts := list -}}
{{- if $v.redis.enabled -}}
{{- $mounts = append $mounts (dict "name" "cedargate-session-keys" "secret" $v.redis.sessionKeySecret.name "path" "/etc/cedargate/session-keys") -}}
{{- with $v.redis.passwordSecret.name -}}
{{- $mounts = append $mounts (dict "name" "cedargate-redis" "secret" . "path" "/etc/cedargate/redis") -}}
{{- end -}}
{{- with $v.redis.tls.secret -}}
{{- $mounts = append $mounts (dict "name" "cedargate-redis-tls" "secret" . "path" "/etc/cedargate/redis-tls") -}}
{{- end -}}
{{- end -}}
{{- toYaml $mounts -}}
{{- end -}}

{{/* Volume of one of `secrets`. */}}
{{- define "cedargate.secretVolume" -}}
{{- printf "cedargate-secret-%s" (ternary .name (printf "%s-%s" (trunc 37 .name) (sha256sum .name | trunc 8)) (le (len .name) 46) | replace "." "-") -}}
{{- end -}}

{{/* Items for `volumes` of a pod. Mode 292 is 0444: the gate is not root, and YAML readers differ about octal numbers. */}}
{{- define "cedargate.volumes" -}}
{{- $v := .Values.cedargate | default .Values -}}
- name: cedargate-config
  projected:
    defaultMode: 292
    sources:
      - configMap:
          name: {{ include "cedargate.configMapName" . }}
          items: [{ key: cedargate.yaml, path: cedargate.yaml }]
      {{- with include "cedargate.itemSources" . | trim }}
      {{- . | nindent 6 }}
      {{- end }}
{{- include "cedargate.policyVolumes" . }}
{{- range include "cedargate.secretMounts" . | fromYamlArray }}
- name: {{ .name }}
  secret: { secretName: {{ .secret }}, defaultMode: 292 }
{{- end }}
{{- range $v.secrets }}
- name: {{ include "cedargate.secretVolume" . }}
  secret:
    secretName: {{ .name }}
    defaultMode: 292
    {{- with .items }}
    items:
      {{- range $key, $path := . }}
      - { key: {{ $key | quote }}, path: {{ $path | quote }} }
      {{- end }}
    {{- end }}
{{- end }}
- name: cedargate-run
  emptyDir: { medium: Memory, sizeLimit: 1Mi }
{{- if $v.state.enabled }}
- name: cedargate-state
  {{- if $v.state.existingClaim }}
  persistentVolumeClaim: { claimName: {{ $v.state.existingClaim }} }
  {{- else }}
  emptyDir: { sizeLimit: {{ $v.state.sizeLimit }} }
  {{- end }}
{{- end }}
{{- with $v.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
