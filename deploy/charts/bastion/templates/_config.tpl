{{/* The bastion's configuration file, and what other templates derive from it. */}}

{{/* The file: `config` as it is written, and the settings that the chart adds. */}}
{{- define "bastion.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if not $config.host_key -}}
{{- $_ := set $config "host_key" (dict "secret" (dict "name" (printf "%s-host-key" (include "bastion.fullname" .)) "generate" true)) -}}
{{- end -}}
{{- if and $config.kubernetes .Values.connectionInfo.enabled (not $config.kubernetes.publish) -}}
{{- $_ := set $config.kubernetes "publish" (dict "config_map" (printf "%s-connection-info" (include "bastion.fullname" .))) -}}
{{- end -}}
{{- $memory := include "bastion.memoryBytes" . | int64 -}}
{{- if and $memory (not (dig "limits" "buffered_bytes" "" $config)) -}}
{{- $buffered := max (div (mul $memory 3) 8192) 1024 -}}
{{- $_ := set $config "limits" (merge (dict "buffered_bytes" (printf "%dKiB" $buffered)) (default (dict) $config.limits)) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* The memory that the bastion may take, in bytes; 0 where nothing limits it. */}}
{{- define "bastion.memoryBytes" -}}
{{- $memory := dig "limits" "memory" "" (default (dict) .Values.resources) -}}
{{- if kindIs "string" $memory -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- if not $memory -}}
0
{{- else if not (regexMatch "^[0-9]+([kMGT]|[KMGT]i)?$" $memory) -}}
{{- fail (printf "resources.limits.memory: %q is no size that the chart can compare with config.limits.buffered_bytes; write a whole number and k, M, G, T, Ki, Mi, Gi or Ti, such as 256Mi." $memory) -}}
{{- else -}}
{{- mul (regexFind "^[0-9]+" $memory | int64) (get $units (regexFind "[A-Za-z]*$" $memory)) -}}
{{- end -}}
{{- else -}}
{{- int64 $memory -}}
{{- end -}}
{{- end -}}

{{/* The bytes of a size of the bastion's file, such as 96MiB. */}}
{{- define "bastion.sizeBytes" -}}
{{- $units := dict "B" 1 "KiB" 1024 "MiB" 1048576 "GiB" 1073741824 -}}
{{- mul (regexFind "^[0-9]+" . | int64) (get $units (regexFind "[A-Za-z]+$" .)) -}}
{{- end -}}

{{/* The settings that the bastion reads at its start only: a change replaces the pods. It follows the other settings, which ends no tunnel. */}}
{{- define "bastion.startConfig" -}}
{{- $config := include "bastion.config" . | fromYaml -}}
{{- $start := omit $config "login" "rules" "open_networks" "hosts" "dns" "removed_authority" "timeouts" -}}
{{- $limits := omit (default (dict) $start.limits) "max_certificate_lifetime" -}}
{{- $start = omit $start "limits" -}}
{{- if $limits -}}
{{- $_ := set $start "limits" $limits -}}
{{- end -}}
{{- toYaml $start -}}
{{- end -}}

{{/* The dependencies of the file: Kubernetes objects by name, policies, Vault. */}}
{{- define "bastion.needs" -}}
{{- $config := include "bastion.config" . | fromYaml -}}
{{- $secrets := list -}}
{{- $configMaps := list -}}
{{- $vault := hasKey $config.host_key "vault" -}}
{{- range $config.authorities -}}
{{- with .secret }}{{ $secrets = append $secrets .name }}{{ end -}}
{{- with .config_map }}{{ $configMaps = append $configMaps .name }}{{ end -}}
{{- if .vault }}{{ $vault = true }}{{ end -}}
{{- end -}}
{{- range dig "revocation" "secrets" (list) $config }}{{ $secrets = append $secrets .name }}{{ end -}}
{{- range dig "revocation" "config_maps" (list) $config }}{{ $configMaps = append $configMaps .name }}{{ end -}}
{{- $policies := ternary (dig "kubernetes" "policies" (dict) $config) (dict) (kindIs "map" $config.kubernetes) -}}
{{- dict
  "secrets" ($secrets | uniq | sortAlpha)
  "configMaps" ($configMaps | uniq | sortAlpha)
  "hostKey" (dig "host_key" "secret" "name" "" $config)
  "generate" (dig "host_key" "secret" "generate" false $config)
  "publish" (dig "kubernetes" "publish" "config_map" "" $config)
  "policies" (kindIs "map" $config.kubernetes)
  "events" (and (kindIs "map" $config.kubernetes) (dig "kubernetes" "events" true $config))
  "namespaces" (default (list) $policies.namespaces | uniq | sortAlpha)
  "allNamespaces" (default false $policies.all_namespaces)
  "cluster" (default false $policies.cluster)
  "kubernetes" (or (kindIs "map" $config.kubernetes) (not (empty $config.host_key.secret)) (not (empty $secrets)) (not (empty $configMaps)))
  "vault" $vault
  "vaultToken" (eq (dig "vault" "auth" "token_file" "" $config) "/var/run/secrets/vault/token")
  "proxyProtocol" (ne (dig "proxy_protocol" "mode" "off" $config | toString) "off")
  | toYaml -}}
{{- end -}}

{{/* The port of an address such as 0.0.0.0:2222 or [::]:2222. */}}
{{- define "bastion.port" -}}
{{- regexFind "[0-9]+$" . -}}
{{- end -}}

{{/* How long a pod may need from SIGTERM to its last connection. */}}
{{- define "bastion.drainSeconds" -}}
{{- $drain := default (dict) .Values.config.drain -}}
{{- $delay := include "common.seconds" (list "config.drain" (default "0s" $drain.readiness_delay)) | int64 -}}
{{- $timeout := include "common.seconds" (list "config.drain" (default "5s" $drain.timeout)) | int64 -}}
{{- add $delay $timeout -}}
{{- end -}}

{{- define "bastion.graceSeconds" -}}
{{- $needed := add (include "bastion.drainSeconds" . | int64) 15 -}}
{{- ternary $needed .Values.terminationGracePeriodSeconds (kindIs "invalid" .Values.terminationGracePeriodSeconds) | int64 -}}
{{- end -}}

{{/* Whether there is ever more than one pod. */}}
{{- define "bastion.several" -}}
{{- if .Values.autoscaling.enabled -}}
{{- if gt (int .Values.autoscaling.maxReplicas) 1 }}true{{ end -}}
{{- else -}}
{{- if gt (int .Values.replicaCount) 1 }}true{{ end -}}
{{- end -}}
{{- end -}}
