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
	"time"
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
	queue  = make(chan job, 4) // full at times
)

func main() {
	address := flag.String("listen", "127.0.0.1:0", "HOST:PORT")
	framework := flag.String("framework", "nethttp", "or copied: all requests are, before they are routed")
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
		go func() {
			quit := make(chan error)
			for {
				select {
				case j := <-queue:
					j.done <- get(j.ctx, j.n)
				case <-quit:
				}
			}
		}()
	}
	http.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ready") })
	http.HandleFunc("/m/", serve)
	http.HandleFunc("/r/{n}", answer) // which is a pattern since Go 1.22
	http.Handle("/limited/", http.TimeoutHandler(limited(), 20*time.Second, "too late"))
	server := &http.Server{}
	if *framework == "copied" {
		server.Handler = copied(http.DefaultServeMux)
	}
	prepare(server)
	log.Fatal(server.Serve(listener))
}

// prepare is for what not every version has.
var prepare = func(*http.Server) {}

type key struct{}

// copied is middleware as many have it: what it adds to the context is in a Request of its own.
func copied(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, 1)))
	})
}

func limited() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("/limited/{n}", answer)
	return m
}

func answer(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "n=%s\n", r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
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
		return hand(jobs, job{ctx, n, make(chan error, 1)})
	case "pool":
		return hand(jobs, job{context.Background(), n, make(chan error, 1)})
	case "buffered":
		return hand(queue, job{context.Background(), n, make(chan error, 1)})
	}
	return fmt.Errorf("no shape %q", shape)
}

func hand(to chan<- job, j job) error {
	to <- j
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
