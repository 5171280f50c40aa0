module tunnel-suite.invalid/tests/cluster/definitions

go 1.26

require (
	github.com/cert-manager/cert-manager v1.21.2
	github.com/cilium/cilium v1.20.2
	sigs.k8s.io/gateway-api v1.5.1
)
