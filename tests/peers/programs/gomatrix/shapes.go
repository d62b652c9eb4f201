package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sourcegraph/conc"
	"golang.org/x/sync/errgroup"
)

// call makes one call with the request's own number. path: "/n/", "/redirect/", ...
type call func(ctx context.Context, path string) error

type shape func(w http.ResponseWriter, ctx context.Context, do call) error

// number is the field of every answer that has the number of its request.
const number = "X-Number"

type shapes struct {
	clients clients
	known   map[string]shape
}

func newShapes(called *url.URL) *shapes {
	workers, buffered := make(chan job), make(chan job, 64)
	for range 16 {
		go work(workers)
		go work(buffered)
	}
	var lazy sync.Once
	lazily := make(chan job)
	spare := make(chan job)
	known := map[string]shape{
		"none": func(http.ResponseWriter, context.Context, call) error { return nil },
		"one":  one,
		"two": func(_ http.ResponseWriter, ctx context.Context, do call) error {
			return errors.Join(do(ctx, "/n/"), do(ctx, "/n/"))
		},
		"background": func(_ http.ResponseWriter, _ context.Context, do call) error { return do(context.Background(), "/n/") },
		"parallel":   parallel,
		"each-two":   eachTwo,
		"errgroup":   grouped,
		"conc":       concurrently,
		"nested":     nested,
		"orphan":     orphan,
		"after-func": afterFunc,
		"after-func-background": func(_ http.ResponseWriter, _ context.Context, do call) error {
			done := make(chan error)
			time.AfterFunc(time.Millisecond, func() { done <- do(context.Background(), "/n/") })
			return <-done
		},
		"detached":  detached,
		"stream":    stream,
		"hijack":    hijacked,
		"hijack-on": hijackedOn,
		"late":      late,
		"deep": func(_ http.ResponseWriter, ctx context.Context, do call) error {
			return deep(200, func() error { return do(ctx, "/n/") })
		},
		"crowd":    crowd,
		"swarm":    swarm,
		"redirect": func(_ http.ResponseWriter, ctx context.Context, do call) error { return do(ctx, "/redirect/") },
		"flaky": func(_ http.ResponseWriter, ctx context.Context, do call) error {
			do(ctx, "/flaky/")
			return do(ctx, "/n/")
		},
		"retry": func(_ http.ResponseWriter, ctx context.Context, do call) error {
			do(ctx, "/busy/")
			return do(ctx, "/busy/")
		},
		"timeout":  timeout,
		"pool-ctx": pooled(workers, true),
		"pool":     pooled(workers, false),
		"buffered": pooled(buffered, false),
		"lazy-pool": func(w http.ResponseWriter, ctx context.Context, do call) error {
			lazy.Do(func() {
				for range 8 {
					go work(lazily)
				}
			})
			return pooled(lazily, false)(w, ctx, do)
		},
		"spare-pool": sparing(spare),
	}
	maps.Copy(known, handedOver())
	maps.Copy(known, traps())
	return &shapes{newClients(called), known}
}

func (s *shapes) play(w http.ResponseWriter, r *http.Request, name, client, n string) {
	shape, known := s.known[name]
	fetch, able := s.clients.known[client]
	if !known || !able {
		http.Error(w, "no such shape or client", http.StatusNotFound)
		return
	}
	w.Header().Set(number, n)
	err := shape(w, r.Context(), func(ctx context.Context, path string) error { return fetch(ctx, path+n) })
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	if strings.HasPrefix(name, "hijack") {
		return
	}
	if rand.IntN(4) == 0 {
		time.Sleep(time.Duration(rand.IntN(800)) * time.Microsecond)
	}
	fmt.Fprintf(w, "n=%s\n", n)
}

func one(_ http.ResponseWriter, ctx context.Context, do call) error { return do(ctx, "/n/") }

func parallel(_ http.ResponseWriter, ctx context.Context, do call) error {
	var all sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		all.Add(1)
		go func() {
			defer all.Done()
			errs[i] = do(ctx, "/n/")
		}()
	}
	all.Wait()
	return errors.Join(errs...)
}

func eachTwo(_ http.ResponseWriter, ctx context.Context, do call) error {
	errs := make(chan error)
	for range 2 {
		go func() { errs <- errors.Join(do(ctx, "/n/"), do(ctx, "/n/")) }()
	}
	return errors.Join(<-errs, <-errs)
}

func grouped(_ http.ResponseWriter, ctx context.Context, do call) error {
	group, inner := errgroup.WithContext(ctx)
	for range 2 {
		group.Go(func() error { return do(inner, "/n/") })
	}
	return group.Wait()
}

func concurrently(_ http.ResponseWriter, _ context.Context, do call) error {
	var group conc.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		group.Go(func() { errs[i] = do(context.Background(), "/n/") })
	}
	group.Wait()
	return errors.Join(errs...)
}

// nested calls in grandchildren; the goroutine between does nothing else.
func nested(_ http.ResponseWriter, ctx context.Context, do call) error {
	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error {
		below, innermost := errgroup.WithContext(inner)
		for range 2 {
			below.Go(func() error { return do(innermost, "/n/") })
		}
		return below.Wait()
	})
	return group.Wait()
}

// orphan calls in a grandchild whose maker has ended.
func orphan(_ http.ResponseWriter, _ context.Context, do call) error {
	done := make(chan error)
	go func() {
		go func() {
			time.Sleep(time.Millisecond)
			done <- do(context.Background(), "/n/")
		}()
	}()
	return <-done
}

func afterFunc(_ http.ResponseWriter, ctx context.Context, do call) error {
	done := make(chan error)
	time.AfterFunc(time.Millisecond, func() { done <- do(ctx, "/n/") })
	return <-done
}

// detached answers and calls after that.
func detached(_ http.ResponseWriter, ctx context.Context, do call) error {
	kept := context.WithoutCancel(ctx)
	go func() {
		time.Sleep(5 * time.Millisecond)
		do(kept, "/n/")
	}()
	return nil
}

// stream calls between events that it sends.
func stream(w http.ResponseWriter, ctx context.Context, do call) error {
	flusher := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprintf(w, "n=%s\n", w.Header().Get(number))
	flusher.Flush()
	err := do(ctx, "/n/")
	fmt.Fprint(w, "more\n")
	flusher.Flush()
	return errors.Join(err, do(ctx, "/n/"))
}

// hijacked takes the connection from net/http; it calls before it answers by hand, and after that.
func hijacked(w http.ResponseWriter, ctx context.Context, do call) error {
	conn, both, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer conn.Close()
	err = do(ctx, "/n/")
	whole := "n=" + w.Header().Get(number) + "\n"
	fmt.Fprintf(both, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(whole), whole)
	return errors.Join(err, both.Flush(), do(ctx, "/n/"))
}

// hijackedOn takes the connection, and serves by hand what comes on it after that, while a goroutine
// of the first request goes on to call for that, with its context.
func hijackedOn(w http.ResponseWriter, ctx context.Context, do call) error {
	conn, both, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	over, ended := make(chan struct{}), make(chan struct{})
	defer func() { conn.Close(); close(over); <-ended }()
	go func() {
		defer close(ended)
		for range 20 {
			do(ctx, "/n/")
			select {
			case <-over:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	first := w.Header().Get(number)
	for n := first; ; {
		whole := "n=" + n + "\n"
		fmt.Fprintf(both, "HTTP/1.1 200 OK\r\nX-Number: %s\r\nContent-Length: %d\r\n\r\n%s", n, len(whole), whole)
		if err := both.Flush(); err != nil {
			return err
		}
		r, err := http.ReadRequest(both.Reader)
		if err != nil {
			return nil // the client is gone
		}
		n = r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		// The first's number is the end of the query, which is not looked at.
		if err := do(context.Background(), "/n/"+n+"?first="); err != nil {
			return err
		}
	}
}

// late calls in its own goroutine when its answer is complete.
func late(w http.ResponseWriter, ctx context.Context, do call) error {
	whole := "n=" + w.Header().Get(number) + "\n"
	w.Header().Set("Content-Length", strconv.Itoa(len(whole)))
	fmt.Fprint(w, whole)
	http.NewResponseController(w).Flush()
	// Whoever has its answer may leave, which cancels the request's context.
	return do(context.WithoutCancel(ctx), "/n/")
}

func timeout(_ http.ResponseWriter, ctx context.Context, do call) error {
	short, cancel := context.WithTimeout(ctx, 2*time.Millisecond)
	defer cancel()
	do(short, "/slow/")
	return do(ctx, "/n/")
}

// deep makes the stack grow, more than once, before it calls.
func deep(depth int, do func() error) error {
	var frame [512]byte
	frame[depth%len(frame)] = 1
	if depth == 0 {
		return do()
	}
	err := deep(depth-1, do)
	if frame[depth%len(frame)] != 1 {
		return errors.New("the stack was damaged")
	}
	return err
}

// crowd makes many goroutines that end, and then calls.
func crowd(_ http.ResponseWriter, ctx context.Context, do call) error {
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() { deep(4, func() error { return nil }) })
	}
	all.Wait()
	return do(ctx, "/n/")
}

// swarm makes a thousand goroutines that end, of which two call, without a context.
func swarm(_ http.ResponseWriter, _ context.Context, do call) error {
	var all sync.WaitGroup
	errs := make(chan error, 2)
	for i := range 1000 {
		all.Go(func() {
			if i%500 == 250 {
				errs <- do(context.Background(), "/n/")
			}
		})
	}
	all.Wait()
	return errors.Join(<-errs, <-errs)
}

type job struct {
	ctx  context.Context
	do   call
	done chan error
}

func work(jobs <-chan job) {
	for j := range jobs {
		j.done <- j.do(j.ctx, "/n/")
	}
}

func pooled(jobs chan<- job, withContext bool) shape {
	return func(_ http.ResponseWriter, ctx context.Context, do call) error {
		if !withContext {
			ctx = context.Background()
		}
		j := job{ctx, do, make(chan error, 1)}
		jobs <- j
		return <-j.done
	}
}

// sparing hands a job to a worker that waits, or makes one, which waits a while for others.
func sparing(jobs chan job) shape {
	return func(_ http.ResponseWriter, _ context.Context, do call) error {
		j := job{context.Background(), do, make(chan error, 1)}
		select {
		case jobs <- j:
		default:
			go func() {
				j := j
				for {
					j.done <- j.do(j.ctx, "/n/")
					select {
					case j = <-jobs:
					case <-time.After(20 * time.Millisecond):
						return
					}
				}
			}()
		}
		return <-j.done
	}
}
