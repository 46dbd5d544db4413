{{/* The name in labels. */}}
{{- define "muster.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The name of objects: short enough for the longest suffix, "-dashboard". */}}
{{- define "muster.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $full := .Values.fullnameOverride }}
{{- if not $full }}
{{- $full = contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- end }}
{{- $full | trunc 52 | trimSuffix "-" }}
{{- end }}

{{/* Labels of all pods of the release, including the test's. */}}
{{- define "muster.releaseLabels" -}}
app.kubernetes.io/name: {{ include "muster.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels that select the nodes' pods. Never change them: a Deployment's selector is immutable. */}}
{{- define "muster.selectorLabels" -}}
{{ include "muster.releaseLabels" . }}
app.kubernetes.io/component: gateway
{{- end }}

{{- define "muster.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: muster
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Metadata of an object: dict "root" $ "suffix" "-internal" "component" "internal" "labels" {…} "annotations" {…}. */}}
{{- define "muster.metadata" -}}
{{- $labels := include "muster.labels" .root | fromYaml }}
{{- $own := include "muster.releaseLabels" .root | fromYaml }}
{{- $_ := set $own "app.kubernetes.io/component" (.component | default "gateway") -}}
name: {{ include "muster.fullname" .root }}{{ .suffix }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- merge $own $labels (deepCopy (.labels | default dict)) | toYaml | nindent 2 }}
{{- with merge (deepCopy (.annotations | default dict)) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "muster.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "muster.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "muster.fullname" .) }}
{{- else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{/* A duration setting in whole seconds, rounded up. */}}
{{- define "muster.seconds" -}}
{{- $number := regexFind "^[0-9]+" . | int64 }}
{{- $unit := regexFind "[a-z]*$" . }}
{{- if eq $unit "h" }}{{ mul $number 3600 }}
{{- else if eq $unit "m" }}{{ mul $number 60 }}
{{- else if eq $unit "s" }}{{ $number }}
{{- else }}{{ div (add $number 999) 1000 }}{{ end }}
{{- end }}

{{- define "muster.graceSeconds" -}}
{{- add (include "muster.seconds" .Values.drain.duration) .Values.drain.preStopSeconds .Values.drain.marginSeconds }}
{{- end }}

{{/* "true" or empty. */}}
{{- define "muster.hasRedis" -}}
{{- if or .Values.redis.url .Values.redis.existingSecret }}true{{ end }}
{{- end }}
{{- define "muster.hasPostgres" -}}
{{- if or .Values.database.url .Values.database.existingSecret }}true{{ end }}
{{- end }}

{{/* The maximum number of nodes. */}}
{{- define "muster.nodesMax" -}}
{{- if .Values.autoscaling.enabled }}{{ .Values.autoscaling.maxReplicas }}{{ else }}{{ .Values.replicaCount }}{{ end }}
{{- end }}

{{/* The source of a secret: dict "root" $ "from" {existingSecret, existingSecretKey} "key" "JWT_SECRET". */}}
{{- define "muster.secretKeyRef" -}}
{{- if .from.existingSecret -}}
name: {{ .from.existingSecret }}
key: {{ .from.existingSecretKey }}
{{- else -}}
name: {{ include "muster.fullname" .root }}
key: {{ .key }}
{{- end }}
{{- end }}

{{/* A variable from a secret. */}}
{{- define "muster.secretEnv" -}}
- name: {{ .key }}
  valueFrom:
    secretKeyRef:
      {{- include "muster.secretKeyRef" . | nindent 6 }}
{{- end }}

{{/* Settings of tokens. The nodes and the release's test need them: the test signs its own token. */}}
{{- define "muster.tokenEnv" -}}
{{- if or .Values.auth.jwtSecret.value .Values.auth.jwtSecret.existingSecret }}
{{ include "muster.secretEnv" (dict "root" . "from" .Values.auth.jwtSecret "key" "JWT_SECRET") }}
{{- end }}
{{- with .Values.auth.issuer }}
- name: JWT_ISSUER
  value: {{ . | quote }}
{{- end }}
{{- with .Values.auth.audience }}
- name: JWT_AUDIENCE
  value: {{ . | quote }}
{{- end }}
{{- with .Values.auth.userClaim }}
- name: JWT_USER_CLAIM
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{/* Where each secret comes from, as JSON without any value. A secret that is given as a value can have changed with every
     release, so the revision is a part then. */}}
{{- define "muster.secretsOrigin" -}}
{{- $auth := .Values.auth }}
{{- $origin := dict "version" (.Values.secretsVersion | toString) }}
{{- range $name, $from := dict "jwtSecret" $auth.jwtSecret "jwtPublicKey" $auth.jwtPublicKey "internalToken" $auth.internalToken "webhookSecret" .Values.push.webhookSecret "redis" .Values.redis "database" .Values.database }}
{{- if $from.existingSecret }}
{{- $_ := set $origin $name (printf "%s/%s" $from.existingSecret $from.existingSecretKey) }}
{{- else if or $from.value $from.url }}
{{- $_ := set $origin $name "value" }}
{{- $_ := set $origin "revision" ($.Release.Revision | toString) }}
{{- end }}
{{- end }}
{{- $origin | toJson }}
{{- end }}

{{/* The internal token that the chart generates: an earlier release's, otherwise a new one. */}}
{{- define "muster.madeInternalToken" -}}
{{- $earlier := (lookup "v1" "Secret" .Release.Namespace (include "muster.fullname" .)).data | default dict }}
{{- if $earlier.INTERNAL_TOKEN }}{{ $earlier.INTERNAL_TOKEN | b64dec }}{{ else }}{{ randAlphaNum 40 }}{{ end }}
{{- end }}
