{{/*
Prometheus: what scrapes the gate's admin port.
*/}}

{{- define "cedargate.podMonitor" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- if $v.podMonitor.enabled -}}
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: {{ include "cedargate.fullname" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "cedargate.labels" . | nindent 4 }}
    {{- with $v.podMonitor.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  selector:
    matchLabels:
      {{- include "cedargate.selectorLabels" . | nindent 6 }}
  podMetricsEndpoints:
    - port: gate-admin
      path: /metrics
      interval: {{ $v.podMonitor.interval }}
      {{- with $v.podMonitor.relabelings }}
      relabelings:
        {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end -}}
{{- end -}}

{{/* Every object that pods with the gate share, for the chart of an app: one include in one file. */}}
{{- define "cedargate.objects" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- include "cedargate.check" . -}}
{{- range $object := list
  (include "cedargate.configMap" .)
  (include "cedargate.policyConfigMaps" . | trim | trimPrefix "---")
  (ternary (include "cedargate.service" .) "" $v.service.enabled)
  (include "cedargate.networkPolicy" .)
  (include "cedargate.podMonitor" .) }}
{{- if trim $object }}
---
{{ trim $object }}
{{- end }}
{{- end }}
{{- end -}}
