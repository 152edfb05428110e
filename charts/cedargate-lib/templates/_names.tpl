{{/*
Names, labels, and where the gate's values lie. Every template of the library takes the chart's root context (`.`).
*/}}

{{/*
The gate's values: `.Values.cedargate` in the chart of an app (a dependency with `alias: cedargate`), `.Values` in
charts/cedargate. Templates cannot return a mapping, so each one begins with the same line:
  {{- $v := .Values.cedargate | default .Values -}}
*/}}

{{/* Ends the rendering where no values of the gate are there. */}}
{{- define "cedargate.checkValues" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- if not (and (hasKey $v "native") (hasKey $v "policies")) -}}
{{- fail "cedargate-lib: no values found; give the dependency `alias: cedargate` in Chart.yaml, so that its values lie below `cedargate`" -}}
{{- end -}}
{{- end -}}

{{/* Ends the rendering of what could not work, with a message that says what to change. */}}
{{- define "cedargate.check" -}}
{{- include "cedargate.checkValues" . -}}
{{- include "cedargate.checkPorts" . -}}
{{- include "cedargate.checkPolicies" . -}}
{{- include "cedargate.checkRedis" . -}}
{{- end -}}

{{/*
Base of all names. Object names are DNS labels that begin with a letter; the base is 40 characters at most, so that every
suffix fits. A longer one ends in a hash, so that two long names stay two names.
*/}}
{{- define "cedargate.fullname" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- $name := $v.fullnameOverride -}}
{{- if not $name -}}
{{- $name = ternary .Release.Name (printf "%s-cedargate" .Release.Name) (contains "cedargate" .Release.Name) -}}
{{- end -}}
{{- $name = $name | lower | replace "." "-" | replace "_" "-" -}}
{{- if regexMatch "^[0-9]" $name -}}
{{- $name = printf "g%s" $name -}}
{{- end -}}
{{- if gt (len $name) 40 -}}
{{- $name = printf "%s-%s" (trunc 31 $name | trimSuffix "-") (sha256sum $name | trunc 8) -}}
{{- end -}}
{{- trimAll "-" $name -}}
{{- end -}}

{{- define "cedargate.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
{{ include "cedargate.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | default "0" | replace "+" "_" | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/part-of: cedargate
{{- end -}}

{{/* Labels by which Service, NetworkPolicy and the others find the pods. Quoted: a release may be called `1` or `true`. */}}
{{- define "cedargate.selectorLabels" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- with $v.selectorLabels -}}
{{ toYaml . }}
{{- else -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/instance: {{ .Release.Name | trunc 63 | trimSuffix "-" | quote }}
{{- end -}}
{{- end -}}

{{/* Release of the gate whose image is used: the library's own version where an app's chart has another. */}}
{{- define "cedargate.image" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- $tag := $v.image.tag | default (include "cedargate.appVersion" .) -}}
{{- if $v.image.digest -}}
{{ printf "%s@%s" $v.image.repository $v.image.digest }}
{{- else -}}
{{ printf "%s:%s" $v.image.repository $tag }}
{{- end -}}
{{- end -}}

{{/* INVARIANT: equals appVersion in Chart.yaml and the version in Cargo.toml; a test compares them. */}}
{{- define "cedargate.appVersion" -}}0.1.0{{- end -}}
