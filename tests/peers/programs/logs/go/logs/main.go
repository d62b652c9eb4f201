// A target program: what Go's log package writes. The number in the URL is in every line.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"time"
)

func number(response http.ResponseWriter, request *http.Request) {
	parts := strings.Split(request.URL.Path, "/")
	n := parts[len(parts)-1]
	log.Printf("request=%s begins", n)
	time.Sleep(time.Millisecond)
	if parts[1] == "fail" {
		panic("request=" + n + " fails")
	}
	fmt.Fprintf(response, "n=%s\n", n)
}

func main() {
	http.HandleFunc("/ready", func(response http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(response, "ready")
	})
	http.HandleFunc("/", number)
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}
