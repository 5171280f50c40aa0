{{/* What every object says about itself. */}}

{{/* Labels that change with versions, and the operator's: what nothing may be selected by. */}}
{{- define "common.changingLabels" -}}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Chart.AppVersion }}
app.kubernetes.io/version: {{ quote . }}
{{- end }}
{{- with .Values.commonLabels }}
{{ include "common.words" (list "commonLabels" .) }}
{{- end }}
{{- end -}}

{{/* The metadata of an object, from a list: the root, its name, labels that it is selected by, more annotations. */}}
{{- define "common.metadata" -}}
{{- $root := index . 0 -}}
{{- $annotations := merge (dict) (index . 3) (include "common.words" (list "commonAnnotations" $root.Values.commonAnnotations) | fromYaml) -}}
name: {{ index . 1 }}
namespace: {{ quote $root.Release.Namespace }}
labels:
  {{- merge (dict) (index . 2) (include "common.changingLabels" $root | fromYaml) | toYaml | nindent 2 }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A name for an object, from a list: what it is made of, how long it may be. A hash stands for what does not fit. */}}
{{- define "common.fit" -}}
{{- $name := index . 0 -}}
{{- $length := index . 1 | int -}}
{{- if le (len $name) $length -}}
{{- $name -}}
{{- else -}}
{{- printf "%s-%s" ($name | trunc (int (sub $length 9)) | trimSuffix "-") ($name | sha256sum | trunc 8) -}}
{{- end -}}
{{- end -}}

{{/* The domain under which our own names stand: the API group, labels. The programs have it in one line too. */}}
{{- define "common.domain" -}}
tunnel-suite.internal
{{- end }}
