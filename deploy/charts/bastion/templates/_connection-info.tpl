{{/* The settings for pf-tunnel: those of the operator, and those that follow from other values. */}}
{{- define "bastion.connectionInfo" -}}
{{- $file := deepCopy .Values.connectionInfo.file -}}
{{- $config := .Values.config -}}

{{- $addresses := list -}}
{{- range .Values.service.hostnames -}}
{{- $addresses = append $addresses (printf "%s:%d" . (int $.Values.service.port)) -}}
{{- end -}}
{{- $bastion := dict "user" (first $config.login.users) -}}
{{- if $addresses -}}
{{- $_ := set $bastion "address" $addresses -}}
{{- end -}}
{{- $_ := set $file "bastion" (merge (dict) (default (dict) $file.bastion) $bastion) -}}

{{- $vault := dict -}}
{{- range reverse $config.authorities -}}
{{- with .vault -}}
{{- $_ := set $vault "mount" .mount -}}
{{- end -}}
{{- end -}}
{{- range $name := list "address" "namespace" -}}
{{- with get (default (dict) $config.vault) $name -}}
{{- $_ := set $vault $name . -}}
{{- end -}}
{{- end -}}
{{- $_ := set $file "vault" (merge (dict) (default (dict) $file.vault) $vault) -}}

{{- range $name, $part := $file -}}
{{- if not $part -}}
{{- $_ := unset $file $name -}}
{{- end -}}
{{- end -}}
{{- toYaml $file -}}
{{- end -}}
