{{/* What the schema cannot say, each refused with a sentence. */}}
{{- define "tenant.validate" -}}
{{- $name := include "tenant.namespace" . -}}
{{- if or (hasPrefix "kube-" $name) (eq $name "default") -}}
{{- fail (printf "namespace.name: %s is of the cluster itself, and closing it would cut the cluster off. Say another name." $name) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$" $name) -}}
{{- fail (printf "namespace.name: %q is no name of a namespace. Say one; the release's is taken where there is none." $name) -}}
{{- end -}}
{{- range $place, $annotations := dict "namespace.annotations" .Values.namespace.annotations "commonAnnotations" .Values.commonAnnotations -}}
{{- if hasKey $annotations "linkerd.io/inject" -}}
{{- fail (printf "%s: say linkerd.io/inject under mesh.inject, so that policies let the proxies through." $place) -}}
{{- end -}}
{{- end -}}
{{- range $key, $_ := .Values.namespace.labels -}}
{{- if hasPrefix "pod-security.kubernetes.io/" $key -}}
{{- fail (printf "namespace.labels: say %s under namespace.podSecurity." $key) -}}
{{- end -}}
{{- if eq $key "kubernetes.io/metadata.name" -}}
{{- fail "namespace.labels: kubernetes.io/metadata.name is set by the API server, and policies go by it. Leave it out." -}}
{{- end -}}
{{- end -}}
{{- range .Values.dns.nodeLocal -}}
{{- if not (include "common.addressGroups" .) -}}
{{- fail (printf "dns.nodeLocal: %q is no address; write one such as 169.254.20.10, without a network's length." .) -}}
{{- end -}}
{{- end -}}
{{- $services := dict -}}
{{- range .Values.tunnels -}}
{{- if hasKey $services .service -}}
{{- fail (printf "tunnels: the service %s stands there twice. Put its ports and people together." .service) -}}
{{- end -}}
{{- $_ := set $services .service true -}}
{{- end -}}
{{- end -}}
