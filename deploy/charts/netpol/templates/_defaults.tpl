{{/* Made of values.yaml by `make chart-documents`. */}}
{{- define "netpol.defaults" -}}
{"apiServer":[],"apiServerEndpoints":{"cidrs":[],"ports":[6443]},"clusterCIDRs":[],"commonAnnotations":{},"commonLabels":{},"crossNamespace":[],"dns":{"pods":[{"namespace":"kube-system","podLabels":{"k8s-app":"kube-dns"}}]},"extraPolicies":[],"flavour":"auto","fqdnEgress":[],"fromIngress":[],"ingressController":{"namespace":"ingress","podLabels":{"app.kubernetes.io/name":"traefik"}},"internetEgress":[],"privateCIDRs":["10.0.0.0/8","172.16.0.0/12","192.168.0.0/16","100.64.0.0/10","169.254.0.0/16","168.63.129.16/32","192.0.0.0/24","fc00::/7","fe80::/10","64:ff9b::a00:0/104","64:ff9b::ac10:0/108","64:ff9b::c0a8:0/112","64:ff9b::6440:0/106","64:ff9b::a9fe:0/112"]}
{{- end -}}
