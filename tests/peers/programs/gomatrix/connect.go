package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"

	"connectrpc.com/connect"
)

type blob struct{ data []byte }

// blobs is codec for connect's messages, which have types of their own.
type blobs struct{}

func (blobs) Marshal(v any) ([]byte, error)      { return v.(*blob).data, nil }
func (blobs) Unmarshal(data []byte, v any) error { v.(*blob).data = bytes.Clone(data); return nil }
func (blobs) Name() string                       { return "proto" }

// connected speaks gRPC through net/http's own HTTP/2.
func (c clients) connected() caller {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	client := connect.NewClient[blob, blob](&http.Client{Transport: transport},
		"http://"+besides(c.base.Host)+"/go.Matrix/One", connect.WithGRPC(), connect.WithCodec(blobs{}))
	return func(ctx context.Context, path string) error {
		sent := &blob{message(path)}
		got, err := client.CallUnary(ctx, connect.NewRequest(sent))
		if err == nil && len(got.Msg.data) != len(sent.data) {
			err = fmt.Errorf("%d bytes came back of %d", len(got.Msg.data), len(sent.data))
		}
		return err
	}
}
