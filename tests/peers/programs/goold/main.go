// Command goold is a target program that every version of Go from 1.17 on can build: net/http
// alone, and few shapes. It is called as gomatrix is.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
)

type job struct {
	ctx  context.Context
	n    string
	done chan error
}

var (
	called = os.Getenv("CALLED")
	client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 128}}
	jobs   = make(chan job)
)

func main() {
	address := flag.String("listen", "127.0.0.1:0", "HOST:PORT")
	flag.String("framework", "nethttp", "there is no other here")
	flag.Parse()
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	for i := 0; i < 8; i++ {
		go func() {
			for j := range jobs {
				j.done <- get(j.ctx, j.n)
			}
		}()
	}
	http.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ready") })
	http.HandleFunc("/m/", serve)
	log.Fatal(http.Serve(listener, nil))
}

// serve answers /m/<shape>/<client>/<n>.
func serve(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(r.URL.Path, "/")
	shape, n := parts[2], parts[4]
	if err := play(shape, r.Context(), n); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	fmt.Fprintf(w, "n=%s\n", n)
}

func play(shape string, ctx context.Context, n string) error {
	switch shape {
	case "one":
		return get(ctx, n)
	case "parallel":
		var all sync.WaitGroup
		errs := make([]error, 2)
		for i := range errs {
			all.Add(1)
			go func(i int) {
				defer all.Done()
				errs[i] = get(context.Background(), n)
			}(i)
		}
		all.Wait()
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
		return nil
	case "pool-ctx":
		return hand(job{ctx, n, make(chan error, 1)})
	case "pool":
		return hand(job{context.Background(), n, make(chan error, 1)})
	}
	return fmt.Errorf("no shape %q", shape)
}

func hand(j job) error {
	jobs <- j
	return <-j.done
}

func get(ctx context.Context, n string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, called+"/n/"+n, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}
