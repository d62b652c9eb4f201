package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// jsonCodec makes messages readable: the demo needs no compiler for a schema.
type jsonCodec struct{}

func (jsonCodec) Marshal(v any) ([]byte, error)      { return json.Marshal(v) }
func (jsonCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }
func (jsonCodec) Name() string                       { return "json" }

type article struct {
	Article int `json:"article"`
}

type quote struct {
	Cents int `json:"cents"`
}

type step struct {
	Done string `json:"done"`
}

// prices is a client of the price service, which is written in Python.
type prices struct{ conn *grpc.ClientConn }

func dialPrices(target string) prices {
	conn, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(jsonCodec{})))
	if err != nil {
		log.Fatal(err)
	}
	return prices{conn}
}

func (p prices) quote(ctx context.Context, id int) (quote, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var answer quote
	err := p.conn.Invoke(ctx, "/shop.Prices/Quote", &article{id}, &answer)
	return answer, err
}

// quotes asks for several articles at the same time.
func (p prices) quotes(ctx context.Context, ids ...int) ([]quote, error) {
	answers, errs := make([]quote, len(ids)), make([]error, len(ids))
	var all sync.WaitGroup
	for i, id := range ids {
		all.Go(func() { answers[i], errs[i] = p.quote(ctx, id) })
	}
	all.Wait()
	return answers, errors.Join(errs...)
}

// pack tells each step of packing an article as it is done.
func pack(_ any, stream grpc.ServerStream) error {
	var asked article
	if err := stream.RecvMsg(&asked); err != nil {
		return err
	}
	for _, done := range []string{"found", "packed", "sent"} {
		time.Sleep(2 * time.Millisecond)
		if err := stream.SendMsg(&step{done}); err != nil {
			return err
		}
	}
	return nil
}

func serveCalls(address string) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodec(jsonCodec{}))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "shop.Stock",
		HandlerType: (*any)(nil),
		Streams:     []grpc.StreamDesc{{StreamName: "Pack", Handler: pack, ServerStreams: true}},
	}, nil)
	log.Fatal(server.Serve(listener))
}
