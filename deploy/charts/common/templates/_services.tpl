{{/* Annotations of Services for those who read them, and what depends on the version of Kubernetes. */}}

{{/* DNS names for ExternalDNS, from a list: the names, the annotation's prefix. `both` is the older and the newer one. */}}
{{- define "common.dnsAnnotations" -}}
{{- $prefixes := ternary (list "external-dns.alpha.kubernetes.io/" "external-dns.kubernetes.io/") (list (index . 1)) (eq (index . 1) "both") -}}
{{- with index . 0 -}}
{{- $names := . -}}
{{- range $prefixes }}
{{ . }}hostname: {{ join "," $names | quote }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* For the AWS Load Balancer Controller: pods as targets. From a list: the settings (scheme, name, idleTimeoutSeconds,
  deregistrationDelaySeconds, connectionTermination, crossZone, securityGroups, subnets, attributes), whether it sends PROXY protocol v2,
  whether clients stay with a target, the ports. */}}
{{- define "common.nlbAnnotations" -}}
{{- $proxyProtocol := index . 1 -}}
{{- $stickiness := index . 2 -}}
{{- $ports := index . 3 -}}
{{- with index . 0 -}}
{{- $settings := . -}}
{{- $prefix := "service.beta.kubernetes.io/aws-load-balancer" -}}
{{- $target := list
  (printf "deregistration_delay.timeout_seconds=%d" (int64 .deregistrationDelaySeconds))
  (printf "deregistration_delay.connection_termination.enabled=%t" .connectionTermination) -}}
{{- if $proxyProtocol -}}
{{- $target = concat $target (list "proxy_protocol_v2.client_to_server.header_placement=on_first_ack" "preserve_client_ip.enabled=false") -}}
{{- else -}}
{{- $target = append $target "preserve_client_ip.enabled=true" -}}
{{- end -}}
{{- if $stickiness -}}
{{- $target = concat $target (list "stickiness.enabled=true" "stickiness.type=source_ip") -}}
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
{{- range $ports }}
{{ $prefix }}-listener-attributes.TCP-{{ . }}: "tcp.idle_timeout.seconds={{ $settings.idleTimeoutSeconds }}"
{{- end }}
{{ $prefix }}-attributes: {{ join "," $attributes | quote }}
{{- if $proxyProtocol }}
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

{{/* `trafficDistribution` in the words of the cluster's version, from a list: the root, the setting, what is said: zone, node, or a word of
  Kubernetes. */}}
{{- define "common.trafficDistribution" -}}
{{- $version := (index . 0).Capabilities.KubeVersion.Version -}}
{{- $path := index . 1 -}}
{{- $said := index . 2 -}}
{{- $new := semverCompare ">=1.34.0-0" $version -}}
{{- $word := get (dict "zone" (ternary "PreferSameZone" "PreferClose" $new) "node" "PreferSameNode") $said | default $said -}}
{{- if and (has $word (list "PreferSameZone" "PreferSameNode")) (not $new) -}}
{{- fail (printf "%s: %s needs Kubernetes 1.34, and this is %s: write zone, which every version understands." $path $word $version) -}}
{{- end -}}
{{- $word -}}
{{- end -}}
