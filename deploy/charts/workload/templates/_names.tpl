{{/* The release's name is the name of everything: others refer to the Service by it. */}}
{{- define "workload.fullname" -}}
{{- include "common.fit" (list (default .Release.Name .Values.fullnameOverride) 54) -}}
{{- end -}}

{{/* What the pods are selected by. Never changes in the life of a release: neither versions nor labels of the operator are in it. */}}
{{- define "workload.selector" -}}
app.kubernetes.io/name: {{ include "workload.fullname" . | quote }}
app.kubernetes.io/instance: {{ quote .Release.Name }}
{{- end -}}

{{/* The metadata of an object, from a list: the root, what comes behind its name, more annotations. */}}
{{- define "workload.metadata" -}}
{{- $root := index . 0 -}}
{{- include "common.metadata" (list $root (printf "%s%s" (include "workload.fullname" $root) (index . 1)) (include "workload.selector" $root | fromYaml) (index . 2)) -}}
{{- end -}}

{{- define "workload.serviceAccountName" -}}
{{- default (ternary (include "workload.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "workload.serviceName" -}}
{{- default (include "workload.fullname" .) .Values.service.name -}}
{{- end -}}

{{/* What a StatefulSet calls the Service of its members. It may not change, so that it does not follow service.name. */}}
{{- define "workload.membersName" -}}
{{- printf "%s-headless" (include "workload.fullname" .) -}}
{{- end -}}

{{/* Seconds that a pod may take to end. */}}
{{- define "workload.delaySeconds" -}}
{{- include "common.seconds" (list "shutdown.delay" .Values.shutdown.delay) -}}
{{- end -}}
{{- define "workload.graceSeconds" -}}
{{- add (include "workload.delaySeconds" . | int64) (include "common.seconds" (list "shutdown.timeout" .Values.shutdown.timeout) | int64) -}}
{{- end -}}

{{/* The ports of the Service as a list: those that containers declare, or that are said where there are none. */}}
{{- define "workload.servicePorts" -}}
{{- $ports := list -}}
{{- if eq .Values.controller.kind "none" -}}
{{- $ports = .Values.service.ports -}}
{{- else -}}
{{- range .Values.containers -}}
{{- range .ports -}}
{{- if ne (dig "service" true .) false -}}
{{- $port := dict "name" .name "port" (default .port .servicePort) "targetPort" .name -}}
{{- $ports = append $ports (merge $port (pick . "protocol" "appProtocol" "nodePort")) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $ports -}}
{{- end -}}
