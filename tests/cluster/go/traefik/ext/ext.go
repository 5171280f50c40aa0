// Package ext stands in for Traefik's extension point, which is empty in its own tree too and left out of its module.
package ext

// HTTP is what another edition adds to the configuration of HTTP.
type HTTP struct{}

// Router is what another edition adds to a router.
type Router struct{}
