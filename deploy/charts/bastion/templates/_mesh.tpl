{{/* Annotations of the pod template for Linkerd, and ports for the network policy. */}}

{{/* Ports of the control plane: identity, destination and policy. */}}
{{- define "bastion.meshControl" -}}
[8080, 8086, 8090]
{{- end -}}

{{/* Where proxies of Linkerd meet for what is opaque, instead of at the port of the server: to others, and to the bastion. */}}
{{- define "bastion.meshOut" -}}
{{- if and .Values.mesh.enabled (eq .Values.mesh.outbound "mesh") }}[4143]{{ else }}[]{{ end -}}
{{- end -}}
{{- define "bastion.meshIn" -}}
{{- if and .Values.mesh.enabled (eq .Values.mesh.sshPort "opaque") }}[4143]{{ else }}[]{{ end -}}
{{- end -}}

{{- define "bastion.meshAnnotations" -}}
{{- with .Values.mesh -}}
{{- if .enabled -}}
{{- $ssh := include "bastion.port" $.Values.config.listen -}}
linkerd.io/inject: enabled
{{- if eq .sshPort "opaque" }}
config.linkerd.io/opaque-ports: {{ $ssh | quote }}
{{- else }}
config.linkerd.io/skip-inbound-ports: {{ $ssh | quote }}
{{- end }}
{{- if eq .outbound "skip" }}
config.linkerd.io/skip-outbound-ports: "1-65535"
{{- else if .skipOutboundPorts }}
config.linkerd.io/skip-outbound-ports: {{ .skipOutboundPorts | quote }}
{{- end }}
{{- if kindIs "bool" .nativeSidecar }}
config.linkerd.io/proxy-enable-native-sidecar: {{ .nativeSidecar | quote }}
{{- /* Its name in Linkerd before. */}}
config.beta.linkerd.io/proxy-enable-native-sidecar: {{ .nativeSidecar | quote }}
{{- end }}
{{- $grace := sub (include "bastion.graceSeconds" $ | int64) 1 }}
config.linkerd.io/shutdown-grace-period: {{ .proxy.shutdownGracePeriod | default (printf "%ds" $grace) | quote }}
{{- range $kind, $amounts := .proxy.resources }}
{{- range $what, $amount := $amounts }}
config.linkerd.io/proxy-{{ $what }}-{{ trimSuffix "s" $kind }}: {{ $amount | quote }}
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}
{{- end -}}
