// Command client is a target program: it requests each number once with Go's own HTTP client and
// exits 0 only if every answer began with its number.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

type options struct {
	base                     string
	count, concurrency       int
	first, gate              int
	mode, unix, pathTemplate string
	traceparent              bool
}

func main() {
	o := parse()
	client := newClient(o)
	if o.gate >= 0 {
		fetchAll(client, o, o.first, o.first+o.gate)
		passGate()
		fetchAll(client, o, o.first+o.gate, o.first+o.count)
		return
	}
	fetchAll(client, o, o.first, o.first+o.count)
}

// parse takes URL_BASE COUNT CONCURRENCY, then the switches.
func parse() options {
	o := options{}
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	flags.IntVar(&o.first, "first", 1, "first number")
	flags.IntVar(&o.gate, "gate", -1, "stop after so many requests until a line comes on stdin")
	flags.StringVar(&o.mode, "mode", "keepalive", "keepalive or close")
	flags.StringVar(&o.unix, "unix", "", "path of a UNIX socket to connect to")
	flags.StringVar(&o.pathTemplate, "path", "/n/{}", "path, {} is the number")
	flags.BoolVar(&o.traceparent, "traceparent", false, "send a traceparent made from the number")
	if len(os.Args) < 4 {
		log.Fatal("usage: client URL_BASE COUNT CONCURRENCY [switches]")
	}
	o.base = os.Args[1]
	var err error
	if o.count, err = strconv.Atoi(os.Args[2]); err != nil {
		log.Fatal(err)
	}
	if o.concurrency, err = strconv.Atoi(os.Args[3]); err != nil {
		log.Fatal(err)
	}
	flags.Parse(os.Args[4:])
	return o
}

func newClient(o options) *http.Client {
	transport := &http.Transport{
		MaxIdleConnsPerHost: o.concurrency,
		DisableKeepAlives:   o.mode == "close",
	}
	if o.unix != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", o.unix)
		}
	}
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

func passGate() {
	fmt.Println("gate")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		log.Fatal("the gate was never opened: ", err)
	}
}

func fetchAll(client *http.Client, o options, first, end int) {
	var next atomic.Int64
	next.Store(int64(first))
	go endOnInterrupt(&next, first, end)
	var workers sync.WaitGroup
	for range o.concurrency {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for n := next.Add(1) - 1; n < int64(end); n = next.Add(1) - 1 {
				if err := fetch(client, o, int(n)); err != nil {
					log.Fatalf("request %d: %v", n, err)
				}
			}
		}()
	}
	workers.Wait()
}

// endOnInterrupt makes SIGINT the end of the numbers, and says how many were taken until then: what
// is under way is finished and checked.
func endOnInterrupt(next *atomic.Int64, first, end int) {
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	<-interrupts
	fmt.Printf("took %d\n", min(int(next.Swap(int64(end))), end)-first)
}

func fetch(client *http.Client, o options, n int) error {
	path := strings.ReplaceAll(o.pathTemplate, "{}", strconv.Itoa(n))
	request, err := http.NewRequest(http.MethodGet, o.base+path, nil)
	if err != nil {
		return err
	}
	if o.traceparent {
		request.Header.Set("traceparent", fmt.Sprintf("00-7ace%028x-5fa0%012x-01", n, n))
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	words := strings.Fields(string(body))
	if len(words) == 0 || words[0] != fmt.Sprintf("n=%d", n) {
		return fmt.Errorf("answer %d does not begin with its number: %.80q", answer.StatusCode, body)
	}
	return nil
}
