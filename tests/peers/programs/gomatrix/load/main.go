// Command load is a client of gomatrix over HTTP/2: by gRPC, without TLS by prior knowledge, or over
// TLS.
//
//	load grpc|h2c|https URL_BASE COUNT CONCURRENCY --first N --path /m/<shape>/<client>/{}
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

type codec struct{}

func (codec) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (codec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = bytes.Clone(data); return nil }
func (codec) Name() string                       { return "proto" }

func main() {
	how, base := os.Args[1], os.Args[2]
	count, _ := strconv.Atoi(os.Args[3])
	concurrency, _ := strconv.Atoi(os.Args[4])
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	first := flags.Int("first", 1, "first number")
	path := flags.String("path", "/n/{}", "path, {} is the number")
	flags.Parse(os.Args[5:])
	ways := map[string]func(string, string) func(int) error{
		"grpc": byGRPC, "h2c": byHTTP2, "https": byHTTPS,
	}
	ask := ways[how](base, *path)
	var next atomic.Int64
	var all sync.WaitGroup
	for range concurrency {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < count; i = int(next.Add(1)) - 1 {
				if err := ask(*first + i); err != nil {
					log.Fatalf("%d: %v", *first+i, err)
				}
			}
		})
	}
	all.Wait()
}

func byHTTP2(base, path string) func(int) error {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	return byTransport(transport, base, path)
}

func byHTTPS(base, path string) func(int) error {
	where, _ := url.Parse(base)
	_, port, _ := net.SplitHostPort(where.Host)
	transport := &http.Transport{
		Protocols:       new(http.Protocols),
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	transport.Protocols.SetHTTP2(true)
	return byTransport(transport, "https://127.0.0.3:"+port, path)
}

func byTransport(transport *http.Transport, base, path string) func(int) error {
	client := &http.Client{Transport: transport}
	return func(n int) error {
		answer, err := client.Get(base + strings.ReplaceAll(path, "{}", strconv.Itoa(n)))
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err == nil && !bytes.HasPrefix(body, []byte("n="+strconv.Itoa(n))) {
			log.Fatalf("%d: %s: %s", n, answer.Status, body)
		}
		return err
	}
}

func byGRPC(base, path string) func(int) error {
	where, _ := url.Parse(base)
	_, port, _ := net.SplitHostPort(where.Host)
	conn, err := grpc.NewClient("127.0.0.2:"+port,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(codec{})))
	if err != nil {
		log.Fatal(err)
	}
	parts := strings.Split(path, "/")
	method := "/go.Matrix/" + parts[2] + "." + parts[3]
	return func(n int) error {
		sent, got := bytes.Repeat([]byte("."), n), []byte(nil)
		return conn.Invoke(context.Background(), method, &sent, &got)
	}
}
