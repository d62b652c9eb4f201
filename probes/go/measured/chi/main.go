// Command chi has in it what Waggle reads of github.com/go-chi/chi/v5. It is built by
// `make go-offsets` with several versions of that module; nobody runs it.
package main

import (
	"net/http"

	"github.com/go-chi/chi/v5"
)

func main() { http.ListenAndServe("", chi.NewRouter()) }
