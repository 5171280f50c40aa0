{{/* What the schema cannot say: settings that contradict each other, each refused with a sentence. */}}

{{- define "bastion.validate" -}}
{{- include "bastion.renamed" . -}}
{{- $needs := include "bastion.needs" . | fromYaml -}}
{{- $config := .Values.config -}}

{{- $ssh := include "bastion.port" $config.listen | int -}}
{{- $admin := include "bastion.port" $config.admin.listen | int -}}
{{- if or (lt $ssh 1024) (lt $admin 1024) -}}
{{- fail "config.listen and config.admin.listen: ports below 1024 would need a capability that the bastion does not have; service.port is what clients connect to." -}}
{{- end -}}
{{- if eq $ssh $admin -}}
{{- fail "config.listen and config.admin.listen name the same port." -}}
{{- end -}}
{{- if or (hasPrefix "127." $config.admin.listen) (hasPrefix "[::1]" $config.admin.listen) -}}
{{- fail "config.admin.listen: probes do not reach a loopback address; write 0.0.0.0:8080 or [::]:8080." -}}
{{- end -}}

{{- $drain := include "bastion.drainSeconds" . | int64 -}}
{{- $grace := include "bastion.graceSeconds" . | int64 -}}
{{- if lt $grace (add $drain 15) -}}
{{- fail (printf "terminationGracePeriodSeconds is %d, but config.drain (readiness_delay + timeout) takes up to %d s and cutting what is left up to 15 s: the kubelet would kill the bastion before. Write %d or more, or leave it out." $grace $drain (add $drain 15)) -}}
{{- end -}}

{{- $memory := include "bastion.memoryBytes" . | int64 -}}
{{- with dig "limits" "buffered_bytes" "" $config -}}
{{- if and $memory (gt (include "bastion.sizeBytes" . | int64) (div $memory 2)) -}}
{{- fail (printf "config.limits.buffered_bytes is %s, more than half of resources.limits.memory (%v): the kernel would kill the bastion, and every tunnel with it, before it ended the one that takes the memory. Write %dMiB or less, leave it out, or raise the limit." . $.Values.resources.limits.memory (div $memory 2097152)) -}}
{{- end -}}
{{- end -}}

{{- with .Values.mesh -}}
{{- if and .enabled .proxy.shutdownGracePeriod -}}
{{- $proxy := include "common.seconds" (list "mesh.proxy.shutdownGracePeriod" .proxy.shutdownGracePeriod) | int64 -}}
{{- if lt $proxy $drain -}}
{{- fail (printf "mesh.proxy.shutdownGracePeriod is %d s, but config.drain takes up to %d s: the proxy would end before the tunnels through it. Write %ds or more, or leave it out." $proxy $drain $drain) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- range .Values.extraEnv -}}
{{- if regexMatch "^BASTION_(LISTEN|ADMIN_LISTEN|DRAIN_.+)$" .name -}}
{{- fail (printf "extraEnv: %s would override what ports, probes and the grace period are made of. Say it under config: listen, admin.listen or drain." .name) -}}
{{- end -}}
{{- end -}}

{{- if and (dig "host_key" "generate" false $config) (include "bastion.several" .) -}}
{{- fail "config.host_key.generate makes another key in each pod, and clients would take the second for an impostor. Write {secret: {name: …, generate: true}}, or leave host_key out." -}}
{{- end -}}

{{- with .Values.autoscaling -}}
{{- if and .enabled (not .targetCPUUtilizationPercentage) (not .sessionsPerPod) -}}
{{- fail "autoscaling is enabled without a metric: set targetCPUUtilizationPercentage or sessionsPerPod." -}}
{{- end -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail "autoscaling.minReplicas is more than autoscaling.maxReplicas." -}}
{{- end -}}
{{- end -}}

{{- with .Values.service -}}
{{- if and .aws.enabled (ne .type "LoadBalancer") -}}
{{- fail (printf "service.aws is for a load balancer, and service.type is %s." .type) -}}
{{- end -}}
{{- if and .aws.enabled .aws.connectionTermination (lt (int64 .aws.deregistrationDelaySeconds) $drain) -}}
{{- fail (printf "service.aws.deregistrationDelaySeconds is %d, but config.drain takes up to %d s: the balancer would cut tunnels that the bastion still serves." (int64 .aws.deregistrationDelaySeconds) $drain) -}}
{{- end -}}
{{- if and .loadBalancerSourceRanges (ne .type "LoadBalancer") -}}
{{- fail "service.loadBalancerSourceRanges is for a load balancer; otherwise networkPolicy.ingress.fromCIDRs lists the networks that may connect." -}}
{{- end -}}
{{- if and .loadBalancerSourceRanges .aws.enabled .aws.securityGroups -}}
{{- fail "service.loadBalancerSourceRanges has no effect where service.aws.securityGroups are set: every client that these admit would reach the bastion. Set the ranges in the security groups, and leave them out here." -}}
{{- end -}}
{{- if and .loadBalancerClass (ne .type "LoadBalancer") -}}
{{- fail (printf "service.loadBalancerClass is for a load balancer, and service.type is %s." .type) -}}
{{- end -}}
{{- if and (kindIs "bool" .allocateLoadBalancerNodePorts) (ne .type "LoadBalancer") -}}
{{- fail (printf "service.allocateLoadBalancerNodePorts is for a load balancer, and service.type is %s." .type) -}}
{{- end -}}
{{- if and .nodePort (eq .type "ClusterIP") -}}
{{- fail "service.nodePort is set, and service.type is ClusterIP." -}}
{{- end -}}
{{- end -}}

{{- if and .Values.networkPolicy.egress.toFQDNs (ne (include "bastion.policyFlavour" .) "cilium") -}}
{{- fail "networkPolicy.egress.toFQDNs: a NetworkPolicy of Kubernetes knows no names. Set networkPolicy.flavour to cilium, or name networks under toCIDRs." -}}
{{- end -}}

{{- if and .Values.gateway.enabled (not .Values.gateway.parentRefs) -}}
{{- fail "gateway.enabled: name the Gateway under gateway.parentRefs." -}}
{{- end -}}

{{- if .Values.prometheusRule.enabled -}}
{{- with .Values.prometheusRule.thresholds.staleSeconds -}}
{{- $stale := int64 . -}}
{{- range $config.authorities -}}
{{- $refresh := include "common.seconds" (list "config.authorities: vault.refresh" (dig "vault" "refresh" "5m" .)) | int64 -}}
{{- if and .vault (ge $refresh $stale) -}}
{{- fail (printf "prometheusRule.thresholds.staleSeconds is %d, but config.authorities asks Vault every %d s: the alert would fire between two good answers. Write more than %d, or a shorter refresh." $stale $refresh $refresh) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- if and $needs.vaultToken (not (dig "vault" "address" "" $config)) -}}
{{- fail "config.vault.auth: set the address of Vault, config.vault.address." -}}
{{- end -}}
{{- end -}}

{{/* Values of other charts and earlier drafts, and where the same is said here. The schema lets them through to this. */}}
{{- define "bastion.renamed" -}}
{{- $renamed := dict
  "ssh" "config.listen, config.limits, config.keepalive and config.proxy_protocol"
  "auth" "config.login, config.authorities and config.revocation"
  "hostKeys" "config.host_key"
  "vault" "config.vault"
  "policy" "config.rules, or TunnelPolicy objects"
  "drain" "config.drain"
  "logging" "config.log and config.audit"
  "databases" "connectionInfo.file.databases"
  "replicas" "replicaCount"
  "podDisruptionBudget" "pdb"
  "hpa" "autoscaling"
  "linkerd" "mesh"
-}}
{{- range $name, $place := $renamed -}}
{{- if hasKey $.Values $name -}}
{{- fail (printf "There is no value %q: say it under %s." $name $place) -}}
{{- end -}}
{{- end -}}
{{- end -}}
