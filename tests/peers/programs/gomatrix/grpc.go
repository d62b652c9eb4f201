package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// codec passes bytes through. A message of call n has n bytes: sizes on the wire tell n.
type codec struct{}

func (codec) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (codec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = bytes.Clone(data); return nil }
func (codec) Name() string                       { return "proto" }

// besides is where gRPC is spoken: the same port of the next address of the loopback.
func besides(hostPort string) string {
	_, port, _ := net.SplitHostPort(hostPort)
	return "127.0.0.2:" + port
}

// serveGRPC answers /go.Matrix/One and /go.Matrix/Both, and plays /go.Matrix/<shape>.<client>.
func serveGRPC(address string, p play) {
	listener, err := net.Listen("tcp", besides(address))
	if err != nil {
		log.Fatal(err)
	}
	workers, _ := strconv.Atoi(os.Getenv("STREAM_WORKERS"))
	server := grpc.NewServer(
		grpc.ForceServerCodec(codec{}),
		grpc.NumStreamWorkers(uint32(workers)),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			path, _ := grpc.MethodFromServerStream(stream)
			method := path[strings.LastIndexByte(path, '/')+1:]
			for {
				var message []byte
				if err := stream.RecvMsg(&message); err != nil {
					return nil // the client has said all
				}
				if shape, client, found := strings.Cut(method, "."); found {
					if err := playGRPC(stream.Context(), p, shape, client, len(message)); err != nil {
						return err
					}
				}
				if err := stream.SendMsg(&message); err != nil {
					return err
				}
			}
		}),
	)
	log.Fatal(server.Serve(listener))
}

func playGRPC(ctx context.Context, p play, shape, client string, n int) error {
	answer := httptest.NewRecorder()
	request := httptest.NewRequestWithContext(ctx, "GET", "/", nil)
	p(answer, request, shape, client, strconv.Itoa(n))
	if answer.Code != 200 {
		return status.Error(codes.Internal, answer.Body.String())
	}
	return nil
}

// message of the call whose path ends in a number.
func message(path string) []byte {
	n, err := strconv.Atoi(path[strings.LastIndexByte(path, '/')+1:])
	if err != nil {
		log.Fatal(err)
	}
	return bytes.Repeat([]byte("."), n)
}

func dial(hostPort string) *grpc.ClientConn {
	conn, err := grpc.NewClient(besides(hostPort),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(codec{}), grpc.WaitForReady(true)))
	if err != nil {
		log.Fatal(err)
	}
	return conn
}

func (c clients) unary() caller {
	conn := dial(c.base.Host)
	return func(ctx context.Context, path string) error {
		sent, got := message(path), []byte(nil)
		if err := conn.Invoke(ctx, "/go.Matrix/One", &sent, &got); err != nil {
			return err
		}
		if len(got) != len(sent) {
			return fmt.Errorf("%d bytes came back of %d", len(got), len(sent))
		}
		return nil
	}
}

// streaming sends its second message after the answer to the first.
func (c clients) streaming() caller {
	conn := dial(c.base.Host)
	desc := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	return func(ctx context.Context, path string) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := conn.NewStream(ctx, desc, "/go.Matrix/Both")
		if err != nil {
			return err
		}
		for range 2 {
			sent, got := message(path), []byte(nil)
			if err := stream.SendMsg(&sent); err != nil {
				return err
			}
			if err := stream.RecvMsg(&got); err != nil {
				return err
			}
		}
		if err := stream.CloseSend(); err != nil {
			return err
		}
		var rest []byte
		if err := stream.RecvMsg(&rest); err == nil {
			return fmt.Errorf("more came than was sent")
		}
		return nil
	}
}
