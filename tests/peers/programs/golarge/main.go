// Command golarge is a program whose file is as large as its `data`, which is made beside it.
package main

import (
	_ "embed"
	"net/http"
)

//go:embed data
var data []byte

func main() {
	http.Get("http://127.0.0.1/")
	println(len(data))
}
