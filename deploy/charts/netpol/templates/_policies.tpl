{{- define "netpol.selector" -}}
app.kubernetes.io/name: netpol
app.kubernetes.io/instance: {{ quote .Release.Name }}
{{- end -}}

{{/* The metadata of a policy, from a list: the root, what comes behind the release's name, its namespace. */}}
{{- define "netpol.metadata" -}}
{{- $root := index . 0 -}}
{{- $name := include "common.fit" (list (printf "%s-%s" $root.Release.Name (index . 1)) 63) -}}
{{- $metadata := include "common.metadata" (list $root $name (include "netpol.selector" $root | fromYaml) dict) | fromYaml -}}
{{- set $metadata "namespace" (index . 2) | toYaml -}}
{{- end -}}

{{/* A selector: of labels, or of every pod. */}}
{{- define "netpol.pods" -}}
{{- if . }}{matchLabels: {{ toJson . }}}{{ else }}{}{{ end -}}
{{- end -}}

{{/* Blocks of everything of one family but private networks, from a list: the root, 4 or 6. */}}
{{- define "netpol.internet" -}}
{{- $root := index . 0 -}}
{{- $six := eq (int (index . 1)) 6 -}}
{{- $except := list -}}
{{- range concat $root.Values.privateCIDRs $root.Values.clusterCIDRs | uniq -}}
{{- if eq (contains ":" .) $six -}}
{{- $except = append $except . -}}
{{- end -}}
{{- end -}}
cidr: {{ ternary "::/0" "0.0.0.0/0" $six | quote }}
{{- with $except }}
except: {{ toJson . }}
{{- end }}
{{- end -}}
