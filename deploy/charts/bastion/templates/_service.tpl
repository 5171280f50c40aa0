{{/* Annotations of the Service, for external-dns and load balancers. */}}

{{- define "bastion.dnsAnnotations" -}}
{{- with .Values.service -}}
{{- if not .externalDns.targets }}
{{- include "common.dnsAnnotations" (list .hostnames .externalDns.annotationPrefix) }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* For the AWS Load Balancer Controller: pods as targets, and the client's address by PROXY protocol v2 or as it is. */}}
{{- define "bastion.awsAnnotations" -}}
{{- with .Values.service.aws -}}
{{- if .enabled -}}
{{- $needs := include "bastion.needs" $ | fromYaml -}}
{{- include "common.nlbAnnotations" (list . $needs.proxyProtocol false (list $.Values.service.port)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
