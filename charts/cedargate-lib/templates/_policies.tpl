{{/*
Policies and schemas: where they come from, and how they become the tree below /etc/cedargate.

Three kinds of volume. `cedargate-config` is one projected volume with cedargate.yaml and every file that the values name
by its path (`policies.files`, `policies.configMaps[].items`): kubelet swaps all of them at once. A ConfigMap with a
`folder` gets a volume for that folder, so that a new key becomes a new file without new pods. `cedargate-policies` is the
volume of `policies.volume` and `policies.gitSync`. No mount has a subPath: kubelet would never update it.
*/}}

{{/* The kind of source: `files`, `volume`, `gitSync` or `config.policies.bundle`. */}}
{{- define "cedargate.policySource" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- $p := $v.policies -}}
{{- $sources := list -}}
{{- if or $p.files $p.configMaps -}}{{- $sources = append $sources "files" -}}{{- end -}}
{{- if $p.volume -}}{{- $sources = append $sources "volume" -}}{{- end -}}
{{- if $p.gitSync.repo -}}{{- $sources = append $sources "gitSync" -}}{{- end -}}
{{- if dig "policies" "bundle" false ($v.config | default dict) -}}{{- $sources = append $sources "config.policies.bundle" -}}{{- end -}}
{{- if gt (len $sources) 1 -}}
{{- fail (printf "cedargate: policies come from one kind of source, but the values name %s; `files` and `configMaps` are one kind" (join ", " $sources)) -}}
{{- end -}}
{{- first $sources | default "files" -}}
{{- end -}}

{{/* The section `policies` of the configuration. */}}
{{- define "cedargate.policiesConfig" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- $p := $v.policies -}}
{{- $source := include "cedargate.policySource" . -}}
{{- $c := dict -}}
{{- if eq $source "files" -}}
{{- $_ := set $c "dir" "/etc/cedargate/policies" -}}
{{- $_ := set $c "schemas" "/etc/cedargate/schemas" -}}
{{- else if ne $source "config.policies.bundle" -}}
{{- $path := ternary $p.gitSync.path $p.volumePath (eq $source "gitSync") | trimAll "/" -}}
{{- $root := ternary "/var/lib/cedargate-policies/current" "/var/lib/cedargate-policies" (eq $source "gitSync") -}}
{{- $root = ternary (printf "%s/%s" $root $path) $root (ne $path "") -}}
{{- $_ := set $c "dir" (printf "%s/policies" $root) -}}
{{- $_ := set $c "schemas" (printf "%s/schemas" $root) -}}
{{- end -}}
{{- if $v.state.enabled -}}
{{- $_ := set $c "state_dir" "/var/lib/cedargate" -}}
{{- end -}}
{{- with include "cedargate.portals" . | fromYamlArray -}}
{{- $_ := set $c "require" . -}}
{{- end -}}
{{- toYaml $c -}}
{{- end -}}

{{/*
Slugs of the portals that a pod waits for, as a YAML list: those of `config.portals`. Without that key every folder is a
portal, so they are those of the policies' paths.
*/}}
{{- define "cedargate.portals" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- $slugs := keys (($v.config | default dict).portals | default dict) -}}
{{- if not $slugs -}}
{{- $paths := keys ($v.policies.files | default dict) -}}
{{- range $v.policies.configMaps -}}
{{- if .folder -}}{{- $paths = append $paths (printf "%s/" .folder) -}}{{- end -}}
{{- $paths = concat $paths (values (.items | default dict)) -}}
{{- end -}}
{{- range $paths -}}
{{- $slug := regexReplaceAll "^policies/([a-z0-9_-]+)/.*$" . "${1}" -}}
{{- if and (ne $slug .) (ne $slug "_shared") -}}{{- $slugs = append $slugs $slug -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml ($slugs | uniq | sortAlpha) -}}
{{- end -}}

{{/* Key of a file in a ConfigMap of the chart: the path with `.` for `/`, because a key holds no `/`. */}}
{{- define "cedargate.key" -}}
{{- . | replace "/" "." -}}
{{- end -}}

{{/*
Divides `policies.files` into ConfigMaps: YAML list of lists of paths. Kubernetes takes 1 MiB for one ConfigMap; the chart puts
at most 900,000 bytes into one.
*/}}
{{- define "cedargate.fileGroups" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- $state := dict "groups" list "group" list "bytes" 0 -}}
{{- range $path := keys ($v.policies.files | default dict) | sortAlpha -}}
{{- $bytes := add (len (toString (get $v.policies.files $path))) (len $path) -}}
{{- if gt (int $bytes) 900000 -}}
{{- fail (printf "cedargate: policies.files: `%s` has %d bytes; a ConfigMap holds 900000: divide the file, or use config.policies.bundle" $path (int $bytes)) -}}
{{- end -}}
{{- if gt (add $state.bytes $bytes | int) 900000 -}}
{{- $_ := set $state "groups" (append $state.groups $state.group) -}}
{{- $_ := set $state "group" list -}}
{{- $_ := set $state "bytes" 0 -}}
{{- end -}}
{{- $_ := set $state "group" (append $state.group $path) -}}
{{- $_ := set $state "bytes" (add $state.bytes $bytes) -}}
{{- end -}}
{{- if $state.group -}}{{- $_ := set $state "groups" (append $state.groups $state.group) -}}{{- end -}}
{{- toYaml $state.groups -}}
{{- end -}}

{{- define "cedargate.policyConfigMapName" -}}
{{- printf "%s-policies-%d" (include "cedargate.fullname" .root) (int .index) -}}
{{- end -}}

{{/* The ConfigMaps of `policies.files`. */}}
{{- define "cedargate.policyConfigMaps" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- $root := . -}}
{{- range $index, $paths := include "cedargate.fileGroups" . | fromYamlArray }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "cedargate.policyConfigMapName" (dict "root" $root "index" $index) }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "cedargate.labels" $root | nindent 4 }}
data:
  {{- range $path := $paths }}
  {{- dict (include "cedargate.key" $path) (get $v.policies.files $path | toString) | toYaml | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Sources of the projected volume `cedargate-config` for files that the values name by their paths. */}}
{{- define "cedargate.itemSources" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- $root := . -}}
{{- range $index, $paths := include "cedargate.fileGroups" . | fromYamlArray }}
- configMap:
    name: {{ include "cedargate.policyConfigMapName" (dict "root" $root "index" $index) }}
    items:
      {{- range $path := $paths }}
      - { key: {{ include "cedargate.key" $path | quote }}, path: {{ $path | quote }} }
      {{- end }}
{{- end }}
{{- range $v.policies.configMaps }}
{{- if .items }}
- configMap:
    name: {{ .name }}
    {{- if .optional }}
    optional: true
    {{- end }}
    items:
      {{- range $key, $path := .items }}
      - { key: {{ $key | quote }}, path: {{ $path | quote }} }
      {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Folders that have a volume of their own, as a YAML list of `{folder, volume}` in the order of their paths. */}}
{{- define "cedargate.folders" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- $folders := list -}}
{{- range $v.policies.configMaps -}}
{{- if .folder -}}{{- $folders = append $folders .folder -}}{{- end -}}
{{- end -}}
{{- $named := dict -}}
{{- $list := list -}}
{{- range $index, $folder := $folders | uniq | sortAlpha -}}
{{- $name := printf "cedargate-%s" (regexReplaceAll "[^a-z0-9-]+" $folder "-") | replace "--" "-" | trunc 58 | trimSuffix "-" -}}
{{- if hasKey $named $name -}}{{- $name = printf "%s-%d" $name $index -}}{{- end -}}
{{- $_ := set $named $name true -}}
{{- $list = append $list (dict "folder" $folder "volume" $name) -}}
{{- end -}}
{{- toYaml $list -}}
{{- end -}}

{{- define "cedargate.policyMounts" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- $source := include "cedargate.policySource" . -}}
{{- range include "cedargate.folders" . | fromYamlArray }}
- name: {{ .volume }}
  mountPath: /etc/cedargate/{{ .folder }}
  readOnly: true
{{- end }}
{{- if has $source (list "volume" "gitSync") }}
- name: cedargate-policies
  mountPath: /var/lib/cedargate-policies
  readOnly: true
{{- end }}
{{- end -}}

{{- define "cedargate.policyVolumes" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- $source := include "cedargate.policySource" . -}}
{{- range $entry := include "cedargate.folders" . | fromYamlArray }}
- name: {{ $entry.volume }}
  projected:
    defaultMode: 292
    sources:
      {{- range $v.policies.configMaps }}
      {{- if eq (.folder | default "") $entry.folder }}
      - configMap:
          name: {{ .name }}
          {{- if .optional }}
          optional: true
          {{- end }}
      {{- end }}
      {{- end }}
{{- end }}
{{- if eq $source "volume" }}
- name: cedargate-policies
  {{- toYaml $v.policies.volume | nindent 2 }}
{{- else if eq $source "gitSync" }}
- name: cedargate-policies
  emptyDir: { sizeLimit: {{ $v.policies.gitSync.sizeLimit }} }
- name: cedargate-git-tmp
  emptyDir: { sizeLimit: 64Mi }
{{- with $v.policies.gitSync.sshSecret | default $v.policies.gitSync.tokenSecret }}
- name: cedargate-git-secret
  secret: { secretName: {{ . }}, defaultMode: 292 }
{{- end }}
{{- end }}
{{- end -}}

{{/* Ends the rendering where a path leads out of the tree, two files share a path or a key, or folders and paths mix. */}}
{{- define "cedargate.checkPolicies" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- if and (eq (include "cedargate.policySource" .) "config.policies.bundle") (not $v.state.enabled) -}}
{{- fail "cedargate: config.policies.bundle needs the folder of the last good bundle; set state.enabled" -}}
{{- end -}}
{{- $keys := dict -}}
{{- $paths := dict -}}
{{- range $path, $_ := ($v.policies.files | default dict) -}}
{{- $key := include "cedargate.key" $path -}}
{{- if hasKey $keys $key -}}
{{- fail (printf "cedargate: policies.files: `%s` and `%s` would get the same key `%s` in a ConfigMap; rename one of them" (get $keys $key) $path $key) -}}
{{- end -}}
{{- $_ := set $keys $key $path -}}
{{- $_ := set $paths $path "policies.files" -}}
{{- end -}}
{{- range $v.policies.configMaps -}}
{{- $name := .name -}}
{{- range $key, $path := (.items | default dict) -}}
{{- if hasKey $paths $path -}}
{{- fail (printf "cedargate: policies: two sources give the file `%s`: %s and ConfigMap `%s`" $path (get $paths $path) $name) -}}
{{- end -}}
{{- $_ := set $paths $path (printf "ConfigMap `%s`" $name) -}}
{{- end -}}
{{- end -}}
{{- range $path, $source := $paths -}}
{{- if or (not (regexMatch "^(policies|schemas)/[A-Za-z0-9._/-]+$" $path)) (regexMatch "(^|/)\\.\\.?(/|$)|//|/$" $path) -}}
{{- fail (printf "cedargate: policies: the path `%s` (%s) must be `policies/...` or `schemas/...`, of letters, digits, `.`, `_`, `-`" $path $source) -}}
{{- end -}}
{{- end -}}
{{- $tops := dict -}}
{{- range $path, $source := $paths -}}
{{- $_ := set $tops (first (splitList "/" $path)) (printf "%s, %s" $path $source) -}}
{{- end -}}
{{- range $v.policies.configMaps -}}
{{- if and .folder .items -}}
{{- fail (printf "cedargate: policies.configMaps: `%s` has `folder` and `items`; give one of them" .name) -}}
{{- end -}}
{{- if not (or .folder .items) -}}
{{- fail (printf "cedargate: policies.configMaps: `%s` needs `folder` (all its keys become files there, such as `policies/customer`) or `items` (key: path)" .name) -}}
{{- end -}}
{{- if .folder -}}
{{- if not (regexMatch "^(schemas|policies/[a-z0-9_-]+(/[A-Za-z0-9_-]+){0,2})$" .folder) -}}
{{- fail (printf "cedargate: policies.configMaps: `%s`: `%s` is no folder of the policy tree; write `policies/<portal>`, `policies/<portal>/tests`, `policies/_shared` or `schemas`" .name .folder) -}}
{{- end -}}
{{- $top := first (splitList "/" .folder) -}}
{{- if hasKey $tops $top -}}
{{- fail (printf "cedargate: policies.configMaps: `%s` is a folder below `%s/`, where other files are named by path (%s); below one of `policies/` and `schemas/`, name all by folder or all by path" .name $top (get $tops $top)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
git-sync: an init container clones once, so that the gate finds policies at its start; a second container follows the branch.
It swaps a symlink, so the gate sees a whole commit or the one before.
*/}}
{{- define "cedargate.gitSync" -}}
{{- $g := .git -}}
image: {{ $g.image | quote }}
imagePullPolicy: IfNotPresent
args:
  - --repo={{ $g.repo }}
  - --ref={{ $g.ref }}
  - --root=/git
  - --link=current
  - --period={{ $g.period }}
  - --depth=1
  {{- if .once }}
  - --one-time
  {{- end }}
  {{- if $g.sshSecret }}
  - --ssh-key-file=/etc/git-secret/ssh-privatekey
  - --ssh-known-hosts-file=/etc/git-secret/known_hosts
  {{- end }}
  {{- if $g.tokenSecret }}
  - --username={{ $g.username }}
  - --password-file=/etc/git-secret/token
  {{- end }}
  {{- with $g.extraArgs }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
env:
  {{- /* git writes its settings here; the root file system is read-only */}}
  - { name: HOME, value: /tmp }
securityContext:
  {{- toYaml $g.securityContext | nindent 2 }}
resources:
  {{- toYaml $g.resources | nindent 2 }}
volumeMounts:
  - { name: cedargate-policies, mountPath: /git }
  - { name: cedargate-git-tmp, mountPath: /tmp }
  {{- if or $g.sshSecret $g.tokenSecret }}
  - { name: cedargate-git-secret, mountPath: /etc/git-secret, readOnly: true }
  {{- end }}
{{- end -}}

{{- define "cedargate.gitSyncInit" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- if eq (include "cedargate.policySource" .) "gitSync" -}}
- name: cedargate-git-clone
  {{- include "cedargate.gitSync" (dict "git" $v.policies.gitSync "once" true) | nindent 2 }}
{{ if $v.native -}}
- name: cedargate-git-sync
  restartPolicy: Always
  {{- include "cedargate.gitSync" (dict "git" $v.policies.gitSync "once" false) | nindent 2 }}
{{ end -}}
{{- end -}}
{{- end -}}

{{- define "cedargate.gitSyncContainer" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- if and (not $v.native) (eq (include "cedargate.policySource" .) "gitSync") -}}
- name: cedargate-git-sync
  {{- include "cedargate.gitSync" (dict "git" $v.policies.gitSync "once" false) | nindent 2 }}
{{ end -}}
{{- end -}}
