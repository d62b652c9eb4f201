// Command front is a target program: asked GET /call/N by HTTP/1, it makes call N of the numbered
// service by grpc-go, on one channel: front --listen HOST:PORT --next HOST:PORT.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"

	"google.golang.org/grpc"

	"waggle.test/grpcpeers/internal/numbers"
)

func main() {
	listen := flag.String("listen", "", "where to serve HTTP/1")
	next := flag.String("next", "", "the gRPC server to call")
	flag.Parse()
	conn, err := numbers.Dial(*next)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "ready\n")
	})
	mux.HandleFunc("GET /call/{n}", func(w http.ResponseWriter, r *http.Request) { answer(conn, w, r) })
	log.Fatal(http.ListenAndServe(*listen, mux))
}

func answer(conn *grpc.ClientConn, w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.PathValue("n"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	asked, reply := numbers.Message(n), []byte(nil)
	if err := conn.Invoke(r.Context(), "/"+numbers.Service+"/One", &asked, &reply); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	got, err := numbers.Number(reply)
	if err != nil || got != n {
		http.Error(w, "another number", http.StatusBadGateway)
		return
	}
	fmt.Fprintf(w, "n=%d\n", n)
}
