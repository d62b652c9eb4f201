package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// caller fetches a path of the called server.
type caller func(ctx context.Context, path string) error

type clients struct {
	base  *url.URL
	known map[string]caller
}

func newClients(base *url.URL) clients {
	c := clients{base: base}
	keep := func() *http.Transport {
		return &http.Transport{MaxIdleConnsPerHost: 128, IdleConnTimeout: time.Minute}
	}
	plain := keep()
	closes := func(transport *http.Transport) *http.Transport {
		transport.DisableKeepAlives = true
		return transport
	}
	closing := closes(keep())
	wrapped := keep()
	wrapped.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		return counted{conn, new(int64)}, err
	}
	proxied := keep()
	proxied.Proxy = http.ProxyURL(base)
	multiplexed := keep()
	multiplexed.Protocols = new(http.Protocols)
	multiplexed.Protocols.SetUnencryptedHTTP2(true)
	module := &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	few := keep()
	few.MaxConnsPerHost = 4
	c.known = map[string]caller{
		"std":     c.with(&http.Client{Transport: plain}),
		"close":   c.with(&http.Client{Transport: closing}),
		"limit":   c.with(&http.Client{Transport: plain, Timeout: 20 * time.Second}),
		"wrapped": c.with(&http.Client{Transport: tagging{wrapped}}),
		"proxy":   c.with(&http.Client{Transport: proxied}),
		"h2c":     c.with(&http.Client{Transport: multiplexed}),
		"xnet":    c.with(&http.Client{Transport: module}),
		"few":     c.with(&http.Client{Transport: few}),
		"post":    c.posting(&http.Client{Transport: plain}),
		"raw":     c.raw(),
		"grpc":    c.unary(),
		"stream":  c.streaming(),
		"connect": c.connected(),
	}
	safe := clients{base: &url.URL{Scheme: "https", Host: encrypted(base.Host)}}
	c.known["https"] = safe.with(&http.Client{Transport: overTLS(keep(), false)})
	c.known["https-close"] = safe.with(&http.Client{Transport: overTLS(closes(keep()), false)})
	c.known["https2"] = safe.with(&http.Client{Transport: overTLS(keep(), true)})
	c.known["https2-close"] = safe.with(&http.Client{Transport: overTLS(closes(keep()), true)})
	return c
}

// counted is a connection in a struct of one's own.
type counted struct {
	net.Conn
	read *int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	*c.read += int64(n)
	return n, err
}

// tagging is a transport in a transport.
type tagging struct{ next http.RoundTripper }

func (t tagging) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Tag", "1")
	return t.next.RoundTrip(r)
}

func (c clients) with(client *http.Client) caller {
	return func(ctx context.Context, path string) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base.String()+path, nil)
		if err != nil {
			return err
		}
		return do(client, r)
	}
}

func (c clients) posting(client *http.Client) caller {
	return func(ctx context.Context, path string) error {
		body := bytes.NewReader(bytes.Repeat([]byte("x"), 70_000))
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.String()+path, body)
		if err != nil {
			return err
		}
		return do(client, r)
	}
}

func do(client *http.Client, r *http.Request) error {
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s", answer.Status)
	}
	return err
}

// raw is a client that writes and reads in the caller's own goroutine.
func (c clients) raw() caller {
	pool := sync.Pool{}
	return func(_ context.Context, path string) error {
		conn, _ := pool.Get().(net.Conn)
		if conn == nil {
			var err error
			if conn, err = net.Dial("tcp", c.base.Host); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, c.base.Host); err != nil {
			return err
		}
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return err
		}
		io.Copy(io.Discard, answer.Body)
		pool.Put(conn)
		return nil
	}
}
