//go:build go1.24
// +build go1.24

package main

import "net/http"

func init() {
	prepare = func(server *http.Server) {
		server.Protocols = new(http.Protocols)
		server.Protocols.SetHTTP1(true)
		server.Protocols.SetUnencryptedHTTP2(true)
	}
}
