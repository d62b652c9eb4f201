// Command gosdk is a Gin service that makes one pooled HTTP call and one gRPC call for a request,
// with OpenTelemetry's own instrumentation or without: what that costs stands beside what Waggle does.
//
//	gosdk --listen HOST:PORT --called http://HOST:PORT [--otlp URL]
//
// GET /none answers, GET /both calls before that.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

type codec struct{}

func (codec) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (codec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = bytes.Clone(data); return nil }
func (codec) Name() string                       { return "proto" }

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "HOST:PORT")
	called := flag.String("called", "", "URL of a gomatrix")
	otlp := flag.String("otlp", "", "URL of a Collector: with instrumentation")
	flag.Parse()
	var handler http.Handler
	transport := http.RoundTripper(&http.Transport{MaxIdleConnsPerHost: 128})
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(codec{})),
	}
	if *otlp != "" {
		exportTo(*otlp)
		transport = otelhttp.NewTransport(transport)
		options = append(options, grpc.WithStatsHandler(otelgrpc.NewClientHandler()))
	}
	where, err := url.Parse(*called)
	if err != nil {
		log.Fatal(err)
	}
	conn, err := grpc.NewClient("127.0.0.2:"+where.Port(), options...)
	if err != nil {
		log.Fatal(err)
	}
	handler = routes(*called, &http.Client{Transport: transport}, conn)
	if *otlp != "" {
		handler = otelhttp.NewHandler(handler, "gosdk")
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, handler))
}

func exportTo(otlp string) {
	exporter, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(otlp))
	if err != nil {
		log.Fatal(err)
	}
	otel.SetTracerProvider(trace.NewTracerProvider(trace.WithBatcher(exporter)))
	otel.SetTextMapPropagator(propagation.TraceContext{})
}

func routes(called string, client *http.Client, conn *grpc.ClientConn) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.GET("/ready", func(c *gin.Context) { c.String(http.StatusOK, "ready\n") })
	engine.GET("/none", func(c *gin.Context) { c.String(http.StatusOK, "none\n") })
	engine.GET("/both", func(c *gin.Context) {
		if err := both(c.Request.Context(), called, client, conn); err != nil {
			c.String(http.StatusBadGateway, "%s", err)
			return
		}
		c.String(http.StatusOK, "both\n")
	})
	return engine
}

func both(ctx context.Context, called string, client *http.Client, conn *grpc.ClientConn) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, called+"/n/1", nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	sent, got := []byte("12345678"), []byte(nil)
	if err := conn.Invoke(ctx, "/go.Matrix/One", &sent, &got); err != nil {
		return err
	}
	if len(got) != len(sent) {
		return fmt.Errorf("%d bytes came back", len(got))
	}
	return nil
}
