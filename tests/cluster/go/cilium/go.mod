module tunnel-suite.invalid/tests/cluster/cilium

go 1.26

require github.com/cilium/cilium v1.15.19
