package numbers

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type handler = func(context.Context, []byte) ([]byte, error)

type method = func(any, context.Context, func(any) error, grpc.UnaryServerInterceptor) (any, error)

func unary(handle handler) method {
	return func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var message []byte
		if err := decode(&message); err != nil {
			return nil, err
		}
		answer, err := handle(ctx, message)
		return &answer, err
	}
}

func one(_ context.Context, message []byte) ([]byte, error) { return message, nil }

// Next is where Relay passes its calls on to.
var Next *grpc.ClientConn

// askHTTP makes a call of HTTP/1 with the message's number, where PEERS_NEXT_HTTP is a HOST:PORT.
func askHTTP(ctx context.Context, message []byte) error {
	address := os.Getenv("PEERS_NEXT_HTTP")
	if address == "" {
		return nil
	}
	n, err := Number(message)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("http://%s/n/%d", address, n), nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}

// relay makes the same call of One elsewhere while it is served.
func relay(ctx context.Context, message []byte) ([]byte, error) {
	if Next == nil {
		return nil, status.Error(codes.FailedPrecondition, "started without --next")
	}
	if err := askHTTP(ctx, message); err != nil {
		return nil, err
	}
	var answer []byte
	err := Next.Invoke(ctx, "/"+Service+"/One", &message, &answer)
	return answer, err
}

// fail answers with code 1 + n % 16.
func fail(_ context.Context, message []byte) ([]byte, error) {
	n, err := Number(message)
	if err != nil {
		return nil, err
	}
	return nil, status.Errorf(codes.Code(1+n%16), "as asked: %d%%", n)
}

// wait says that it is there and never answers: the client gives up.
func wait(ctx context.Context, _ []byte) ([]byte, error) {
	if err := grpc.SendHeader(ctx, nil); err != nil {
		return nil, err
	}
	<-ctx.Done()
	return nil, status.FromContextError(ctx.Err()).Err()
}

func down(_ any, stream grpc.ServerStream) error {
	var message []byte
	if err := stream.RecvMsg(&message); err != nil {
		return err
	}
	for range Parts {
		if err := stream.SendMsg(&message); err != nil {
			return err
		}
	}
	return nil
}

func up(_ any, stream grpc.ServerStream) error {
	var last []byte
	for {
		var message []byte
		err := stream.RecvMsg(&message)
		if err == io.EOF {
			return stream.SendMsg(&last)
		}
		if err != nil {
			return err
		}
		last = message
	}
}

func both(_ any, stream grpc.ServerStream) error {
	for {
		var message []byte
		err := stream.RecvMsg(&message)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.SendMsg(&message); err != nil {
			return err
		}
	}
}
