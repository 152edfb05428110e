{{/*
What the objects of this chart share beside the library.
*/}}

{{- define "cedargate.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "cedargate.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{/* The app's container of `mode: sidecar`: as the values write it, with the probes and the end that the gate needs. */}}
{{- define "cedargate.appContainer" -}}
{{- $container := deepCopy .Values.workload.container -}}
{{- if not $container.image -}}
{{- fail "cedargate: mode `sidecar` needs the app: set workload.container.image (and args, env, ... as Kubernetes writes them)" -}}
{{- end -}}
{{- if not $container.name -}}{{- $_ := set $container "name" "app" -}}{{- end -}}
{{- if not $container.lifecycle -}}
{{- with include "cedargate.appLifecycle" . | fromYaml -}}{{- $_ := set $container "lifecycle" . -}}{{- end -}}
{{- end -}}
{{- range $key, $probe := include "cedargate.appProbes" . | fromYaml -}}
{{- if not (hasKey $container $key) -}}{{- $_ := set $container $key $probe -}}{{- end -}}
{{- end -}}
{{- if not $container.securityContext -}}
{{- $_ := set $container "securityContext" (dict
  "allowPrivilegeEscalation" false "runAsNonRoot" true "capabilities" (dict "drop" (list "ALL"))
  "seccompProfile" (dict "type" "RuntimeDefault")) -}}
{{- end -}}
{{- toYaml $container -}}
{{- end -}}

{{/* Ends the rendering of a release that could not work. */}}
{{- define "cedargate.checkMode" -}}
{{- $own := list "serviceAccountName" "automountServiceAccountToken" "enableServiceLinks" "terminationGracePeriodSeconds"
  "securityContext" "imagePullSecrets" "priorityClassName" "initContainers" "containers" "volumes"
  "topologySpreadConstraints" "nodeSelector" "affinity" "tolerations" -}}
{{- range $key, $_ := .Values.pod.spec -}}
{{- if has $key $own -}}
{{- fail (printf "cedargate: pod.spec.%s: the chart writes this itself; it has a value of its own" $key) -}}
{{- end -}}
{{- if has $key (list "hostNetwork" "hostPID" "hostIPC") -}}
{{- fail (printf "cedargate: pod.spec.%s: the gate keeps an app safe that listens on the pod's loopback; in the node's network every process of the node reaches it" $key) -}}
{{- end -}}
{{- end -}}
{{- $url := dig "upstream" "url" "" (.Values.config | default dict) -}}
{{- if and (eq .Values.mode "standalone") (not $url) (not .Values.existingConfigMap) -}}
{{- fail "cedargate: mode `standalone` needs the app's address: `--set config.upstream.url=http://app:3000`. `--set mode=sidecar` puts app and gate into one pod, `--set mode=shared` makes only what sidecars share" -}}
{{- end -}}
{{- end -}}
