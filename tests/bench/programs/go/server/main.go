// Command server is the Go program that is measured: net/http, and an account of what it answered.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"sync/atomic"
)

// answered counts the requests for numbers, which are the only ones that a benchmark sends.
var answered atomic.Int64

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "HOST:PORT")
	flag.Parse()
	mux := http.NewServeMux()
	mux.HandleFunc("/n/", func(w http.ResponseWriter, r *http.Request) {
		answered.Add(1)
		io.WriteString(w, "n="+r.URL.Path[len("/n/"):]+"\n")
	})
	mux.HandleFunc("/answered", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%d\n", answered.Load())
	})
	mux.HandleFunc("/ready", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "ready\n")
	})
	log.Fatal(http.ListenAndServe(*listen, mux))
}
