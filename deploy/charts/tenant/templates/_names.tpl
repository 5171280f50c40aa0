{{- define "tenant.namespace" -}}
{{- default .Release.Name .Values.namespace.name -}}
{{- end -}}

{{- define "tenant.selector" -}}
app.kubernetes.io/name: tenant
app.kubernetes.io/instance: {{ quote .Release.Name }}
{{- end -}}

{{/* The metadata of an object in the tenant's namespace, from a list: the root, its name. */}}
{{- define "tenant.metadata" -}}
{{- $root := index . 0 -}}
{{- $metadata := include "common.metadata" (list $root (index . 1) (include "tenant.selector" $root | fromYaml) dict) | fromYaml -}}
{{- set $metadata "namespace" (include "tenant.namespace" $root) | toYaml -}}
{{- end -}}

{{/* A duration as cert-manager writes it back: 2160h0m0s for 2160h. */}}
{{- define "tenant.duration" -}}
{{- $seconds := include "common.seconds" (list "certificate.shared" .) | int64 -}}
{{- printf "%dh%dm%ds" (div $seconds 3600) (div (mod $seconds 3600) 60) (mod $seconds 60) -}}
{{- end -}}
