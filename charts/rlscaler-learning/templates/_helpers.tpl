{{/* Name of everything that belongs to the release; KubeRay takes 47 characters with what follows it. */}}
{{- define "learning.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := default (ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name)) .Values.fullnameOverride -}}
{{- if not (regexMatch "^[a-z]" $full) -}}
{{- fail (printf "%s: KubeRay takes names that begin with a letter; choose another name for the release" $full) -}}
{{- end -}}
{{- $full | trunc 30 | trimSuffix "-" -}}
{{- end -}}

{{- define "learning.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "learning.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "learning.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "learning.image" -}}
{{- $image := printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- with .Values.image.digest }}{{ $image = printf "%s@%s" $image . }}{{ end -}}
{{- $image -}}
{{- end -}}

{{/* A word of a shell's command line. */}}
{{- define "learning.word" -}}
'{{ . | toString | replace "'" "'\"'\"'" }}'
{{- end -}}

{{/* The policy that a job makes: (list $ "train"). */}}
{{- define "learning.policy" -}}
{{- $policy := default (first .).Release.Name (index (first .).Values (last .)).policy -}}
{{- if has $policy (list "default" "learned" "static" "threshold" "hpa" "keda" "kpa" "phpa" "erlang" "growth-quantile" "tenure" "mpc" "lcp" "constant" "churn" "random") -}}
{{- fail (printf "%s.policy: %s is a built-in policy; give this one another name" (last .) $policy) -}}
{{- end -}}
{{- $policy -}}
{{- end -}}

{{/* The last step of a job: (dict "root" $ "policy" NAME "file" PATH), PATH as the shell reads it. */}}
{{- define "learning.publish" -}}
{{- with .root.Values.publish -}}
{{- if .enabled }}
rlscaler publish {{ $.file }} --name {{ include "learning.word" $.policy }}{{ if .anyScore }} --any-score{{ end }} \
{{- if .volume }}
  --folder /var/lib/rlscaler-policies
{{- else }}
  --configmap {{ include "learning.word" (printf "policy-%s" $.policy) }} --namespace {{ include "learning.word" (default $.root.Release.Namespace .namespace) }}
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Whether jobs write a ConfigMap, for which they have an account. */}}
{{- define "learning.writesConfigMap" -}}
{{- if and (or .Values.train.enabled .Values.sweep.enabled) .Values.publish.enabled (not .Values.publish.volume) -}}true{{- end -}}
{{- end -}}

{{/* What every pod has: (dict "root" $ "job" "train" "account" BOOLEAN). Only the pod that publishes has an account. */}}
{{- define "learning.podTemplate" -}}
metadata:
  labels:
    {{- include "learning.selectorLabels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .job }}
    {{- with .root.Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .root.Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- if .account }}
  serviceAccountName: {{ include "learning.fullname" .root }}
  automountServiceAccountToken: true
  {{- else }}
  automountServiceAccountToken: false
  {{- end }}
  enableServiceLinks: false
  {{- with .root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .root.Values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with .root.Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .root.Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .root.Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* What every container has: (dict "root" $ "resources" RESOURCES). */}}
{{- define "learning.container" -}}
image: {{ include "learning.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
resources:
  {{- toYaml .resources | nindent 2 }}
{{- with .root.Values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
A pod of Ray: (dict "root" $ "job" "train" "role" "head" "resources" RESOURCES "account" BOOLEAN "mounts" LIST "volumes" LIST).
KubeRay makes the command. The probes are those that it would make for this Ray, without a program that the image lacks.
*/}}
{{- define "learning.node" -}}
{{- include "learning.podTemplate" . }}
  containers:
    - name: ray-{{ .role }}
      {{- include "learning.container" . | nindent 6 }}
      {{- if or (eq .role "head") (eq .job "serve") }}
      ports:
        {{- if eq .role "head" }}
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        - {name: client, containerPort: 10001}
        {{- end }}
        {{- if eq .job "serve" }}
        - {name: serve, containerPort: 8000}
        {{- end }}
      {{- end }}
      livenessProbe:
        httpGet: {path: /api/local_raylet_healthz, port: 52365}
        initialDelaySeconds: 30
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 120
      readinessProbe:
        {{- if and (eq .job "serve") (eq .role "worker") }}
        httpGet: {path: /-/healthz, port: serve}
        {{- else }}
        httpGet: {path: /api/local_raylet_healthz, port: 52365}
        {{- end }}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 10
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- with .mounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    {{- with .volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* Groups of Ray's pods: (dict "root" $ "job" NAME "workers" N "resources" R "workerResources" R "account" B "mounts" L "volumes" L "headMounts" L "headVolumes" L). */}}
{{- define "learning.cluster" -}}
rayVersion: {{ .root.Values.ray.version | quote }}
enableInTreeAutoscaling: false
{{- if .root.Values.ray.token }}
authOptions: {mode: token}
{{- end }}
headGroupSpec:
  rayStartParams:
    dashboard-host: 0.0.0.0
    {{- if .workers }}
    num-cpus: "0" # what Ray runs goes to the workers
    {{- end }}
  template:
    {{- $head := dict "root" .root "job" .job "role" "head" "account" .account "resources" .resources }}
    {{- $_ := set $head "mounts" (concat .mounts .headMounts) }}
    {{- $_ := set $head "volumes" (concat .volumes .headVolumes) }}
    {{- include "learning.node" $head | nindent 4 }}
{{- if .workers }}
workerGroupSpecs:
  - groupName: workers
    replicas: {{ .workers }}
    minReplicas: {{ .workers }}
    maxReplicas: {{ .workers }}
    rayStartParams: {}
    template:
      {{- $worker := dict "root" .root "job" .job "role" "worker" "account" false "resources" .workerResources "mounts" .mounts "volumes" .volumes }}
      {{- include "learning.node" $worker | nindent 6 }}
{{- end }}
{{- end -}}

{{/* A RayJob's spec: as learning.cluster. */}}
{{- define "learning.job" -}}
entrypoint: sh /etc/rlscaler/run.sh
submissionMode: K8sJobMode
shutdownAfterJobFinishes: true
ttlSecondsAfterFinished: {{ int .root.Values.job.keepSeconds }}
activeDeadlineSeconds: {{ int .root.Values.job.deadlineSeconds }}
backoffLimit: {{ int .root.Values.job.retries }}
submitterPodTemplate:
  {{- $small := dict "requests" (dict "cpu" "200m" "memory" "512Mi") "limits" (dict "memory" "1Gi") }}
  {{- $submitter := dict "root" .root "job" (printf "%s-submitter" .job) "account" false "resources" $small }}
  {{- include "learning.podTemplate" $submitter | nindent 2 }}
    restartPolicy: Never
    containers:
      - name: ray-job-submitter
        {{- include "learning.container" $submitter | nindent 8 }}
        volumeMounts:
          - {name: tmp, mountPath: /tmp}
    volumes:
      - name: tmp
        emptyDir: {}
rayClusterSpec:
  {{- include "learning.cluster" . | nindent 2 }}
{{- end -}}

{{/*
A job with its files: (dict "root" $ "job" NAME "files" DICT). A changed spec is another RayJob, since KubeRay does not
look at changes: Helm takes the one before away, and the run on the volume goes on where its own settings are the same.
*/}}
{{- define "learning.rayJob" -}}
{{- $root := .root -}}
{{- $values := index $root.Values .job -}}
{{- $name := printf "%s-%s" (include "learning.fullname" $root) .job -}}
{{- $config := printf "%s-%s" $name (toYaml .files | sha256sum | trunc 8) -}}
{{- $mounts := list (dict "name" "work" "mountPath" "/var/lib/rlscaler") -}}
{{- $volumes := list (merge (dict "name" "work") (default (dict "emptyDir" dict) $root.Values.volume)) -}}
{{- $headMounts := list (dict "name" "job" "mountPath" "/etc/rlscaler" "readOnly" true) -}}
{{- $headVolumes := list (dict "name" "job" "configMap" (dict "name" $config)) -}}
{{- if and $root.Values.publish.enabled $root.Values.publish.volume -}}
  {{- $headMounts = append $headMounts (dict "name" "policies" "mountPath" "/var/lib/rlscaler-policies") -}}
  {{- $headVolumes = append $headVolumes (merge (dict "name" "policies") $root.Values.publish.volume) -}}
{{- end -}}
{{- $given := dict "root" $root "job" .job "workers" (int $values.workers) "account" (eq "true" (include "learning.writesConfigMap" $root)) -}}
{{- $_ := set $given "resources" $values.resources -}}
{{- $_ := set $given "workerResources" $values.workerResources -}}
{{- $_ := set $given "mounts" $mounts -}}
{{- $_ := set $given "volumes" $volumes -}}
{{- $_ := set $given "headMounts" $headMounts -}}
{{- $_ := set $given "headVolumes" $headVolumes -}}
{{- $spec := include "learning.job" $given -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $config }}
  namespace: {{ $root.Release.Namespace | quote }}
  labels:
    {{- include "learning.labels" $root | nindent 4 }}
data:
  {{- toYaml .files | nindent 2 }}
---
apiVersion: ray.io/v1
kind: RayJob
metadata:
  name: {{ printf "%s-%s" $name (sha256sum $spec | trunc 8) }}
  namespace: {{ $root.Release.Namespace | quote }}
  labels:
    {{- include "learning.labels" $root | nindent 4 }}
    {{- with $root.Values.job.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- $spec | nindent 2 }}
{{- end -}}
