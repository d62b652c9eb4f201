// Command std has in it what Waggle reads of the runtime and the standard library. It is built by
// `make go-offsets` with many versions of Go, for its debugging information; nobody runs it.
package main

import (
	"io"
	"net/http"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answer, err := http.Get(r.URL.Query().Get("url"))
		if err == nil {
			io.Copy(w, answer.Body)
		}
	})
	http.ListenAndServe("127.0.0.1:0", nil)
}
