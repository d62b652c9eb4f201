package numbers

import (
	"context"
	"io"

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

// relay makes the same call of One elsewhere while it is served.
func relay(ctx context.Context, message []byte) ([]byte, error) {
	if Next == nil {
		return nil, status.Error(codes.FailedPrecondition, "started without --next")
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

// wait never answers: the client gives up.
func wait(ctx context.Context, _ []byte) ([]byte, error) {
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
