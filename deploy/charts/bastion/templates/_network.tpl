{{/* Peers and ports of the two flavours of network policy. */}}

{{/* Which of them: the one that is said, or with `auto` the one that the cluster has. */}}
{{- define "bastion.policyFlavour" -}}
{{- $there := ternary "cilium" "kubernetes" (.Capabilities.APIVersions.Has "cilium.io/v2/CiliumNetworkPolicy") -}}
{{- ternary $there .Values.networkPolicy.flavour (eq .Values.networkPolicy.flavour "auto") -}}
{{- end -}}

{{/* `ports:` of a NetworkPolicy's rule, from a list of numbers. Without it all are open. */}}
{{- define "bastion.ports" -}}
ports:
  {{- range . }}
  - {port: {{ . }}, protocol: TCP}
  {{- end }}
{{- end -}}

{{/* The pods of a namespace, from {namespace, podLabels}; "*" is every namespace. */}}
{{- define "bastion.pods" -}}
{{- if eq .namespace "*" -}}
namespaceSelector: {}
{{- else -}}
namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ quote .namespace }}}}
{{- end }}
{{- with .podLabels }}
podSelector: {matchLabels: {{ toJson . }}}
{{- end }}
{{- end -}}

{{/* `toPorts:` of a CiliumNetworkPolicy's rule. */}}
{{- define "bastion.ciliumPorts" -}}
toPorts:
  - ports:
      {{- range . }}
      - {port: {{ . | toString | quote }}, protocol: TCP}
      {{- end }}
{{- end -}}

{{/* The endpoint selector for the pods of a namespace. */}}
{{- define "bastion.ciliumPods" -}}
{{- $labels := dict -}}
{{- range $name, $value := .podLabels -}}
{{- $_ := set $labels (printf "k8s:%s" $name) $value -}}
{{- end -}}
{{- if eq .namespace "*" -}}
matchExpressions: [{key: "k8s:io.kubernetes.pod.namespace", operator: Exists}]
{{- else -}}
{{- $_ := set $labels "k8s:io.kubernetes.pod.namespace" .namespace -}}
{{- end }}
{{- with $labels }}
matchLabels: {{ toJson . }}
{{- end }}
{{- end -}}

{{/* Pods that the bastion may reach because their namespaces' TunnelPolicies hold, and those that are listed. */}}
{{- define "bastion.targetPods" -}}
{{- $needs := include "bastion.needs" . | fromYaml -}}
{{- $targets := list -}}
{{- if .Values.networkPolicy.egress.toPolicyNamespaces -}}
{{- if $needs.allNamespaces -}}
{{- $targets = append $targets (dict "namespace" "*") -}}
{{- else -}}
{{- range $needs.namespaces -}}
{{- $targets = append $targets (dict "namespace" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- concat $targets .Values.networkPolicy.egress.toNamespaces | toYaml -}}
{{- end -}}

{{/*
Where clouds hand out credentials, as networks to leave out: those of the bastion's floor.
*/}}
{{- define "bastion.metadata4" -}}
["169.254.0.0/16", "100.100.100.200/32", "100.96.0.96/32", "100.80.80.80/32", "168.63.129.16/32", "192.0.0.192/32"]
{{- end }}
{{- define "bastion.metadata6" -}}
["fe80::/10", "fd00:ec2::/32", "fd20:ce::254/128", "fd00:c1::a9fe:a9fe/128", "fd00:42::42/128", "fd00:a9fe:a9fe::1/128"]
{{- end }}
