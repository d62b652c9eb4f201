// Command server is a target program: grpc-go's server of the numbered service.
package main

import (
	"flag"
	"log"
	"net"
	"strings"

	"google.golang.org/grpc"

	"waggle.test/grpcpeers/internal/numbers"
)

func main() {
	address := flag.String("listen", "127.0.0.1:0", "HOST:PORT, [::1]:PORT or unix:PATH")
	next := flag.String("next", "", "HOST:PORT that Relay passes its calls on to")
	flag.Parse()
	if *next != "" {
		conn, err := numbers.Dial(*next)
		if err != nil {
			log.Fatal(err)
		}
		numbers.Next = conn
	}
	network := "tcp"
	if path, isUnix := strings.CutPrefix(*address, "unix:"); isUnix {
		network, *address = "unix", path
	}
	listener, err := net.Listen(network, *address)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodec(numbers.Codec{}))
	server.RegisterService(&numbers.Desc, nil)
	log.Fatal(server.Serve(listener))
}
