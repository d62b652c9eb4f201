// Command client is a target program: it makes each numbered call once with grpc-go and exits 0
// only if every answer was the one that belongs to its number.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"waggle.test/grpcpeers/internal/numbers"
)

// giveUp is long enough for a call to be under way by then.
const giveUp = 100 * time.Millisecond

type options struct {
	target             string
	count, concurrency int
	first, gate        int
	calls              []string
	timeout            time.Duration
	traceparent        bool
	sameSize           bool
	metadata           []string
}

func main() {
	o := parse()
	conn, err := numbers.Dial(o.target)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	if o.gate >= 0 {
		callAll(conn, o, o.first, o.first+o.gate)
		passGate()
		awaitReady(conn)
		callAll(conn, o, o.first+o.gate, o.first+o.count)
		return
	}
	awaitReady(conn)
	callAll(conn, o, o.first, o.first+o.count)
}

// awaitReady connects: a deadline shall not pass before the connection is there.
func awaitReady(conn *grpc.ClientConn) {
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		conn.WaitForStateChange(context.Background(), state)
	}
}

// parse takes HOST:PORT COUNT CONCURRENCY, then the switches.
func parse() options {
	o := options{}
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	flags.IntVar(&o.first, "first", 100, "first number")
	flags.IntVar(&o.gate, "gate", -1, "stop after so many calls until a line comes on stdin")
	calls := flags.String("calls", "one", "which calls, in turns: one,relay,down,up,both,fail,cancel,deadline")
	flags.DurationVar(&o.timeout, "timeout", 0, "deadline of every call, none if 0")
	flags.BoolVar(&o.traceparent, "traceparent", false, "send a traceparent made from the number")
	flags.BoolVar(&o.sameSize, "same-size", false, "messages of the first number's size: for loads")
	flags.Func("metadata", "send NAME=VALUE; {trace}, its last {trace24} and {span} are made from the number, -bin is in hex", func(one string) error {
		o.metadata = append(o.metadata, one)
		return nil
	})
	if len(os.Args) < 4 {
		log.Fatal("usage: client HOST:PORT COUNT CONCURRENCY [switches]")
	}
	o.target = os.Args[1]
	var err error
	if o.count, err = strconv.Atoi(os.Args[2]); err != nil {
		log.Fatal(err)
	}
	if o.concurrency, err = strconv.Atoi(os.Args[3]); err != nil {
		log.Fatal(err)
	}
	flags.Parse(os.Args[4:])
	o.calls = strings.Split(*calls, ",")
	return o
}

func passGate() {
	fmt.Println("gate")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		log.Fatal("the gate was never opened: ", err)
	}
}

func callAll(conn *grpc.ClientConn, o options, first, end int) {
	var next atomic.Int64
	next.Store(int64(first))
	go endOnInterrupt(&next, int64(end))
	var workers sync.WaitGroup
	for range o.concurrency {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for n := next.Add(1) - 1; n < int64(end); n = next.Add(1) - 1 {
				if o.sameSize {
					n = int64(o.first)
				}
				if err := call(conn, o, int(n)); err != nil {
					log.Fatalf("call %d: %v", n, err)
				}
			}
		}()
	}
	workers.Wait()
}

// endOnInterrupt makes SIGINT the end of the numbers: what is under way is finished and checked.
func endOnInterrupt(next *atomic.Int64, end int64) {
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	<-interrupts
	next.Store(end)
}

// metadataOf is what the switch -metadata says of call n.
func metadataOf(switched string, n int) (name, value string) {
	name, value, _ = strings.Cut(switched, "=")
	value = strings.NewReplacer(
		"{trace}", fmt.Sprintf("7ace%028x", n), "{trace24}", fmt.Sprintf("%024x", n),
		"{span}", fmt.Sprintf("5fa0%012x", n)).Replace(value)
	if !strings.HasSuffix(name, "-bin") {
		return name, value
	}
	raw, err := hex.DecodeString(value)
	if err != nil {
		log.Fatal("-metadata ", switched, ": ", err)
	}
	return name, string(raw)
}

func call(conn *grpc.ClientConn, o options, n int) error {
	ctx := context.Background()
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	if o.traceparent {
		value := fmt.Sprintf("00-7ace%028x-5fa0%012x-01", n, n)
		ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", value)
	}
	for _, one := range o.metadata {
		name, value := metadataOf(one, n)
		ctx = metadata.AppendToOutgoingContext(ctx, name, value)
	}
	message := numbers.Message(n)
	switch which := o.calls[n%len(o.calls)]; which {
	case "one", "relay":
		var answer []byte
		method := map[string]string{"one": "One", "relay": "Relay"}[which]
		if err := invoke(ctx, conn, method, message, &answer); err != nil {
			return err
		}
		return check(answer, n)
	case "fail":
		return expect(invoke(ctx, conn, "Fail", message, new([]byte)), codes.Code(1+n%16))
	case "cancel":
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(giveUp, cancel)
		return expect(invoke(ctx, conn, "Wait", message, new([]byte)), codes.Canceled)
	case "deadline":
		ctx, cancel := context.WithTimeout(ctx, giveUp)
		defer cancel()
		err := invoke(ctx, conn, "Wait", message, new([]byte))
		// A server that knows the deadline may be a moment earlier; tonic's says so without a
		// content-type, of which grpc-go makes Unknown.
		if code := status.Code(err); code == codes.Canceled || code == codes.Unknown {
			return nil
		}
		return expect(err, codes.DeadlineExceeded)
	case "wait":
		return wait(ctx, conn, o, message)
	case "down":
		return stream(ctx, conn, "Down", message, n, 1, numbers.Parts)
	case "up":
		return stream(ctx, conn, "Up", message, n, numbers.Parts, 1)
	case "both":
		return stream(ctx, conn, "Both", message, n, numbers.Parts, numbers.Parts)
	default:
		return fmt.Errorf("no such call: %s", which)
	}
}

func invoke(ctx context.Context, conn *grpc.ClientConn, method string, message []byte, answer *[]byte) error {
	return conn.Invoke(ctx, "/"+numbers.Service+"/"+method, &message, answer)
}

var waiting atomic.Int64

// wait makes a call that ends as it may. When every worker's is at the server, that is said.
func wait(ctx context.Context, conn *grpc.ClientConn, o options, message []byte) error {
	open, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/"+numbers.Service+"/Wait")
	if err != nil {
		return err
	}
	if err := open.SendMsg(&message); err != nil {
		return err
	}
	if err := open.CloseSend(); err != nil {
		return err
	}
	if _, err := open.Header(); err != nil {
		return err
	}
	if int(waiting.Add(1)) == o.concurrency {
		fmt.Println("open")
	}
	open.RecvMsg(new([]byte))
	return nil
}

func stream(ctx context.Context, conn *grpc.ClientConn, method string, message []byte, n, sent, received int) error {
	desc := &grpc.StreamDesc{ClientStreams: sent > 1, ServerStreams: received > 1}
	open, err := conn.NewStream(ctx, desc, "/"+numbers.Service+"/"+method)
	if err != nil {
		return err
	}
	for range sent {
		if err := open.SendMsg(&message); err != nil {
			return err
		}
	}
	if err := open.CloseSend(); err != nil {
		return err
	}
	got := 0
	for {
		var answer []byte
		err := open.RecvMsg(&answer)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := check(answer, n); err != nil {
			return err
		}
		if got++; got == 1 && received == 1 {
			return nil // RecvMsg has seen the status already
		}
	}
	if got != received {
		return fmt.Errorf("%d messages instead of %d", got, received)
	}
	return nil
}

func check(answer []byte, n int) error {
	number, err := numbers.Number(answer)
	if err != nil {
		return err
	}
	if number != n || len(answer) != len(numbers.Message(n)) {
		return fmt.Errorf("the answer is that of %d", number)
	}
	return nil
}

func expect(err error, code codes.Code) error {
	if status.Code(err) != code {
		return fmt.Errorf("%v instead of %v", err, code)
	}
	return nil
}
