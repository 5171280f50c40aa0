{{/* Peers and ports of the two flavours of network policy, and addresses. */}}

{{/* Which of them, from a list: the root, what is said. `auto` takes the one that the cluster has. */}}
{{- define "common.policyFlavour" -}}
{{- $root := index . 0 -}}
{{- $there := ternary "cilium" "kubernetes" ($root.Capabilities.APIVersions.Has "cilium.io/v2/CiliumNetworkPolicy") -}}
{{- ternary $there (index . 1) (eq (index . 1) "auto") -}}
{{- end -}}

{{/* `ports:` of a NetworkPolicy's rule, from a list of numbers or names for TCP. Without it all are open. */}}
{{- define "common.ports" -}}
ports:
  {{- range . }}
  - {port: {{ . }}, protocol: TCP}
  {{- end }}
{{- end -}}

{{/* The pods of a namespace, from {namespace, podLabels}; "*" is every namespace. */}}
{{- define "common.pods" -}}
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
{{- define "common.ciliumPorts" -}}
toPorts:
  - ports:
      {{- range . }}
      - {port: {{ . | toString | quote }}, protocol: TCP}
      {{- end }}
{{- end -}}

{{/* The endpoint selector for the pods of a namespace. */}}
{{- define "common.ciliumPods" -}}
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

{{/* The groups of an address as a JSON list of numbers: four of 8 bits, or eight of 16. Empty for what is none. */}}
{{- define "common.addressGroups" -}}
{{- if regexMatch "^[0-9]{1,3}([.][0-9]{1,3}){3}$" . -}}
{{- $groups := list -}}
{{- range splitList "." . -}}
{{- if le (atoi .) 255 -}}{{- $groups = append $groups (atoi .) -}}{{- end -}}
{{- end -}}
{{- if eq (len $groups) 4 -}}{{- toJson $groups -}}{{- end -}}
{{- else if regexMatch "^[0-9a-fA-F:]*:[0-9a-fA-F:]*$" . -}}
{{- $halves := splitList "::" . -}}
{{- $first := first $halves | splitList ":" | compact -}}
{{- $last := ternary (list) (last $halves | splitList ":" | compact) (eq (len $halves) 1) -}}
{{- $missing := sub 8 (add (len $first) (len $last)) | int -}}
{{- if and (le (len $halves) 2) (ternary (eq $missing 0) (ge $missing 1) (eq (len $halves) 1)) -}}
{{- $groups := list -}}
{{- range $first -}}{{- $groups = append $groups (printf "0x%s" . | int64) -}}{{- end -}}
{{- range until $missing -}}{{- $groups = append $groups 0 -}}{{- end -}}
{{- range $last -}}{{- $groups = append $groups (printf "0x%s" . | int64) -}}{{- end -}}
{{- toJson $groups -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* "true" when an address is in a network, from a list: 10.0.0.1, 10.0.0.0/8. */}}
{{- define "common.isIn" -}}
{{- $parts := splitList "/" (index . 1) -}}
{{- $address := include "common.addressGroups" (index . 0) | default "[]" | fromJsonArray -}}
{{- $network := include "common.addressGroups" (first $parts) | default "[]" | fromJsonArray -}}
{{- if and $address (eq (len $address) (len $network)) -}}
{{- $width := ternary 8 16 (eq (len $address) 4) -}}
{{- $length := last $parts | int -}}
{{- $same := true -}}
{{- range $number, $group := $address -}}
{{- $free := sub $width (max 0 (min $width (sub $length (mul $number $width)))) -}}
{{- $divisor := 1 -}}
{{- range until (int $free) -}}{{- $divisor = mul $divisor 2 -}}{{- end -}}
{{- if ne (div (int64 $group) $divisor) (div (int64 (index $network $number)) $divisor) -}}{{- $same = false -}}{{- end -}}
{{- end -}}
{{- if $same -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* The spec of a policy that lets an ingress controller in, from a list: the controller's pods, {pods, ports}. */}}
{{- define "common.fromIngress" -}}
{{- $rule := index . 1 -}}
podSelector: {{ if $rule.pods }}{matchLabels: {{ toJson $rule.pods }}}{{ else }}{}{{ end }}
policyTypes: [Ingress]
ingress:
  - from:
      - {{ include "common.pods" (index . 0) | indent 8 | trim }}
    {{- include "common.ports" $rule.ports | nindent 4 }}
{{- end -}}
