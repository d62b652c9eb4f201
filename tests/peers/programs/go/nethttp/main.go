// Command nethttp is a target program: Go's own HTTP server.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"

	"waggle.test/peers/internal/peer"
)

func main() {
	listener, err := peer.ListenFlag()
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, routes()))
}

func routes() *http.ServeMux {
	mux := http.NewServeMux()
	client := peer.NewClient()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "ready\n")
	})
	mux.HandleFunc("GET /n/{n}", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, peer.Body(r.PathValue("n")))
	})
	mux.HandleFunc("GET /slow/{n}", func(w http.ResponseWriter, r *http.Request) {
		peer.Sleep(r, r.URL.Query().Get("ms"))
		io.WriteString(w, peer.Body(r.PathValue("n")))
	})
	mux.HandleFunc("GET /status/{code}/{n}", answerStatus)
	mux.HandleFunc("GET /chunked/{n}", func(w http.ResponseWriter, r *http.Request) {
		peer.WriteChunks(w, r.PathValue("n"))
	})
	mux.HandleFunc("GET /big/{n}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(peer.BigBody))
		io.WriteString(w, peer.Big(r.PathValue("n")))
	})
	mux.HandleFunc("GET /until-close/{n}", answerUntilClose)
	mux.HandleFunc("POST /echo/{n}", answerEcho)
	mux.HandleFunc("GET /call/{n}", func(w http.ResponseWriter, r *http.Request) {
		body, err := peer.Call(client, r, r.PathValue("n"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		io.WriteString(w, body)
	})
	return mux
}

func answerStatus(w http.ResponseWriter, r *http.Request) {
	code, err := strconv.Atoi(r.PathValue("code"))
	if err != nil || code < 200 || code > 599 {
		http.Error(w, "no such status", http.StatusBadRequest)
		return
	}
	w.WriteHeader(code)
	if code != http.StatusNoContent && code != http.StatusNotModified {
		io.WriteString(w, peer.Body(r.PathValue("n")))
	}
}

// answerUntilClose sends a body without length or chunks; its end is the end of the connection.
func answerUntilClose(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Transfer-Encoding", "identity")
	io.WriteString(w, peer.Body(r.PathValue("n")))
}

func answerEcho(w http.ResponseWriter, r *http.Request) {
	size, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "n=%s bytes=%d\n", r.PathValue("n"), size)
}
