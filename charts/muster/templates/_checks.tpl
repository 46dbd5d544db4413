{{/* Checks beyond the schema: values that are valid alone but conflict. */}}
{{- define "muster.check" -}}
{{- $v := .Values }}
{{- range $name, $from := dict "auth.jwtSecret" $v.auth.jwtSecret "auth.jwtPublicKey" $v.auth.jwtPublicKey "auth.internalToken" $v.auth.internalToken "push.webhookSecret" $v.push.webhookSecret }}
{{- if and $from.value $from.existingSecret }}
{{- fail (printf "%s: give either value or existingSecret, not both" $name) }}
{{- end }}
{{- end }}
{{- range $name, $from := dict "redis" $v.redis "database" $v.database }}
{{- if and $from.url $from.existingSecret }}
{{- fail (printf "%s: give either url or existingSecret, not both" $name) }}
{{- end }}
{{- end }}
{{- $redis := include "muster.hasRedis" . }}
{{- $keys := 0 }}
{{- range list $v.auth.jwtSecret $v.auth.jwtPublicKey }}
{{- if or .value .existingSecret }}{{ $keys = add1 $keys }}{{ end }}
{{- end }}
{{- if $v.auth.jwksUrl }}{{ $keys = add1 $keys }}{{ end }}
{{- if gt (int $keys) 1 }}
{{- fail "auth: give only one of jwtSecret, jwtPublicKey and jwksUrl" }}
{{- end }}
{{- if and $redis (eq (int $keys) 0) }}
{{- fail "auth: with redis, give one of jwtSecret, jwtPublicKey and jwksUrl: the nodes of a cluster must accept the same tokens" }}
{{- end }}
{{- if and $redis (not (or $v.auth.internalToken.value $v.auth.internalToken.existingSecret)) }}
{{- fail "auth.internalToken: with redis, give value or existingSecret: nodes authenticate to each other with it" }}
{{- end }}
{{- $nodes := include "muster.nodesMax" . | int }}
{{- $many := $v.autoscaling.enabled | ternary "autoscaling.maxReplicas" "replicaCount" }}
{{- if and (gt $nodes 1) (not $redis) }}
{{- fail (printf "%s: %d nodes need redis.url or redis.existingSecret, or they would not know each other" $many $nodes) }}
{{- end }}
{{- if and (gt $nodes 1) (not (include "muster.hasPostgres" .)) }}
{{- fail (printf "%s: %d nodes need database.url or database.existingSecret, or each would have its own records" $many $nodes) }}
{{- end }}
{{- if and $v.autoscaling.enabled (gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) }}
{{- fail "autoscaling: minReplicas is above maxReplicas" }}
{{- end }}
{{- if and $v.autoscaling.enabled (not (or $v.autoscaling.targetCPUUtilizationPercentage $v.autoscaling.targetMemoryUtilizationPercentage $v.autoscaling.targetConnections)) }}
{{- fail "autoscaling: give at least one target" }}
{{- end }}
{{- if and $v.podDisruptionBudget.enabled (eq (kindIs "invalid" $v.podDisruptionBudget.maxUnavailable) (kindIs "invalid" $v.podDisruptionBudget.minAvailable)) }}
{{- fail "podDisruptionBudget: give exactly one of maxUnavailable and minAvailable; the other is null" }}
{{- end }}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) }}
{{- fail "ingress.hosts: give at least one" }}
{{- end }}
{{- if eq (int $v.ports.public) (int $v.ports.internal) }}
{{- fail "ports: public and internal are the same" }}
{{- end }}
{{- range $v.extraEnv }}
{{- if has .name (list "LISTEN" "PORT" "INTERNAL_LISTEN" "DRAIN" "ADVERTISE_URL" "JWT_SECRET" "INTERNAL_TOKEN" "REDIS_URL" "DATABASE_URL") }}
{{- fail (printf "extraEnv: %s has its own value in this chart" .name) }}
{{- end }}
{{- end }}
{{- $mounts := $v.settings.MOUNTS | default "" }}
{{- /* Only relay is known to keep no records; the node itself knows of every app whether it does. */}}
{{- $keeps := not (regexMatch "^relay=[^,]*$" $mounts) }}
{{- if and $redis $keeps (not (include "muster.hasPostgres" .)) (ne (toString ($v.settings.SQLITE_WITH_REDIS | default "false")) "true") }}
{{- fail "redis: give database.url or database.existingSecret, too, or other nodes would not see a node's records; settings.SQLITE_WITH_REDIS: \"true\" permits SQLite for one node beside Node.js servers" }}
{{- end }}
{{- end }}
