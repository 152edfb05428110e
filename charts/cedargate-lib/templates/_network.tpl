{{/*
How the network reaches the gate, and only the gate.
*/}}

{{/* A Service in front of the gate's listeners that are open to the network; the app's own port is not one of them. */}}
{{- define "cedargate.service" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- $config := include "cedargate.config" . | fromYaml -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ $v.service.name | default (include "cedargate.fullname" .) }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "cedargate.labels" . | nindent 4 }}
  {{- with $v.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $v.service.type }}
  selector:
    {{- include "cedargate.selectorLabels" . | nindent 4 }}
  ports:
    - name: {{ ternary "https" "http" (not (empty (dig "listen" "proxy" "tls" "cert" "" $config))) }}
      port: {{ $v.service.port }}
      targetPort: gate-http
      protocol: TCP
    {{- if include "cedargate.isOpen" (dict "config" $config "listener" "decision") }}
    - name: decision
      port: {{ include "cedargate.portOf" (dict "config" $config "listener" "decision") }}
      targetPort: gate-decision
      protocol: TCP
    {{- end }}
    {{- if include "cedargate.isOpen" (dict "config" $config "listener" "ext_authz") }}
    - name: grpc-ext-authz
      port: {{ include "cedargate.portOf" (dict "config" $config "listener" "ext_authz") }}
      targetPort: gate-ext-authz
      protocol: TCP
    {{- end }}
{{- end -}}

{{/*
SECURITY: lets traffic in to the gate's ports only. A cluster whose network plugin enforces it keeps an app off the network
even if the app listens on all addresses by mistake.
*/}}
{{- define "cedargate.networkPolicy" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- if $v.networkPolicy.enabled -}}
{{- $config := include "cedargate.config" . | fromYaml -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "cedargate.fullname" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "cedargate.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "cedargate.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress{{ if $v.networkPolicy.egress.enabled }}, Egress{{ end }}]
  ingress:
    - ports:
        {{- range $listener := list "proxy" "decision" "ext_authz" }}
        {{- if include "cedargate.isOpen" (dict "config" $config "listener" $listener) }}
        - { port: {{ include "cedargate.portOf" (dict "config" $config "listener" $listener) }}, protocol: TCP }
        {{- end }}
        {{- end }}
      {{- with $v.networkPolicy.from }}
      from:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    - ports:
        - { port: {{ include "cedargate.adminPort" . }}, protocol: TCP }
      {{- with $v.networkPolicy.adminFrom }}
      from:
        {{- toYaml . | nindent 8 }}
      {{- end }}
  {{- if $v.networkPolicy.egress.enabled }}
  egress:
    - ports:
        - { port: 53, protocol: UDP }
        - { port: 53, protocol: TCP }
    {{- with $v.networkPolicy.egress.rules }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
{{- end -}}
{{- end -}}
