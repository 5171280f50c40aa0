{{/* Values as they are meant: defaults for what is null or missing, and nothing that is null. */}}

{{/* Fills `.Values`, from a list: the root, the chart's name. Every template of a chart begins with it; a second time it changes nothing. */}}
{{- define "common.init" -}}
{{- $root := index . 0 -}}
{{- include "common.withoutNull" $root.Values -}}
{{- include "common.fill" (list $root.Values (include (printf "%s.defaults" (index . 1)) $root | fromJson)) -}}
{{- end -}}

{{/* Takes what is null out of maps, at every depth. */}}
{{- define "common.withoutNull" -}}
{{- if kindIs "map" . -}}
{{- range $key := keys . -}}
{{- $value := get $ $key -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $ $key -}}
{{- else -}}
{{- include "common.withoutNull" $value -}}
{{- end -}}
{{- end -}}
{{- else if kindIs "slice" . -}}
{{- range . -}}
{{- include "common.withoutNull" . -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Adds to a map what it lacks of another, at every depth: sprig's merge takes false and 0 for what is missing. */}}
{{- define "common.fill" -}}
{{- $into := index . 0 -}}
{{- range $key, $default := index . 1 -}}
{{- if not (hasKey $into $key) -}}
{{- if not (kindIs "invalid" $default) -}}
{{- $_ := set $into $key $default -}}
{{- end -}}
{{- else if and (kindIs "map" $default) (kindIs "map" (get $into $key)) -}}
{{- include "common.fill" (list (get $into $key) $default) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels or annotations as they were written, from a list: what they are called, the map. Anything but a string is refused. */}}
{{- define "common.words" -}}
{{- $path := index . 0 -}}
{{- range $key, $value := index . 1 -}}
{{- if not (kindIs "string" $value) -}}
{{- fail (printf "%s: the value of %s is %v, and Kubernetes takes strings only: quote it, %s: %q." $path $key $value $key (toString $value)) -}}
{{- end -}}
{{- end -}}
{{- toYaml (index . 1) -}}
{{- end -}}
