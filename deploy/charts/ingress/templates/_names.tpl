{{- define "ingress.fullname" -}}
{{- include "common.fit" (list (default .Release.Name .Values.fullnameOverride) 40) -}}
{{- end -}}

{{- define "ingress.selector" -}}
app.kubernetes.io/name: {{ include "ingress.fullname" . | quote }}
app.kubernetes.io/instance: {{ quote .Release.Name }}
app.kubernetes.io/component: ingress
{{- end -}}

{{/* The metadata of an object, from a list: the root, what comes behind its name, more labels, more annotations. */}}
{{- define "ingress.metadata" -}}
{{- $root := index . 0 -}}
{{- $labels := merge (dict) (include "ingress.selector" $root | fromYaml) (index . 2) -}}
{{- include "common.metadata" (list $root (printf "%s%s" (include "ingress.fullname" $root) (index . 1)) $labels (index . 3)) -}}
{{- end -}}

{{/* Whole seconds of a time, from a list: the setting, 90 or 20m. */}}
{{- define "ingress.seconds" -}}
{{- $text := index . 1 | toString -}}
{{- if regexMatch "^[0-9]+$" $text -}}
{{- $text -}}
{{- else if regexMatch "ms" $text -}}
{{- fail (printf "%s: %s is not whole seconds, which the engine counts in. Write seconds, such as 2 or 20m." (index . 0) $text) -}}
{{- else -}}
{{- include "common.seconds" . -}}
{{- end -}}
{{- end -}}

{{/* The address family's name of an EndpointSlice. */}}
{{- define "ingress.family" -}}
{{- ternary "IPv6" "IPv4" (contains ":" .) -}}
{{- end -}}

{{/* An external backend's port. */}}
{{- define "ingress.externalPort" -}}
{{- default (ternary 443 80 (eq (default "http" .scheme) "https")) .port -}}
{{- end -}}

{{/* Headers of every response, as a map. */}}
{{- define "ingress.responseHeaders" -}}
{{- $headers := include "common.words" (list "headers.response" .Values.headers.response) | fromYaml -}}
{{- if .Values.headers.security -}}
{{- $more := dict "X-Content-Type-Options" "nosniff" "X-Frame-Options" "SAMEORIGIN" "Referrer-Policy" "strict-origin-when-cross-origin" -}}
{{- if ne .Values.tls.mode "none" -}}
{{- $_ := set $more "Strict-Transport-Security" "max-age=31536000; includeSubDomains" -}}
{{- end -}}
{{- $headers = merge (dict) $headers $more -}}
{{- end -}}
{{- toJson $headers -}}
{{- end -}}

{{/* Names that the engine serves, as a JSON list: those of clients, or the one by which a CDN asks for all of them. */}}
{{- define "ingress.hosts" -}}
{{- ternary (list .Values.cdn.origin) .Values.domains .Values.cdn.enabled | toJson -}}
{{- end -}}
