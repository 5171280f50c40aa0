{{/* Rules for the requests of the bastion to the API server. Lists and watches are restricted to one object's name where there is one. */}}

{{/* Rules in a namespace whose TunnelPolicy objects are followed. */}}
{{- define "bastion.policyRules" -}}
- apiGroups: [{{ include "common.domain" . }}]
  resources: [tunnelpolicies]
  verbs: [list, watch]
- apiGroups: [{{ include "common.domain" . }}]
  resources: [tunnelpolicies/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [services]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
{{- end -}}

{{- define "bastion.eventRules" -}}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{/* Rules in the bastion's own namespace. */}}
{{- define "bastion.ownRules" -}}
{{- $needs := include "bastion.needs" . | fromYaml -}}
{{- with $needs.hostKey }}
# The bastion reads this once, at its start.
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ quote . }}]
  verbs: [get]
{{- end }}
{{- if $needs.generate }}
# A request that creates an object has no name in its path, so Kubernetes cannot restrict it by name.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
{{- end }}
{{- with $needs.secrets }}
- apiGroups: [""]
  resources: [secrets]
  resourceNames: {{ toJson . }}
  verbs: [list, watch]
{{- end }}
{{- with $needs.configMaps }}
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: {{ toJson . }}
  verbs: [list, watch]
{{- end }}
{{- with $needs.publish }}
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [{{ quote . }}]
  verbs: [patch]
{{- end }}
{{- if and $needs.policies (not $needs.allNamespaces) }}
{{ include "bastion.policyRules" . }}
{{- if $needs.events }}
{{ include "bastion.eventRules" . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The binding of a role to the bastion's account, from a list: the root, the role's kind. */}}
{{- define "bastion.binding" -}}
{{- $root := index . 0 -}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: {{ index . 1 }}, name: {{ index . 2 | quote }}}
subjects:
  - {kind: ServiceAccount, name: {{ include "bastion.serviceAccountName" $root | quote }}, namespace: {{ quote $root.Release.Namespace }}}
{{- end -}}
