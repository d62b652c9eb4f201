// Command tls is an HTTPS server of Go's own, HTTP/1 and HTTP/2, that may call another:
// GET /call/N?url=URL.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"
)

func main() {
	port := flag.Int("port", 0, "port")
	certificate := flag.String("certificate", "", "file with key and certificate")
	http1 := flag.Bool("http1", false, "call by HTTP/1 only")
	fresh := flag.Bool("fresh", false, "a new connection for each call")
	flag.Parse()
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		ForceAttemptHTTP2: !*http1,
		DisableKeepAlives: *fresh,
	}
	client := &http.Client{Transport: transport}
	http.HandleFunc("/call/", func(w http.ResponseWriter, r *http.Request) {
		request, err := http.NewRequestWithContext(r.Context(), "GET", r.URL.Query().Get("url"), nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer, err := client.Do(request)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		fmt.Fprint(w, answer.StatusCode)
	})
	http.HandleFunc("/large/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("content-length", "300000")
		io.WriteString(w, strings.Repeat("x", 300000))
	})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "fine")
	})
	address := fmt.Sprintf("127.0.0.1:%d", *port)
	log.Fatal(http.ListenAndServeTLS(address, *certificate, *certificate, nil))
}
