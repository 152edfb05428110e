{{/*
Sessions in Redis: the section `sessions` of the configuration, from `redis` of the values. Passwords and keys are files of
existing Secrets.
*/}}

{{- define "cedargate.redisConfig" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- $r := $v.redis -}}
{{- if $r.enabled -}}
{{- $redis := dict "key_prefix" ($r.keyPrefix | default (printf "cedargate:%s:" (include "cedargate.fullname" .))) -}}
{{- if $r.url -}}{{- $_ := set $redis "url" $r.url -}}{{- end -}}
{{- if $r.sentinel.urls -}}
{{- $_ := set $redis "sentinel" (dict "master" $r.sentinel.master "urls" $r.sentinel.urls "tls" $r.sentinel.tls) -}}
{{- end -}}
{{- if $r.cluster -}}{{- $_ := set $redis "cluster" $r.cluster -}}{{- end -}}
{{- if $r.username -}}{{- $_ := set $redis "username" $r.username -}}{{- end -}}
{{- if $r.passwordSecret.name -}}
{{- $_ := set $redis "password_file" (printf "/etc/cedargate/redis/%s" $r.passwordSecret.key) -}}
{{- end -}}
{{- $tls := dict -}}
{{- if $r.tls.caKey -}}{{- $_ := set $tls "ca" (printf "/etc/cedargate/redis-tls/%s" $r.tls.caKey) -}}{{- end -}}
{{- if $r.tls.certKey -}}
{{- $_ := set $tls "cert" (printf "/etc/cedargate/redis-tls/%s" $r.tls.certKey) -}}
{{- $_ := set $tls "key" (printf "/etc/cedargate/redis-tls/%s" $r.tls.keyKey) -}}
{{- end -}}
{{- if and $r.tls.secret $tls -}}{{- $_ := set $redis "tls" $tls -}}{{- end -}}
{{- toYaml (dict "store" "redis" "key_file" (printf "/etc/cedargate/session-keys/%s" $r.sessionKeySecret.key) "redis" $redis) -}}
{{- end -}}
{{- end -}}

{{- define "cedargate.checkRedis" -}}
{{- $v := .Values.cedargate | default .Values -}}
{{- $r := $v.redis -}}
{{- if $r.enabled -}}
{{- $ways := list -}}
{{- if $r.url -}}{{- $ways = append $ways "url" -}}{{- end -}}
{{- if $r.sentinel.urls -}}{{- $ways = append $ways "sentinel" -}}{{- end -}}
{{- if $r.cluster -}}{{- $ways = append $ways "cluster" -}}{{- end -}}
{{- if ne (len $ways) 1 -}}
{{- fail (printf "cedargate: redis: give exactly one of `url`, `sentinel.urls` and `cluster`; found: %s" (join ", " $ways | default "none")) -}}
{{- end -}}
{{- if not $r.sessionKeySecret.name -}}
{{- fail "cedargate: redis.sessionKeySecret.name: name a Secret with the session keys that all replicas share: `kubectl create secret generic cedargate-session-keys --from-literal=keys=$(openssl rand -base64 32)`" -}}
{{- end -}}
{{- if and $r.sentinel.urls (not $r.sentinel.master) -}}
{{- fail "cedargate: redis.sentinel.master: name the master that the Sentinels watch" -}}
{{- end -}}
{{- end -}}
{{- end -}}
