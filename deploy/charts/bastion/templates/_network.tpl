{{/* Peers and ports of the two flavours of network policy. */}}

{{/* Which of them: the one that is said, or with `auto` the one that the cluster has. */}}
{{- define "bastion.policyFlavour" -}}
{{- include "common.policyFlavour" (list . .Values.networkPolicy.flavour) -}}
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
