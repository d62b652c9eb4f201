// Package peer is what the Go target programs share: where to listen, what to answer, and how to
// call another server.
package peer

import (
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// BigBody is the length in bytes of the answer to /big/<n>.
const BigBody = 1 << 20

// ChunkCount is how many chunks the answer to /chunked/<n> has.
const ChunkCount = 5

// ListenFlag reads --listen and opens it: HOST:PORT, [::1]:PORT or unix:PATH.
func ListenFlag() (net.Listener, error) {
	address := flag.String("listen", "127.0.0.1:0", "HOST:PORT, [::1]:PORT or unix:PATH")
	flag.Parse()
	if path, isUnix := strings.CutPrefix(*address, "unix:"); isUnix {
		return net.Listen("unix", path)
	}
	listener, err := net.Listen("tcp", *address)
	given := os.Getenv("PEER_CERTIFICATE") // with its key
	if err != nil || given == "" {
		return listener, err
	}
	certificate, err := tls.LoadX509KeyPair(given, given)
	if err != nil {
		return nil, err
	}
	return tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{certificate}}), nil
}

// Body is the answer to request n: its first word names the number.
func Body(n string) string { return "n=" + n + "\n" }

// Big is Body padded with dots to BigBody bytes.
func Big(n string) string {
	start := "n=" + n + " "
	return start + strings.Repeat(".", BigBody-len(start)-1) + "\n"
}

// Sleep waits for the milliseconds in text, or until the caller has gone away.
func Sleep(r *http.Request, text string) {
	wait, err := time.ParseDuration(text + "ms")
	if err != nil {
		return
	}
	select {
	case <-time.After(wait):
	case <-r.Context().Done():
	}
}

// WriteChunks answers in ChunkCount chunks, the first of which is Body(n).
func WriteChunks(w http.ResponseWriter, n string) {
	pieces := []string{Body(n)}
	for i := 1; i < ChunkCount; i++ {
		pieces = append(pieces, fmt.Sprintf("piece %d of %s\n", i, n))
	}
	flusher := http.NewResponseController(w)
	for _, piece := range pieces {
		if _, err := io.WriteString(w, piece); err != nil {
			return
		}
		if err := flusher.Flush(); err != nil {
			return
		}
	}
}

// NewClient keeps as many idle connections to one host as a busy handler needs.
func NewClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.MaxIdleConnsPerHost = 64
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

// Call fetches the url named in the query of r on behalf of request n and tells what it got.
// With forward=1 the incoming traceparent goes out unchanged, as hand-written code often does.
func Call(client *http.Client, r *http.Request, n string) (string, error) {
	query := r.URL.Query()
	out, err := http.NewRequestWithContext(r.Context(), http.MethodGet, query.Get("url"), nil)
	if err != nil {
		return "", err
	}
	if parent := r.Header.Get("traceparent"); query.Get("forward") == "1" && parent != "" {
		out.Header.Set("traceparent", parent)
	}
	answer, err := client.Do(out)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("n=%s status=%d body=%s", n, answer.StatusCode, body), nil
}
