{{/* Rules for what the bastion asks of Kubernetes. Lists and watches go by one object's name where there is one. */}}

{{/* Of a namespace whose TunnelPolicy objects hold. */}}
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

{{/* Of the bastion's own namespace. */}}
{{- define "bastion.ownRules" -}}
{{- $needs := include "bastion.needs" . | fromYaml -}}
{{- with $needs.hostKey }}
# Read once, at the start.
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ quote . }}]
  verbs: [get]
{{- end }}
{{- if $needs.generate }}
# Whoever creates an object names it: Kubernetes cannot bind this to a name.
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
