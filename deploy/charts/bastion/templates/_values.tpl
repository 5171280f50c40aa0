{{/* Resolves the values. Every template begins with this, since Helm removes null values together with their defaults. */}}
{{- define "bastion.values" -}}
{{- range $name, $value := omit .Values "config" "extraObjects" "global" -}}
{{- include "bastion.texts" (list $name $value) -}}
{{- end -}}
{{- include "bastion.withoutNulls" .Values -}}
{{- include "bastion.withDefaults" (list "" .Values (include "bastion.defaults" . | fromJson) false) -}}
{{- end -}}

{{/* Removes a null that Helm left because it had no default. */}}
{{- define "bastion.withoutNulls" -}}
{{- range $name, $value := . -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $ $name -}}
{{- else if and (kindIs "map" $value) (ne $name "global") -}}
{{- include "bastion.withoutNulls" $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Fills in defaults, from a list: a path, values, defaults (`{"=": DEFAULT}` each, or `{"~": DEFAULT}` where null has a
  meaning of its own), and whether all of these values are missing, so that none of them is null. */}}
{{- define "bastion.withDefaults" -}}
{{- $path := index . 0 -}}
{{- $values := index . 1 -}}
{{- $missing := index . 3 -}}
{{- range $name, $default := index . 2 -}}
{{- if hasKey $default "~" -}}
{{- if and $missing (not (kindIs "invalid" (get $default "~"))) -}}
{{- $_ := set $values $name (get $default "~") -}}
{{- end -}}
{{- else if not (hasKey $default "=") -}}
{{- $inside := not (hasKey $values $name) -}}
{{- if $inside -}}
{{- $_ := set $values $name dict -}}
{{- end -}}
{{- include "bastion.withDefaults" (list (printf "%s%s." $path $name) (get $values $name) $default $inside) -}}
{{- else if not (hasKey $values $name) -}}
{{- $_ := set $values $name (get $default "=") -}}
{{- else if and (kindIs "string" (get $default "=")) (not (kindIs "string" (get $values $name))) -}}
{{- fail (printf "%s%s is a text, and %v is none: put it into quotes, or give it by --set-string." $path $name (get $values $name)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Converts labels and annotations to texts: whole numbers, true and false become what they look like. From a list: a path, a value. */}}
{{- define "bastion.texts" -}}
{{- $path := index . 0 -}}
{{- $value := index . 1 -}}
{{- if kindIs "slice" $value -}}
{{- range $value -}}
{{- include "bastion.texts" (list $path .) -}}
{{- end -}}
{{- else if kindIs "map" $value -}}
{{- $words := regexMatch "(^|[.])(commonLabels|commonAnnotations|podLabels|podAnnotations|nodeSelector|labels|annotations|attributes|roles)$" $path -}}
{{- range $name, $inner := $value -}}
{{- if not $words -}}
{{- include "bastion.texts" (list (printf "%s.%s" $path $name) $inner) -}}
{{- else if kindIs "bool" $inner -}}
{{- $_ := set $value $name (toString $inner) -}}
{{- else if or (kindIs "float64" $inner) (kindIs "int64" $inner) (kindIs "int" $inner) -}}
{{- if ne (float64 $inner) (int64 $inner | float64) -}}
{{- fail (printf "%s: %s is to be a text, and %v is a number that may have been written otherwise: put it into quotes." $path $name $inner) -}}
{{- end -}}
{{- $_ := set $value $name (int64 $inner | toString) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
