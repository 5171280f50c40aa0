{{/* What the schema cannot say: settings that contradict each other, or that the engine would drop without a word. Each is refused with a sentence. */}}

{{- define "ingress.validate" -}}
{{- if not .Values.domains -}}
{{- fail "domains: there is none. Say which names clients use, such as [shop.example.com]." -}}
{{- end -}}
{{- if not (or .Values.paths .Values.redirects) -}}
{{- fail "paths: there is none. Say what is served, such as [{path: /, service: shop, port: http}], or redirects." -}}
{{- end -}}
{{- if and (eq .Values.engine "ingress-nginx") (not .Values.acceptUnmaintained) -}}
{{- fail "engine: ingress-nginx gets no security updates since March 2026. Set engine to traefik, which reads the same annotations, or acceptUnmaintained to true." -}}
{{- end -}}
{{- include "ingress.validatePaths" . -}}
{{- include "ingress.validateRedirects" . -}}
{{- include "ingress.validateExternal" . -}}
{{- include "ingress.validateSettings" . -}}
{{- include "ingress.validateAnnotations" . -}}
{{- include "ingress.validatePassthrough" . -}}
{{- include "ingress.validateCDN" . -}}
{{- if eq .Values.api "gateway" -}}
{{- include "ingress.validateGateway" . -}}
{{- end -}}
{{- end -}}

{{- define "ingress.validateCDN" -}}
{{- with .Values.cdn -}}
{{- if .enabled -}}
{{- if not .origin -}}
{{- fail "cdn.origin: say the name by which the CDN asks for what it has not, such as origin.shop.example.com. It leads to the engine; the names under domains lead to the CDN." -}}
{{- end -}}
{{- if has .origin $.Values.domains -}}
{{- fail (printf "cdn.origin: %s stands under domains too, and the CDN would ask itself. Write another name." .origin) -}}
{{- end -}}
{{- if has $.Values.tls.mode (list "none" "passthrough") -}}
{{- fail (printf "cdn: it asks by HTTPS alone, and tls.mode is %s. Choose shared, dedicated or default, with a certificate for %s." $.Values.tls.mode .origin) -}}
{{- end -}}
{{- if $.Values.sticky.enabled -}}
{{- fail "cdn: what it keeps it keeps with the cookie that a client gets, and gives it to others. Leave out sticky." -}}
{{- end -}}
{{- range $key, $set := dict "allowFrom" $.Values.allowFrom "rateLimit" (or $.Values.rateLimit.rps $.Values.rateLimit.rpm $.Values.rateLimit.connections) -}}
{{- if $set -}}
{{- fail (printf "cdn: to the engine the CDN is the client, and %s would be about it. Limit clients there (AWS WAF), or leave cdn out." $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The engine does not see what is asked for there, and can do nothing about it. */}}
{{- define "ingress.validatePassthrough" -}}
{{- if eq .Values.tls.mode "passthrough" -}}
{{- $path := dict -}}
{{- with .Values.paths -}}{{- $path = first . -}}{{- end -}}
{{- if or (ne (len .Values.paths) 1) .Values.redirects (ne (dig "path" "" $path) "/") (not $path.service) $path.rewrite $path.exact $path.regex -}}
{{- fail "tls.mode: passthrough: the engine sees no paths there. Write one alone, [{path: /, service: shop, port: https}], and no redirects." -}}
{{- end -}}
{{- $n := include "ingress.prefix" . -}}
{{- range $key, $value := include "ingress.typedAnnotations" . | fromYaml -}}
{{- if not (has (trimPrefix $n $key) (list "ssl-redirect" "force-ssl-redirect")) -}}
{{- fail (printf "tls.mode: passthrough: the engine sees no requests there, and %s would not hold. Leave it out, or choose another tls.mode." (trimPrefix $n $key)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "ingress.validatePaths" -}}
{{- $seen := dict -}}
{{- range .Values.paths -}}
{{- if eq (hasKey . "service") (hasKey . "backend") -}}
{{- fail (printf "paths: %s says either service or backend." .path) -}}
{{- end -}}
{{- if and .service (not .port) -}}
{{- fail (printf "paths: say the port of %s for %s, by number or by name." .service .path) -}}
{{- end -}}
{{- if and .backend .port -}}
{{- fail (printf "paths: the port of %s stands under externalBackends. Leave it out for %s." .backend .path) -}}
{{- end -}}
{{- if and .backend (not (include "ingress.external" (list $ .backend))) -}}
{{- fail (printf "paths: %s goes to %s, which is not among externalBackends." .path .backend) -}}
{{- end -}}
{{- if and .stripPrefix .rewrite -}}
{{- fail (printf "paths: %s says either stripPrefix or rewrite." .path) -}}
{{- end -}}
{{- if and .stripPrefix (or .exact .regex (eq .path "/")) -}}
{{- fail (printf "paths: stripPrefix takes a prefix away, and %s is none. Use rewrite." .path) -}}
{{- end -}}
{{- if and .exact .regex -}}
{{- fail (printf "paths: %s says either exact or regex. An expression ends where it says $." .path) -}}
{{- end -}}
{{- if and .rewrite (contains "?" .rewrite) -}}
{{- fail (printf "paths: the rewrite %s has a query, and the engine takes its question mark for a part of the path. Write a path alone: the request's own query stays." .rewrite) -}}
{{- end -}}
{{- if and .rewrite (contains "$" .rewrite) (not .regex) -}}
{{- fail (printf "paths: the rewrite %s refers to a group of an expression, and %s is none. Set regex to true." .rewrite .path) -}}
{{- end -}}
{{- $key := printf "%s %t" .path (default false .exact) -}}
{{- if hasKey $seen $key -}}
{{- fail (printf "paths: %s stands there twice." .path) -}}
{{- end -}}
{{- $_ := set $seen $key true -}}
{{- end -}}
{{- end -}}

{{- define "ingress.validateRedirects" -}}
{{- range .Values.redirects -}}
{{- if contains "$" .to -}}
{{- fail (printf "redirects: %s: the engine knows no variables there. Write the address alone and keepPath: true, which adds the path and the query." .to) -}}
{{- end -}}
{{- if not (regexMatch "^https?://[^/]+" .to) -}}
{{- fail (printf "redirects: %s: write a whole address, such as https://new.example.com/x." .to) -}}
{{- end -}}
{{- if and .keepPath (contains "?" .to) -}}
{{- fail (printf "redirects: %s has a query, behind which no path can be kept. Leave out keepPath or the query." .to) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "ingress.validateExternal" -}}
{{- $names := dict -}}
{{- range .Values.externalBackends -}}
{{- if hasKey $names .name -}}
{{- fail (printf "externalBackends: two are called %s." .name) -}}
{{- end -}}
{{- $_ := set $names .name true -}}
{{- if eq (hasKey . "host") (hasKey . "addresses") -}}
{{- fail (printf "externalBackends: %s says either host or addresses." .name) -}}
{{- end -}}
{{- with .host -}}
{{- if or (contains "/" .) (contains ":" .) -}}
{{- fail (printf "externalBackends: host is a name, not a URL: %s. The rest stands under scheme and port." .) -}}
{{- end -}}
{{- if regexMatch "^[0-9.]+$" . -}}
{{- fail (printf "externalBackends: %s is an address, to which no name can lead. Use addresses: [%s]." . .) -}}
{{- end -}}
{{- end -}}
{{- range .addresses -}}
{{- if not (include "common.addressGroups" .) -}}
{{- fail (printf "externalBackends: %s is no address." .) -}}
{{- end -}}
{{- $address := . -}}
{{- range list "127.0.0.0/8" "169.254.0.0/16" "224.0.0.0/4" "::1/128" "fe80::/10" "ff00::/8" -}}
{{- if include "common.isIn" (list $address .) -}}
{{- fail (printf "externalBackends: %s is of the node itself or of its link (%s), which Kubernetes takes for no endpoint. Write an address that the ingress controller reaches." $address .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $https := eq (default "http" .scheme) "https" -}}
{{- if and (or .verify .serverName) (not $https) -}}
{{- fail (printf "externalBackends: serverName and verify of %s are for scheme https." .name) -}}
{{- end -}}
{{- if and .verify .addresses (not .serverName) -}}
{{- fail (printf "externalBackends: say serverName of %s, the name in the certificate that verify checks." .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "ingress.validateSettings" -}}
{{- with .Values -}}
{{- $limited := and .bodySize (ne (toString .bodySize) "0") -}}
{{- if and $limited (kindIs "bool" .requestBuffering) (not .requestBuffering) -}}
{{- fail (printf "bodySize is %s, and requestBuffering is false: the engine measures only what it reads before the service gets it. Leave requestBuffering out, or bodySize." (toString .bodySize)) -}}
{{- end -}}
{{- if and .buffers.request (not $limited) (not .requestBuffering) -}}
{{- fail "buffers.request: nothing is held in memory without requestBuffering: true." -}}
{{- end -}}
{{- if and .buffers.size (not .responseBuffering) -}}
{{- fail "buffers.size: nothing is held in memory without responseBuffering: true." -}}
{{- end -}}
{{- range $what, $time := .timeouts -}}
{{- if $time -}}{{- $_ := include "ingress.seconds" (list (printf "timeouts.%s" $what) $time) -}}{{- end -}}
{{- end -}}
{{- if and (has "*" .cors.origins) .cors.credentials -}}
{{- fail "cors.credentials: with origins \"*\" every site could act in the name of its visitors. Name the origins, or leave credentials out." -}}
{{- end -}}
{{- range .cors.origins -}}
{{- if and (contains "*" .) (ne . "*") -}}
{{- fail (printf "cors.origins: the engine compares %s letter by letter, so that no origin is like it. Name each of them." .) -}}
{{- end -}}
{{- end -}}
{{- if and .sticky.enabled (eq .sticky.sameSite "None") (eq .tls.mode "none") -}}
{{- fail "sticky.sameSite: browsers drop a cookie with None that is not of TLS. Set tls.mode, or Lax." -}}
{{- end -}}
{{- if and .auth.basic.secret (contains "/" .auth.basic.secret) -}}
{{- fail (printf "auth.basic.secret: %s: the engine reads Secrets of the release's namespace only. Write its name alone." .auth.basic.secret) -}}
{{- end -}}
{{- if and .auth.external.signin (not .auth.external.url) -}}
{{- fail "auth.external.signin: say under url who is asked about each request." -}}
{{- end -}}
{{- range $name, $value := .headers.response -}}
{{- if not (regexMatch "^[-A-Za-z0-9]+$" $name) -}}
{{- fail (printf "headers.response: %q is no name of a header." $name) -}}
{{- end -}}
{{- if not (regexMatch "^[a-zA-Z0-9_ :;.,\\\\/\"'?!(){}\\[\\]@<>=+*#$&`|~^%-]+$" (toString $value)) -}}
{{- fail (printf "headers.response: the value of %s has letters that the engine does not take, and it would answer 503." $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Annotations that the engine would ignore, or understand in another way than they say. */}}
{{- define "ingress.validateAnnotations" -}}
{{- $n := include "ingress.prefix" . -}}
{{- $own := include "ingress.ownAnnotations" . | fromJson -}}
{{- $typed := merge (dict) (include "ingress.typedAnnotations" . | fromYaml) -}}
{{- $traefik := eq .Values.engine "traefik" -}}
{{- $remedies := dict
  "denylist-source-range" "name the networks that may under allowFrom"
  "satisfy" "use either allowFrom or auth"
  "auth-tls-match-cn" "check the name in the service"
  "limit-whitelist" "use another domain without rateLimit for these clients"
  "limit-allowlist" "use another domain without rateLimit for these clients"
  "limit-rate" "limit it in the service"
  "limit-rate-after" "limit it in the service"
  "global-rate-limit" "use rateLimit, which each replica counts by itself"
  "global-rate-limit-window" "use rateLimit, which each replica counts by itself"
  "global-rate-limit-key" "use rateLimit, which each replica counts by itself"
  "enable-modsecurity" "put a firewall for applications in front"
  "enable-owasp-core-rules" "put a firewall for applications in front"
  "modsecurity-snippet" "put a firewall for applications in front"
  "modsecurity-transaction-id" "put a firewall for applications in front"
  "ssl-ciphers" "set them for the whole engine"
  "ssl-prefer-server-ciphers" "set it for the whole engine"
  "mirror-target" "mirror in the service"
  "mirror-host" "mirror in the service"
  "mirror-request-body" "mirror in the service"
-}}
{{- range $key, $value := $own -}}
{{- if hasPrefix $n $key -}}
{{- $name := trimPrefix $n $key -}}
{{- if and $traefik (hasKey $remedies $name) -}}
{{- fail (printf "annotations: %s is not enforced by Traefik, and what it forbids would be open. Leave it out and %s." $name (get $remedies $name)) -}}
{{- end -}}
{{- if and (hasSuffix "-snippet" $name) (not $.Values.allowSnippets) -}}
{{- fail (printf "annotations: for the sake of %s the engine would not serve this Ingress at all. Use headers, redirects or paths; or set allowSnippets to true where the engine is told to take snippets." $name) -}}
{{- end -}}
{{- if and (regexMatch "^(proxy-(read|send|connect)-timeout|limit-(rps|rpm|connections|burst-multiplier)|session-cookie-max-age|session-cookie-expires|cors-max-age|proxy-buffers-number|proxy-next-upstream-(tries|timeout)|(permanent|temporal)-redirect-code|canary-weight(-total)?)$" $name) (not (regexMatch "^[0-9]+$" $value)) -}}
{{- fail (printf "annotations: %s is %s, and the engine drops what is not a whole number without a word: write whole seconds, without a unit." $name $value) -}}
{{- end -}}
{{- if and $traefik (eq $name "backend-protocol") (has (upper $value) (list "FCGI" "AUTO_HTTP")) -}}
{{- fail (printf "annotations: Traefik would speak plain HTTP to a backend of protocol %s. Use protocol: HTTP, HTTPS, GRPC or GRPCS." $value) -}}
{{- end -}}
{{- if and (eq $name "proxy-body-size") (not (regexMatch "^0+[bkmgBKMG]?$" $value)) (ne (get $own (printf "%sproxy-request-buffering" $n)) "on") (not $.Values.requestBuffering) -}}
{{- fail (printf "annotations: proxy-body-size limits nothing without proxy-request-buffering: \"on\". Use bodySize: %s, which sets both." $value) -}}
{{- end -}}
{{- if and (regexMatch "^(permanent|temporal)-redirect$" $name) (contains "$" $value) -}}
{{- fail (printf "annotations: %s: the engine knows no variables there. Use redirects, with keepPath: true." $name) -}}
{{- end -}}
{{- if and $traefik (eq $name "cors-allow-origin") (regexMatch "[*][^,]" $value) -}}
{{- fail (printf "annotations: the engine compares origins letter by letter, and none is like %s. Name each of them under cors.origins." $value) -}}
{{- end -}}
{{- if eq $name "ssl-passthrough" -}}
{{- fail "annotations: with ssl-passthrough alone the engine finds no path to pass. Set tls.mode to passthrough, which writes what it needs." -}}
{{- end -}}
{{- if has $name (list "use-regex" "rewrite-target" "app-root") -}}
{{- fail (printf "annotations: %s changes how all paths of the host are found, those of other releases too. Use paths: stripPrefix, rewrite or regex; or redirects." $name) -}}
{{- end -}}
{{- end -}}
{{- if and (hasKey $typed $key) (ne (get $typed $key) $value) -}}
{{- fail (printf "annotations: %s is said there and by another value of this chart, as %q and %q. Say it once." $key $value (get $typed $key)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What the Gateway API does not have, or Traefik does not do by it. */}}
{{- define "ingress.validateGateway" -}}
{{- $no := "is not available with api: gateway" -}}
{{- range $key, $set := dict
  "bodySize" (ne (toString .Values.bodySize) "")
  "requestBuffering" (kindIs "bool" .Values.requestBuffering)
  "responseBuffering" (kindIs "bool" .Values.responseBuffering)
  "timeouts" (or .Values.timeouts.read .Values.timeouts.send .Values.timeouts.connect)
  "rateLimit" (or .Values.rateLimit.rps .Values.rateLimit.rpm .Values.rateLimit.connections)
  "allowFrom" .Values.allowFrom
  "auth" (or .Values.auth.basic.secret .Values.auth.external.url)
  "cors" .Values.cors.origins
  "sticky" .Values.sticky.enabled
-}}
{{- if $set -}}
{{- fail (printf "%s %s: Traefik has no such filter there. Use api: ingress, or let the service do it." $key $no) -}}
{{- end -}}
{{- end -}}
{{- range $key, $_ := include "ingress.ownAnnotations" . | fromJson -}}
{{- if hasPrefix (include "ingress.prefix" $) $key -}}
{{- fail (printf "annotations: %s %s, where no one reads it. Use api: ingress." $key $no) -}}
{{- end -}}
{{- end -}}
{{- if .Values.annotations -}}
{{- fail (printf "annotations %s: they belong to an Ingress. Use commonAnnotations." $no) -}}
{{- end -}}
{{- if has .Values.tls.mode (list "dedicated") -}}
{{- fail (printf "tls.mode: dedicated %s: a certificate belongs to a listener of the Gateway. Set tls.mode to default and add the certificate to the Gateway, or use api: ingress." $no) -}}
{{- end -}}
{{- if eq .Values.tls.mode "shared" -}}
{{- fail (printf "tls.mode: shared %s: a certificate belongs to a listener of the Gateway, and a Secret of this namespace is not read. Set tls.mode to default, or use api: ingress." $no) -}}
{{- end -}}
{{- if eq .Values.tls.mode "passthrough" -}}
{{- fail (printf "tls.mode: passthrough %s: it is a TLSRoute, which this chart does not make. Use api: ingress." $no) -}}
{{- end -}}
{{- if eq (toString .Values.tls.redirect) "always" -}}
{{- fail (printf "tls.redirect: always %s: the route does not know what a balancer before it has received. Redirect there." $no) -}}
{{- end -}}
{{- if ne .Values.protocol "HTTP" -}}
{{- fail (printf "protocol: %s %s: a route takes it from the port of the Service. Set appProtocol there (chart workload: containers[].ports[].appProtocol), such as kubernetes.io/h2c." .Values.protocol $no) -}}
{{- end -}}
{{- if ne .Values.class "public" -}}
{{- fail (printf "class: %s %s: say the Gateway under gateway.name." .Values.class $no) -}}
{{- end -}}
{{- range .Values.paths -}}
{{- if .regex -}}
{{- fail (printf "paths: an expression, as %s, %s: others would understand it otherwise. Write prefixes, or use api: ingress." .path $no) -}}
{{- end -}}
{{- if and .service (kindIs "string" .port) -}}
{{- fail (printf "paths: the port %s of %s by name %s. Write the Service's number." .port .service $no) -}}
{{- end -}}
{{- end -}}
{{- range .Values.redirects -}}
{{- if contains "?" .to -}}
{{- fail (printf "redirects: a query, as in %s, %s. Use api: ingress." .to $no) -}}
{{- end -}}
{{- end -}}
{{- range .Values.externalBackends -}}
{{- if .host -}}
{{- fail (printf "externalBackends: the host %s %s: the Gateway API asks for endpoints. Write addresses, or use api: ingress." .host $no) -}}
{{- end -}}
{{- if and (eq (default "http" .scheme) "https") (not .verify) -}}
{{- fail (printf "externalBackends: %s by https without verify %s: a BackendTLSPolicy always checks. Say verify and serverName." .name $no) -}}
{{- end -}}
{{- end -}}
{{- end -}}
