module tunnel-suite.invalid/tests/cluster/traefik

go 1.26

require (
	// The fork that Traefik authenticates with, as its 3.7.10 had it: the later revision is not published.
	github.com/containous/go-http-auth v0.4.1-0.20200324110947-a37a7636d23e
	github.com/traefik/traefik/v3 v3.7.13
)
