{{/* Annotations of the Service, for those who read them. */}}

{{- define "bastion.dnsAnnotations" -}}
{{- with .Values.service -}}
{{- if and .hostnames (not .externalDns.targets) }}
{{ .externalDns.annotationPrefix }}hostname: {{ join "," .hostnames | quote }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* For the AWS Load Balancer Controller: pods as targets, and the client's address by PROXY protocol v2 or as it is. */}}
{{- define "bastion.awsAnnotations" -}}
{{- with .Values.service.aws -}}
{{- if .enabled -}}
{{- $needs := include "bastion.needs" $ | fromYaml -}}
{{- $prefix := "service.beta.kubernetes.io/aws-load-balancer" -}}
{{- $target := list
  (printf "deregistration_delay.timeout_seconds=%d" (int64 .deregistrationDelaySeconds))
  (printf "deregistration_delay.connection_termination.enabled=%t" .connectionTermination) -}}
{{- if $needs.proxyProtocol -}}
{{- $target = concat $target (list "proxy_protocol_v2.client_to_server.header_placement=on_first_ack" "preserve_client_ip.enabled=false") -}}
{{- else -}}
{{- $target = append $target "preserve_client_ip.enabled=true" -}}
{{- end -}}
{{- $attributes := list (printf "load_balancing.cross_zone.enabled=%t" .crossZone) -}}
{{- range $name, $value := .attributes -}}
{{- $attributes = append $attributes (printf "%s=%v" $name $value) -}}
{{- end }}
{{ $prefix }}-type: external
{{ $prefix }}-nlb-target-type: ip
{{ $prefix }}-scheme: {{ .scheme }}
{{ $prefix }}-backend-protocol: tcp
{{ $prefix }}-healthcheck-protocol: tcp
{{ $prefix }}-healthcheck-port: traffic-port
{{ $prefix }}-healthcheck-interval: "10"
{{ $prefix }}-healthcheck-healthy-threshold: "2"
{{ $prefix }}-healthcheck-unhealthy-threshold: "2"
{{ $prefix }}-target-group-attributes: {{ join "," $target | quote }}
{{ $prefix }}-listener-attributes.TCP-{{ $.Values.service.port }}: "tcp.idle_timeout.seconds={{ .idleTimeoutSeconds }}"
{{ $prefix }}-attributes: {{ join "," $attributes | quote }}
{{- if $needs.proxyProtocol }}
{{ $prefix }}-proxy-protocol: "*"
{{- end }}
{{- with .name }}
{{ $prefix }}-name: {{ . | quote }}
{{- end }}
{{- with .securityGroups }}
{{ $prefix }}-security-groups: {{ join "," . | quote }}
{{- end }}
{{- with .subnets }}
{{ $prefix }}-subnets: {{ join "," . | quote }}
{{- end }}
{{- end -}}
{{- end -}}
{{- end -}}
