// Package numbers is the small numbered service of the gRPC target programs, in any language:
// /peers.Numbers/{One,Relay,Down,Up,Both,Fail,Wait}. A message is bytes; it begins with "n:" and is
// padded with dots. Messages of call n have n bytes each, so that sizes on the wire tell n.
package numbers

import (
	"bytes"
	"fmt"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// Service is the full name of the service.
const Service = "peers.Numbers"

// Parts is how many messages a stream of this service has.
const Parts = 3

// Codec passes bytes through: the service has no schema.
type Codec struct{}

// Marshal takes a *[]byte.
func (Codec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

// Unmarshal fills a *[]byte.
func (Codec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = bytes.Clone(data)
	return nil
}

// Name is what content-type gets: application/grpc+proto.
func (Codec) Name() string { return "proto" }

// Message is a message of call n.
func Message(n int) []byte {
	start := fmt.Sprintf("%d:", n)
	return append([]byte(start), bytes.Repeat([]byte("."), max(0, n-len(start)))...)
}

// Number reads the number of a message.
func Number(message []byte) (int, error) {
	text, _, found := bytes.Cut(message, []byte(":"))
	if !found {
		return 0, status.Error(codes.InvalidArgument, "no number")
	}
	return strconv.Atoi(string(text))
}

// Dial opens a channel to a server of this service. Nothing is connected yet.
func Dial(target string) (*grpc.ClientConn, error) {
	return grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(Codec{}), grpc.WaitForReady(true)))
}

// Desc describes the service as generated code would.
var Desc = grpc.ServiceDesc{
	ServiceName: Service,
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{
		{MethodName: "One", Handler: unary(one)},
		{MethodName: "Relay", Handler: unary(relay)},
		{MethodName: "Fail", Handler: unary(fail)},
		{MethodName: "Wait", Handler: unary(wait)},
	},
	Streams: []grpc.StreamDesc{
		{StreamName: "Down", Handler: down, ServerStreams: true},
		{StreamName: "Up", Handler: up, ClientStreams: true},
		{StreamName: "Both", Handler: both, ServerStreams: true, ClientStreams: true},
	},
}
