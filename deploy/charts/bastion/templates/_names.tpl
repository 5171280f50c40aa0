{{/* Names, labels and the image: what every object says about itself. */}}

{{- define "bastion.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "bastion.fullname" -}}
{{- $name := include "bastion.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Of what stands outside the release's namespace. No namespace has a colon in its name, and no release: so no two releases come to the same. */}}
{{- define "bastion.nameOutside" -}}
{{- printf "%s:%s" .Release.Namespace (include "bastion.fullname" .) -}}
{{- end -}}

{{/* The release's pods, for PromQL, and not those of a release whose name begins with this one's: a Deployment puts two words behind its own. */}}
{{- define "bastion.podPattern" -}}
{{- printf "%s-[bcdfghjklmnpqrstvwxz2-9]+-[bcdfghjklmnpqrstvwxz2-9]{5}" (include "bastion.fullname" . | regexQuoteMeta) -}}
{{- end -}}

{{- define "bastion.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "bastion.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* What the Deployment, the Service and the policies select the bastion's pods by. Never changes in the life of a release. */}}
{{- define "bastion.selector" -}}
app.kubernetes.io/name: {{ include "bastion.name" . | quote }}
app.kubernetes.io/instance: {{ quote .Release.Name }}
app.kubernetes.io/component: bastion
{{- end -}}

{{/* The pod of `helm test`, which the policies let in. */}}
{{- define "bastion.testSelector" -}}
app.kubernetes.io/name: {{ include "bastion.name" . | quote }}
app.kubernetes.io/instance: {{ quote .Release.Name }}
app.kubernetes.io/component: test
{{- end -}}

{{/* The checks of `helm test`, as arguments of `bastion-server probe`. */}}
{{- define "bastion.questions" -}}
{{- $needs := include "bastion.needs" . | fromYaml -}}
{{- /* Behind a balancer only the balancer may connect. */}}
{{- if not $needs.proxyProtocol }}
- --ssh={{ include "bastion.fullname" . }}:{{ .Values.service.port }}
{{- end }}
{{- /* An AuthorizationPolicy of Linkerd admits only the identities that it names. */}}
{{- if and .Values.metrics.service.enabled (not (and .Values.mesh.enabled .Values.mesh.policy.enabled)) }}
- --ready={{ include "bastion.fullname" . }}-admin:{{ include "bastion.port" .Values.config.admin.listen }}
{{- end }}
{{- end -}}

{{- define "bastion.labels" -}}
{{ include "bastion.selector" . }}
{{ include "bastion.commonLabels" . }}
{{- end -}}

{{- define "bastion.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The metadata of an object, from a list: the root, what comes behind the release's name, more labels, more annotations. */}}
{{- define "bastion.metadata" -}}
{{- $root := index . 0 -}}
{{- $labels := index . 2 -}}
{{- $annotations := merge (dict) (index . 3) $root.Values.commonAnnotations -}}
name: {{ include "bastion.fullname" $root }}{{ index . 1 }}
namespace: {{ quote $root.Release.Namespace }}
labels:
  {{- merge (dict) $labels (include "bastion.labels" $root | fromYaml) | toYaml | nindent 2 }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "bastion.image" -}}
{{- with .Values.image -}}
{{- $name := printf "%s%s" (ternary (printf "%s/" .registry) "" (ne .registry "")) .repository -}}
{{- if .digest -}}
{{- printf "%s@%s" $name .digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}
