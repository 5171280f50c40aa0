{{/* `ports:` of a Service; what the API server would add stands there already, so that nothing differs afterwards. */}}
{{- define "workload.ports" -}}
{{- $ports := list -}}
{{- range . -}}
{{- $ports = append $ports (merge (dict) . (dict "protocol" "TCP" "targetPort" .port)) -}}
{{- end -}}
{{- toYaml $ports -}}
{{- end -}}
