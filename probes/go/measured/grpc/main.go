// Command grpc has in it what Waggle reads of grpc-go. It is built by `make go-offsets` with many
// versions of that module, for its debugging information; nobody runs it.
package main

import (
	"context"
	"net"

	"google.golang.org/grpc"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go grpc.NewServer().Serve(listener)
	client, err := grpc.Dial(listener.Addr().String(), grpc.WithInsecure())
	if err != nil {
		panic(err)
	}
	client.Invoke(context.Background(), "/none/None", nil, nil)
}
