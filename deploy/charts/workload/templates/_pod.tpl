{{/* The template of a pod. */}}
{{- define "workload.podTemplate" -}}
{{- $delay := include "workload.delaySeconds" . | int64 -}}
metadata:
  labels:
    {{- /* No version: pods that are as they were are not replaced. */}}
    {{- $more := merge (dict) (include "common.words" (list "podLabels" .Values.podLabels) | fromYaml) (include "common.words" (list "commonLabels" .Values.commonLabels) | fromYaml) }}
    {{- merge (dict) (include "workload.selector" . | fromYaml) $more | toYaml | nindent 4 }}
  annotations:
    {{- $first := dict "kubectl.kubernetes.io/default-container" (first .Values.containers).name }}
    {{- $more := merge (dict) (include "common.words" (list "podAnnotations" .Values.podAnnotations) | fromYaml) (include "common.words" (list "commonAnnotations" .Values.commonAnnotations) | fromYaml) }}
    {{- merge (dict) (include "common.meshPodAnnotations" .Values.mesh | fromYaml) $more $first | toYaml | nindent 4 }}
spec:
  serviceAccountName: {{ include "workload.serviceAccountName" . | quote }}
  automountServiceAccountToken: {{ .Values.serviceAccount.automount }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "workload.graceSeconds" . }}
  {{- with .Values.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ quote . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- range . }}
    - {{ merge (dict) . (dict "labelSelector" (dict "matchLabels" (include "workload.selector" $ | fromYaml))) | toYaml | indent 6 | trim }}
    {{- end }}
  {{- end }}
  {{- with .Values.initContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    {{- range .Values.containers }}
    - {{ include "workload.container" (list $ . $delay) | indent 6 | trim }}
    {{- end }}
  {{- with .Values.volumes }}
  volumes:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* A container, from a list: the root, the container as it is said, for how many seconds it goes on after it is told to go. */}}
{{- define "workload.container" -}}
{{- $root := index . 0 -}}
{{- $delay := index . 2 -}}
{{- $container := omit (index . 1) "ports" "securityContext" -}}
{{- $security := default $root.Values.securityContext (index . 1).securityContext -}}
{{- if $security -}}
{{- $_ := set $container "securityContext" $security -}}
{{- end -}}
{{- with (index . 1).ports -}}
{{- $ports := list -}}
{{- range . -}}
{{- $ports = append $ports (merge (dict "name" .name "containerPort" .port) (pick . "protocol")) -}}
{{- end -}}
{{- $_ := set $container "ports" $ports -}}
{{- end -}}
{{- if and (gt $delay 0) (not (dig "lifecycle" "preStop" dict $container)) -}}
{{- $_ := set $container "lifecycle" (merge (dict "preStop" (dict "sleep" (dict "seconds" $delay))) (default dict $container.lifecycle)) -}}
{{- end -}}
{{- toYaml $container -}}
{{- end -}}
