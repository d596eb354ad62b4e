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
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
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

{{/* Where what a source's Secret holds is mounted. */}}
{{- define "rlscaler.sourceFolder" -}}
/etc/rlscaler/sources/{{ . }}
{{- end -}}

{{/* The operator's configuration file. What a source's Secret holds stands in it as the files that it is mounted as. */}}
{{- define "rlscaler.configuration" -}}
{{- $sources := dict -}}
{{- range $name, $given := .Values.sources -}}
  {{- $source := omit (deepCopy $given) "secret" -}}
  {{- with $given.secret -}}
    {{- $folder := include "rlscaler.sourceFolder" $name -}}
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
    {{- fail (printf "sources.%s: has a password and a bearer token; give one of them" $name) -}}
  {{- end -}}
  {{- with $source.basic -}}
    {{- if not (and .username .passwordFile) -}}
      {{- fail (printf "sources.%s.basic: needs a username, and a password: secret.password, or passwordFile" $name) -}}
    {{- end -}}
  {{- end -}}
  {{- if and $source.tls (hasPrefix "http://" $source.url) -}}
    {{- fail (printf "sources.%s.url: %s has no TLS; write https:// there, or leave ca, certificate, key and tls out" $name $source.url) -}}
  {{- end -}}
  {{- $_ := set $sources $name $source -}}
{{- end -}}
{{- dict "sources" $sources "targets" .Values.targets "history" .Values.history | toYaml -}}
{{- end -}}

{{/* Ports that the operator speaks to, as JSON: those of the API server and of the sources' URLs. */}}
{{- define "rlscaler.egressPorts" -}}
{{- $ports := .Values.networkPolicy.apiServerPorts -}}
{{- range .Values.sources -}}
  {{- $url := urlParse .url -}}
  {{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) -}}
  {{- $ports = append $ports (int (default (ternary 443 80 (eq $url.scheme "https")) $port)) -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}
