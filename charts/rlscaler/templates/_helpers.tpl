{{/* Name of everything that belongs to the release. */}}
{{- define "rlscaler.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "rlscaler.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "rlscaler.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "rlscaler.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "rlscaler.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "rlscaler.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name: name the account that exists, since serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "rlscaler.image" -}}
{{- $image := printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- with .Values.image.digest }}{{ $image = printf "%s@%s" $image . }}{{ end -}}
{{- $image -}}
{{- end -}}

{{/* Where what the Secret of a source or of a server holds is mounted: (list "sources" name). */}}
{{- define "rlscaler.secretFolder" -}}
/etc/rlscaler/{{ first . }}/{{ last . }}
{{- end -}}

{{/*
Nothing, or a failure where a duration is not one that the operator takes: (list "history" "168h" "1h" 3600000.0 "744h"
2678400000.0), the bounds in words and in milliseconds. A schema could not tell 1m90s from 90s.
*/}}
{{- define "rlscaler.requireDuration" -}}
{{- $sum := 0.0 -}}
{{- range regexFindAll "[0-9.]+(ms|h|m|s)" (index . 1) -1 -}}
  {{- $unit := regexFind "[a-z]+$" . -}}
  {{- $size := get (dict "ms" 1.0 "s" 1000.0 "m" 60000.0 "h" 3600000.0) $unit -}}
  {{- $sum = addf $sum (mulf (float64 (trimSuffix $unit .)) $size) -}}
{{- end -}}
{{- if or (lt $sum (index . 3)) (gt $sum (index . 5)) -}}
  {{- fail (printf "%s: %s is not from %s to %s" (index . 0) (index . 1) (index . 2) (index . 4)) -}}
{{- end -}}
{{- end -}}

{{/*
Sources or servers as the operator reads them, of (list "sources" .Values.sources). What a Secret holds stands there as the
files that it is mounted as.
*/}}
{{- define "rlscaler.withSecrets" -}}
{{- $field := first . -}}
{{- $found := dict -}}
{{- range $name, $given := last . -}}
  {{- $source := omit (deepCopy $given) "secret" -}}
  {{- with $given.secret -}}
    {{- $folder := include "rlscaler.secretFolder" (list $field $name) -}}
    {{- $tls := default dict $source.tls -}}
    {{- range $field, $file := dict "ca" "caFile" "certificate" "certFile" "key" "keyFile" -}}
      {{- with index $given.secret $field -}}{{- $_ := set $tls $file (printf "%s/%s" $folder .) -}}{{- end -}}
    {{- end -}}
    {{- if $tls -}}{{- $_ := set $source "tls" $tls -}}{{- end -}}
    {{- with .bearerToken -}}{{- $_ := set $source "bearerTokenFile" (printf "%s/%s" $folder .) -}}{{- end -}}
    {{- with .password -}}
      {{- $_ := set $source "basic" (merge (dict "passwordFile" (printf "%s/%s" $folder .)) (default dict $source.basic)) -}}
    {{- end -}}
    {{- $files := default dict $source.headerFiles -}}
    {{- range $header, $key := default dict .headers -}}
      {{- $_ := set $files $header (printf "%s/%s" $folder $key) -}}
    {{- end -}}
    {{- if $files -}}{{- $_ := set $source "headerFiles" $files -}}{{- end -}}
  {{- end -}}
  {{- if and $source.basic $source.bearerTokenFile -}}
    {{- fail (printf "%s.%s: has a password and a bearer token; give one of them" $field $name) -}}
  {{- end -}}
  {{- with $source.basic -}}
    {{- if not (and .username .passwordFile) -}}
      {{- fail (printf "%s.%s.basic: needs a username, and a password: secret.password, or passwordFile" $field $name) -}}
    {{- end -}}
  {{- end -}}
  {{- if and $source.tls (hasPrefix "http://" $source.url) -}}
    {{- fail (printf "%s.%s.url: %s has no TLS; write https:// there, or leave ca, certificate, key and tls out" $field $name $source.url) -}}
  {{- end -}}
  {{- with $source.timeout -}}
    {{- $bounds := ternary (list "20ms" 20.0 "5s" 5000.0) (list "100ms" 100.0 "2m" 120000.0) (eq $field "servers") -}}
    {{- include "rlscaler.requireDuration" (concat (list (printf "%s.%s.timeout" $field $name) .) $bounds) -}}
  {{- end -}}
  {{- $_ := set $found $name $source -}}
{{- end -}}
{{- $found | toYaml -}}
{{- end -}}

{{/* The operator's configuration file. */}}
{{- define "rlscaler.configuration" -}}
{{- include "rlscaler.requireDuration" (list "history" .Values.history "1h" 3600000.0 "744h" 2678400000.0) -}}
sources:
  {{- include "rlscaler.withSecrets" (list "sources" .Values.sources) | nindent 2 }}
{{- with .Values.servers }}
servers:
  {{- include "rlscaler.withSecrets" (list "servers" .) | nindent 2 }}
{{- end }}
{{ dict "targets" .Values.targets "history" .Values.history | toYaml }}
{{- end -}}

{{/* Ports that the operator speaks to, as JSON: those of the API server, and of the sources' and the servers' URLs. */}}
{{- define "rlscaler.egressPorts" -}}
{{- $ports := .Values.networkPolicy.apiServerPorts -}}
{{- range concat (values .Values.sources) (values .Values.servers) -}}
  {{- $url := urlParse .url -}}
  {{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) -}}
  {{- $ports = append $ports (int (default (ternary 443 80 (eq $url.scheme "https")) $port)) -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}
