{{/* What the schema cannot say, each refused with a sentence. */}}
{{- define "netpol.validate" -}}
{{- $cilium := eq (include "common.policyFlavour" (list . .Values.flavour)) "cilium" -}}
{{- if and .Values.fqdnEgress (not $cilium) -}}
{{- fail "fqdnEgress: a NetworkPolicy of Kubernetes knows no names; Cilium does. Set flavour to cilium where the cluster has it, or open addresses by extraPolicies." -}}
{{- end -}}
{{- range .Values.fqdnEgress -}}
{{- range .names -}}
{{- if eq . "*" -}}
{{- fail "fqdnEgress: the name * is every name of one label, and opens less than it seems. Write names, or internetEgress for everything." -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.apiServer (not $cilium) (not .Values.apiServerEndpoints.cidrs) -}}
{{- fail "apiServer: a NetworkPolicy of Kubernetes needs the API server's addresses; those of its Service never match. Write them under apiServerEndpoints.cidrs: kubectl -n default get endpointslices -l kubernetes.io/service-name=kubernetes" -}}
{{- end -}}
{{- range $key := list "privateCIDRs" "clusterCIDRs" -}}
{{- range get $.Values $key -}}
{{- $parts := splitList "/" . -}}
{{- $groups := include "common.addressGroups" (first $parts) | default "[]" | fromJsonArray -}}
{{- if or (not $groups) (gt (last $parts | int) (ternary 32 128 (eq (len $groups) 4))) -}}
{{- fail (printf "%s: %q is no network; write one such as 10.0.0.0/8 or fc00::/7." $key .) -}}
{{- end -}}
{{- if eq (last $parts | int) 0 -}}
{{- fail (printf "%s: %s is everything, so that nothing would be left of the internet. Leave internetEgress out instead." $key .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range .Values.crossNamespace -}}
{{- $from := default $.Release.Namespace .from.namespace -}}
{{- $to := default $.Release.Namespace .to.namespace -}}
{{- if eq $from $to -}}
{{- fail (printf "crossNamespace: from and to are both in %s. Name the other namespace, or let pods of one reach each other: isolation.withinNamespace of the chart tenant, or extraPolicies." $from) -}}
{{- end -}}
{{- end -}}
{{- $names := dict -}}
{{- range .Values.extraPolicies -}}
{{- if eq (hasKey . "spec") (hasKey . "cilium") -}}
{{- fail (printf "extraPolicies: %s says either spec or cilium." .name) -}}
{{- end -}}
{{- if hasKey $names .name -}}
{{- fail (printf "extraPolicies: two are called %s." .name) -}}
{{- end -}}
{{- $_ := set $names .name true -}}
{{- end -}}
{{- end -}}
