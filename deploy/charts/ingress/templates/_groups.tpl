{{/* A path as an expression. All paths are: as soon as one Ingress rewrites, the engine takes those of the whole host for expressions, to whichever
  team they belong. Then they have an end here, and they are found by their length: an exact one before all below it, and a longer one before a shorter.
  From a list: the path, whether it is exact. */}}
{{- define "ingress.expression" -}}
{{- $path := index . 0 | trimPrefix "/" | trimSuffix "/" -}}
{{- if index . 1 -}}
{{- $exact := index . 0 | trimPrefix "/" -}}
{{- printf "/%s(?:$)(?:$)" (ternary "" (printf "(?-i)%s" (regexQuoteMeta $exact)) (empty $exact)) -}}
{{- else if $path -}}
{{- printf "/(?-i)%s(/|$)(.*)" (regexQuoteMeta $path) -}}
{{- else -}}
/()(.*)
{{- end -}}
{{- end -}}

{{/* The external backend that is called so, from a list: the root, its name. */}}
{{- define "ingress.external" -}}
{{- $name := index . 1 -}}
{{- range (index . 0).Values.externalBackends -}}
{{- if eq .name $name -}}{{- toJson . -}}{{- end -}}
{{- end -}}
{{- end -}}

{{/* Annotations for a backend outside: what it speaks, and by which name. */}}
{{- define "ingress.externalAnnotations" -}}
{{- $root := index . 0 -}}
{{- $n := include "ingress.prefix" $root -}}
{{- with index . 1 -}}
{{- $https := eq (default "http" .scheme) "https" -}}
{{- $name := default .host .serverName -}}
{{ $n }}backend-protocol: {{ ternary "HTTPS" "HTTP" $https }}
{{- with $name }}
{{ $n }}upstream-vhost: {{ quote . }}
{{- end }}
{{- if and $https $name }}
{{- /* ingress-nginx sends a name at all with the first; Traefik takes it of the second. */}}
{{ $n }}proxy-ssl-server-name: "on"
{{ $n }}proxy-ssl-name: {{ quote $name }}
{{- end }}
{{- with .verify }}
{{ $n }}proxy-ssl-verify: "on"
{{ $n }}proxy-ssl-secret: {{ printf "%s/%s" $root.Release.Namespace .caSecret | quote }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Ingresses as a JSON map, by what comes behind the release's name: {annotations, paths}. Paths of one Ingress share all annotations. */}}
{{- define "ingress.groups" -}}
{{- $n := include "ingress.prefix" . -}}
{{- $common := merge (dict (printf "%suse-regex" $n) "true") (include "ingress.typedAnnotations" . | fromYaml) -}}
{{- $own := include "ingress.ownAnnotations" . | fromJson -}}
{{- $groups := dict -}}
{{- $passthrough := eq .Values.tls.mode "passthrough" -}}
{{- if $passthrough -}}
{{- /* The engine knows such an Ingress by the path /, and by no expression. */ -}}
{{- $common = dict (printf "%sssl-passthrough" $n) "true" (printf "%sssl-redirect" $n) (toString .Values.tls.redirect) -}}
{{- end -}}
{{- $first := dict "name" (include "ingress.fullname" .) "port" (dict "number" 80) -}}
{{- range $index, $path := .Values.paths -}}
{{- $suffix := "" -}}
{{- $annotations := dict -}}
{{- $service := dict -}}
{{- with .backend -}}
{{- $external := include "ingress.external" (list $ .) | fromJson -}}
{{- $suffix = printf "-to-%s" . -}}
{{- $annotations = include "ingress.externalAnnotations" (list $ $external) | fromYaml -}}
{{- $service = dict "name" (printf "%s-to-%s" (include "ingress.fullname" $) .) "port" (dict "name" (default "http" $external.scheme)) -}}
{{- else -}}
{{- $service = dict "name" .service "port" (dict (ternary "name" "number" (kindIs "string" .port)) .port) -}}
{{- end -}}
{{- if .stripPrefix -}}
{{- $suffix = printf "%s-strip" $suffix -}}
{{- $_ := set $annotations (printf "%srewrite-target" $n) "/$2" -}}
{{- else if .rewrite -}}
{{- $target := ternary .rewrite (printf "%s/$2" (trimSuffix "/" .rewrite)) (or (default false .regex) (default false .exact)) -}}
{{- $suffix = printf "%s-rewrite-%s" $suffix ($target | sha256sum | trunc 8) -}}
{{- $_ := set $annotations (printf "%srewrite-target" $n) $target -}}
{{- end -}}
{{- if eq $index 0 -}}{{- $first = $service -}}{{- end -}}
{{- $group := default (dict "annotations" (merge $annotations $own $common) "paths" list) (get $groups $suffix) -}}
{{- $expression := ternary .path (include "ingress.expression" (list .path (default false .exact))) (default false .regex) -}}
{{- $entry := dict "path" $expression "pathType" "ImplementationSpecific" "backend" (dict "service" $service) -}}
{{- if $passthrough -}}
{{- $entry = dict "path" "/" "pathType" "Prefix" "backend" (dict "service" $service) -}}
{{- end -}}
{{- $_ := set $group "paths" (append $group.paths $entry) -}}
{{- $_ := set $groups $suffix $group -}}
{{- end -}}
{{- range .Values.redirects -}}
{{- $kind := ternary "permanent-redirect" "temporal-redirect" (default false .permanent) -}}
{{- $from := .from | trimPrefix "/" | trimSuffix "/" -}}
{{- /* It is held against the path when a request is routed, and against the URL with its query when the answer is made. */ -}}
{{- $query := ternary "" "$1" (contains "?" .to) -}}
{{- $to := printf "%s%s" .to $query -}}
{{- $expression := printf "/(?-i)%s(?:/[^?]*)?([?].*)?$" (regexQuoteMeta $from) -}}
{{- if not $from -}}
{{- $expression = "/[^?]*([?].*)?$" -}}
{{- end -}}
{{- if .keepPath -}}
{{- $to = printf "%s%s" (trimSuffix "/" .to) (ternary "$1" "/$1" (ne $from "")) -}}
{{- $expression = ternary (printf "/(?-i)%s([/?].*)?$" (regexQuoteMeta $from)) "/(.*)" (ne $from "") -}}
{{- end -}}
{{- $annotations := dict (printf "%suse-regex" $n) "true" (printf "%sssl-redirect" $n) "false" (printf "%s%s" $n $kind) $to -}}
{{- $entry := dict "path" $expression "pathType" "ImplementationSpecific" "backend" (dict "service" $first) -}}
{{- $_ := set $groups (printf "-redirect-%s" (.from | sha256sum | trunc 8)) (dict "annotations" $annotations "paths" (list $entry)) -}}
{{- end -}}
{{- toJson $groups -}}
{{- end -}}
