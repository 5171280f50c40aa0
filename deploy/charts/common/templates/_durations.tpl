{{/* Seconds of a duration such as 15s, 10m or 1h 30m, rounded up, from a list: the setting, its text. */}}
{{- define "common.seconds" -}}
{{- $text := index . 1 | replace " " "" -}}
{{- $units := dict "ms" 1 "s" 1000 "sec" 1000 "second" 1000 "m" 60000 "min" 60000 "minute" 60000 "h" 3600000 "hr" 3600000 "hour" 3600000 "d" 86400000 "day" 86400000 "w" 604800000 "week" 604800000 -}}
{{- if not (regexMatch "^([0-9]+(ms|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|weeks?))+$" $text) -}}
{{- fail (printf "%s: %q is no duration that the chart can add up; write whole numbers and ms, s, m, h, d or w, such as 10m or 1h 30m." (index . 0) (index . 1)) -}}
{{- end -}}
{{- $total := 0 -}}
{{- range regexFindAll "[0-9]+[a-z]+" $text -1 -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- $total = add $total (mul (regexFind "^[0-9]+" . | int64) (get $units $unit | default (get $units (trimSuffix "s" $unit)))) -}}
{{- end -}}
{{- div (add $total 999) 1000 -}}
{{- end -}}
