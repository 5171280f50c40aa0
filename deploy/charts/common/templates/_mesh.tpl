{{/* Annotations of Linkerd. Those of a pod stand on the pod template: on a Deployment they do nothing. */}}

{{/* Of a pod template, from the values `mesh`. */}}
{{- define "common.meshPodAnnotations" -}}
{{- with .inject }}
linkerd.io/inject: {{ . }}
{{- end }}
{{- with .opaquePorts }}
config.linkerd.io/opaque-ports: {{ join "," . | quote }}
{{- end }}
{{- with .skipInboundPorts }}
config.linkerd.io/skip-inbound-ports: {{ join "," . | quote }}
{{- end }}
{{- with .skipOutboundPorts }}
config.linkerd.io/skip-outbound-ports: {{ join "," . | quote }}
{{- end }}
{{- if kindIs "bool" .nativeSidecar }}
config.linkerd.io/proxy-enable-native-sidecar: {{ .nativeSidecar | quote }}
{{- if .legacyAnnotations }}
config.alpha.linkerd.io/proxy-enable-native-sidecar: {{ .nativeSidecar | quote }}
config.beta.linkerd.io/proxy-enable-native-sidecar: {{ .nativeSidecar | quote }}
{{- end }}
{{- end }}
{{- range $kind, $amounts := .proxy.resources }}
{{- range $what, $amount := $amounts }}
config.linkerd.io/proxy-{{ $what }}-{{ trimSuffix "s" $kind }}: {{ $amount | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Of a Service, from the values `mesh`. */}}
{{- define "common.meshServiceAnnotations" -}}
{{- with .opaquePorts }}
config.linkerd.io/opaque-ports: {{ join "," . | quote }}
{{- end }}
{{- with .circuitBreaking }}
{{- if .enabled }}
balancer.linkerd.io/failure-accrual: consecutive
balancer.linkerd.io/failure-accrual-consecutive-max-failures: {{ .maxFailures | int | quote }}
balancer.linkerd.io/failure-accrual-consecutive-min-penalty: {{ .minPenalty | quote }}
balancer.linkerd.io/failure-accrual-consecutive-max-penalty: {{ .maxPenalty | quote }}
balancer.linkerd.io/failure-accrual-consecutive-jitter-ratio: {{ .jitterRatio | quote }}
{{- end }}
{{- end }}
{{- end -}}
