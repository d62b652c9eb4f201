// Command mux has in it what Waggle reads of github.com/gorilla/mux. It is built by
// `make go-offsets` with several versions of that module; nobody runs it.
package main

import (
	"net/http"

	"github.com/gorilla/mux"
)

func main() { http.ListenAndServe("", mux.NewRouter()) }
