{{/* What the engine is told by annotations of an Ingress. All values are strings. */}}
{{- define "ingress.prefix" -}}nginx.ingress.kubernetes.io/{{- end -}}

{{/* Those that every Ingress of the release has, but for redirects. */}}
{{- define "ingress.typedAnnotations" -}}
{{- $n := include "ingress.prefix" . -}}
{{- with .Values }}
{{- if and .bodySize (ne (toString .bodySize) "0") }}
{{ $n }}proxy-body-size: {{ .bodySize | toString | quote }}
{{ $n }}proxy-request-buffering: "on"
{{- else }}
{{- if eq (toString .bodySize) "0" }}
{{ $n }}proxy-body-size: "0"
{{- end }}
{{- if kindIs "bool" .requestBuffering }}
{{ $n }}proxy-request-buffering: {{ ternary "on" "off" .requestBuffering | quote }}
{{- end }}
{{- end }}
{{- if kindIs "bool" .responseBuffering }}
{{ $n }}proxy-buffering: {{ ternary "on" "off" .responseBuffering | quote }}
{{- end }}
{{- with .buffers.request }}
{{ $n }}client-body-buffer-size: {{ quote . }}
{{- end }}
{{- with .buffers.size }}
{{ $n }}proxy-buffer-size: {{ quote . }}
{{- end }}
{{- range $what, $time := .timeouts }}
{{- if $time }}
{{ $n }}proxy-{{ $what }}-timeout: {{ include "ingress.seconds" (list (printf "timeouts.%s" $what) $time) | quote }}
{{- end }}
{{- end }}
{{- range $what, $limit := .rateLimit }}
{{- if $limit }}
{{ $n }}limit-{{ $what }}: {{ $limit | int | quote }}
{{- end }}
{{- end }}
{{- with .allowFrom }}
{{ $n }}whitelist-source-range: {{ join "," . | quote }}
{{- end }}
{{- with .auth.basic }}
{{- if .secret }}
{{ $n }}auth-type: basic
{{ $n }}auth-secret: {{ quote .secret }}
{{- with .realm }}
{{ $n }}auth-realm: {{ quote . }}
{{- end }}
{{- end }}
{{- end }}
{{- with .auth.external }}
{{- if .url }}
{{ $n }}auth-url: {{ quote .url }}
{{- with .signin }}
{{ $n }}auth-signin: {{ quote . }}
{{- end }}
{{- with .responseHeaders }}
{{ $n }}auth-response-headers: {{ join "," . | quote }}
{{- end }}
{{- with .method }}
{{ $n }}auth-method: {{ quote . }}
{{- end }}
{{- end }}
{{- end }}
{{- with .cors }}
{{- if .origins }}
{{ $n }}enable-cors: "true"
{{ $n }}cors-allow-origin: {{ join "," .origins | quote }}
{{ $n }}cors-allow-methods: {{ join "," .methods | quote }}
{{ $n }}cors-allow-headers: {{ join "," .headers | quote }}
{{- with .exposeHeaders }}
{{ $n }}cors-expose-headers: {{ join "," . | quote }}
{{- end }}
{{- /* The engine's default is true. */}}
{{ $n }}cors-allow-credentials: {{ .credentials | quote }}
{{ $n }}cors-max-age: {{ include "ingress.seconds" (list "cors.maxAge" .maxAge) | quote }}
{{- end }}
{{- end }}
{{- with .sticky }}
{{- if .enabled }}
{{ $n }}affinity: cookie
{{ $n }}affinity-mode: persistent
{{ $n }}session-cookie-name: {{ quote .cookie }}
{{ $n }}session-cookie-path: {{ quote .path }}
{{ $n }}session-cookie-samesite: {{ quote .sameSite }}
{{ $n }}session-cookie-secure: {{ ne $.Values.tls.mode "none" | quote }}
{{- with .maxAge }}
{{ $n }}session-cookie-max-age: {{ include "ingress.seconds" (list "sticky.maxAge" .) | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- if ne .protocol "HTTP" }}
{{ $n }}backend-protocol: {{ .protocol }}
{{- end }}
{{- end }}
{{- if gt (len (include "ingress.responseHeaders" . | fromJson)) 0 }}
{{ $n }}custom-headers: {{ printf "%s/%s-headers" .Release.Namespace (include "ingress.fullname" .) | quote }}
{{- end }}
{{ include "ingress.redirectToTLS" . }}
{{- end -}}

{{/* Whether plain HTTP is redirected. */}}
{{- define "ingress.redirectToTLS" -}}
{{- $n := include "ingress.prefix" . -}}
{{- $redirect := toString .Values.tls.redirect -}}
{{- if eq $redirect "always" }}
{{ $n }}force-ssl-redirect: "true"
{{- else if ne .Values.tls.mode "none" }}
{{ $n }}ssl-redirect: {{ quote $redirect }}
{{- end -}}
{{- end -}}

{{/* The operator's own, with full names. */}}
{{- define "ingress.ownAnnotations" -}}
{{- $own := dict -}}
{{- range $name, $value := include "common.words" (list "annotations" .Values.annotations) | fromYaml -}}
{{- $_ := set $own (ternary $name (printf "%s%s" (include "ingress.prefix" $) $name) (contains "/" $name)) $value -}}
{{- end -}}
{{- toJson $own -}}
{{- end -}}
