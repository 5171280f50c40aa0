{{/* What the schema cannot say: settings that contradict each other, each refused with a sentence. */}}

{{- define "workload.validate" -}}
{{- $service := .Values.service -}}
{{- $kind := .Values.controller.kind -}}

{{- if eq $kind "none" -}}
{{- if .Values.containers -}}
{{- fail "containers: with controller.kind none there are no pods to hold them. Say Deployment or StatefulSet, or select pods of others by service.selector." -}}
{{- end -}}
{{- if and (not $service.selector) (ne $service.type "ExternalName") -}}
{{- fail "service.selector: with controller.kind none say which pods the Service is for, such as {app.kubernetes.io/name: web}." -}}
{{- end -}}
{{- if and (not $service.ports) (ne $service.type "ExternalName") -}}
{{- fail "service.ports: with controller.kind none say the Service's ports, such as [{name: http, port: 80, targetPort: 8080}]." -}}
{{- end -}}
{{- else -}}
{{- if not .Values.containers -}}
{{- fail "containers: there is none. Write at least one, such as [{name: web, image: registry.example.com/web:1.2}], or set controller.kind to none for a Service alone." -}}
{{- end -}}
{{- if or $service.selector $service.ports -}}
{{- fail (printf "service.selector and service.ports are for controller.kind none; the pods of this %s are selected, and their containers' ports are the Service's. Say ports under containers[].ports." $kind) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.controller.volumeClaimTemplates (ne $kind "StatefulSet") -}}
{{- fail (printf "controller.volumeClaimTemplates are for a StatefulSet, and controller.kind is %s." $kind) -}}
{{- end -}}
{{- with .Values.controller.strategy -}}
{{- if and (eq .type "RollingUpdate") (has (dig "rollingUpdate" "maxSurge" 1 . | toString) (list "0" "0%")) (has (dig "rollingUpdate" "maxUnavailable" 0 . | toString) (list "0" "0%")) -}}
{{- fail "controller.strategy.rollingUpdate: with maxSurge and maxUnavailable both 0 no pod can be replaced." -}}
{{- end -}}
{{- end -}}

{{- include "workload.validatePorts" . -}}
{{- include "workload.validateService" . -}}
{{- include "workload.validateMesh" . -}}
{{- end -}}

{{- define "workload.validatePorts" -}}
{{- $names := dict -}}
{{- $numbers := dict -}}
{{- range .Values.containers -}}
{{- $container := .name -}}
{{- range .ports -}}
{{- if gt (len .name) 15 -}}
{{- fail (printf "containers: the port name %s of %s has %d characters, and Kubernetes takes 15 at most: write a shorter one." .name $container (len .name)) -}}
{{- end -}}
{{- if not (regexMatch "[a-z]" .name) -}}
{{- fail (printf "containers: the port name %q of %s has no letter, which Kubernetes asks for." .name $container) -}}
{{- end -}}
{{- $name := .name -}}
{{- with get $names $name -}}
{{- $first := . -}}
{{- fail (printf "containers: %s and %s both call a port %s; a Service tells ports apart by name: write another one." $first $container $name) -}}
{{- end -}}
{{- $_ := set $names .name $container -}}
{{- $number := printf "%d/%s" (int .port) (default "TCP" .protocol) -}}
{{- with get $numbers $number -}}
{{- fail (printf "containers: %s and %s both listen on port %s; containers of a pod share its ports: write another number." . $container $number) -}}
{{- end -}}
{{- $_ := set $numbers $number $container -}}
{{- end -}}
{{- end -}}
{{- $served := dict -}}
{{- range include "workload.servicePorts" . | fromJsonArray -}}
{{- $number := printf "%d/%s" (int .port) (default "TCP" .protocol) -}}
{{- with get $served $number -}}
{{- fail (printf "the Service has port %s twice, for %s and another: write another servicePort." $number .) -}}
{{- end -}}
{{- $_ := set $served $number .name -}}
{{- if and .nodePort (not (has $.Values.service.type (list "NodePort" "LoadBalancer"))) -}}
{{- fail (printf "nodePort of the port %s is set, and service.type is %s: say NodePort or LoadBalancer, or leave it out." .name $.Values.service.type) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "workload.validateService" -}}
{{- with .Values.service -}}
{{- $external := eq .type "ExternalName" -}}
{{- if and .ip .headless -}}
{{- fail "service.ip: a headless Service has no address. Leave out service.ip or service.headless." -}}
{{- end -}}
{{- if and .ip $external -}}
{{- fail "service.ip: an ExternalName is a name for another one and has no address. Leave out service.ip, or say another service.type." -}}
{{- end -}}
{{- if and .headless (ne .type "ClusterIP") -}}
{{- fail (printf "service.headless: only a Service of type ClusterIP can do without an address, and service.type is %s." .type) -}}
{{- end -}}
{{- if and .ip (not (include "common.addressGroups" .ip)) -}}
{{- fail (printf "service.ip: %q is no address." .ip) -}}
{{- end -}}
{{- if and .ip .cidr (not (include "common.isIn" (list .ip .cidr))) -}}
{{- fail (printf "service.ip: %s is not in service.cidr, %s, and the API server would refuse it: write an address of that range, or leave it out." .ip .cidr) -}}
{{- end -}}
{{- if and $external (not .externalName) -}}
{{- fail "service.externalName: say the name that an ExternalName stands for, such as db.example.com." -}}
{{- end -}}
{{- if and .externalName (not $external) -}}
{{- fail (printf "service.externalName is for service.type ExternalName, and that is %s." .type) -}}
{{- end -}}
{{- if regexMatch "^[0-9.]+$|:" .externalName -}}
{{- fail (printf "service.externalName: %q is an address or a URL, and DNS needs a name. For addresses use an EndpointSlice: externalBackends of the chart ingress." .externalName) -}}
{{- end -}}
{{- if and (ne .type "LoadBalancer") (or .loadBalancerClass .loadBalancerSourceRanges .aws.enabled) -}}
{{- fail (printf "service.loadBalancerClass, service.loadBalancerSourceRanges and service.aws are for a load balancer, and service.type is %s." .type) -}}
{{- end -}}
{{- if and .aws.enabled (eq .externalTrafficPolicy "Local") -}}
{{- fail "service.aws sends to pods by itself: with service.externalTrafficPolicy Local it would find no node to be well. Leave it at Cluster; the client's address is kept." -}}
{{- end -}}
{{- if and .hostnames $external -}}
{{- fail "service.hostnames: ExternalDNS would lead these names to service.externalName, which is another's. Use a DNS record of your zone, or another service.type." -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "workload.validateMesh" -}}
{{- $inject := .Values.mesh.inject -}}
{{- $said := get .Values.podAnnotations "linkerd.io/inject" -}}
{{- if and $said $inject (ne $said $inject) -}}
{{- fail (printf "podAnnotations: linkerd.io/inject is %s, and mesh.inject is %s. Say it once, under mesh.inject." $said $inject) -}}
{{- end -}}
{{- range $place, $annotations := dict "commonAnnotations" .Values.commonAnnotations "controller.annotations" .Values.controller.annotations "service.annotations" .Values.service.annotations -}}
{{- if hasKey $annotations "linkerd.io/inject" -}}
{{- fail (printf "%s: linkerd.io/inject does nothing there; Linkerd reads it on pods. Say it under mesh.inject." $place) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.mesh.circuitBreaking.enabled (eq .Values.service.type "ExternalName") -}}
{{- fail "mesh.circuitBreaking: an ExternalName has no pods to leave alone." -}}
{{- end -}}
{{- end -}}
