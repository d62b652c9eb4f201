// Command soak asks gomatrix for numbers, one after the other, and says what it was answered:
//
//	soak HOST:PORT CONNECTIONS COUNT PATH...      paths with {} for the number, which they share
//
// The last line that it writes is `COUNT DIGEST`: how many numbers it took and what stands for every
// byte of their answers but the date, whatever their order. With a COUNT of 0 it goes on until SIGINT.
// At most 32 are under way at once; connections are used in turn. SIGUSR1 makes it write how many
// were answered so far.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
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
	"syscall"
)

const (
	numbers = 1000 // calls by gRPC have as many bytes
	atOnce  = 32
)

func main() {
	address, paths := os.Args[1], os.Args[4:]
	connections, _ := strconv.Atoi(os.Args[2])
	count, _ := strconv.Atoi(os.Args[3])
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt)
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	var ended atomic.Bool
	go func() { <-stop; ended.Store(true) }()
	var next, taken atomic.Int64
	var sum digest
	var all sync.WaitGroup
	go func() {
		for range asked {
			fmt.Println(taken.Load())
		}
	}()
	for first := range min(connections, atOnce) {
		all.Go(func() {
			mine := []*asker{}
			for i := first; i < connections; i += atOnce {
				mine = append(mine, dial(address))
			}
			for turn := 0; !ended.Load(); turn++ {
				a := mine[turn%len(mine)]
				n := int(next.Add(1))
				if count > 0 && n > count {
					return
				}
				answer := a.ask(strings.ReplaceAll(paths[n%len(paths)], "{}", strconv.Itoa(n%numbers)))
				sum.add(n, answer)
				taken.Add(1)
			}
		})
	}
	all.Wait()
	fmt.Printf("%d %x\n", taken.Load(), sum.bytes)
}

type digest struct {
	lock  sync.Mutex
	bytes [sha256.Size]byte
}

func (d *digest) add(n int, answer []byte) {
	one := sha256.Sum256(fmt.Appendf(nil, "%d %s", n, answer))
	d.lock.Lock()
	defer d.lock.Unlock()
	for i := range one {
		d.bytes[i] ^= one[i]
	}
}

type asker struct {
	conn net.Conn
	raw  bytes.Buffer // what was read, as it came
	read *bufio.Reader
}

func dial(address string) *asker {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	a := &asker{conn: conn}
	a.read = bufio.NewReader(io.TeeReader(conn, &a.raw))
	return a
}

// ask returns the answer as it was on the wire, without its date. Nothing follows it: nobody has
// asked for more.
func (a *asker) ask(path string) []byte {
	a.raw.Reset()
	if _, err := fmt.Fprintf(a.conn, "GET %s HTTP/1.1\r\nHost: soak\r\n\r\n", path); err != nil {
		log.Fatalf("%s: %v", path, err)
	}
	answer, err := http.ReadResponse(a.read, nil)
	if err != nil {
		log.Fatalf("%s: %v", path, err)
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		log.Fatalf("%s: %s %v %s", path, answer.Status, err, body)
	}
	if a.read.Buffered() > 0 {
		log.Fatalf("%s: %d bytes more than an answer", path, a.read.Buffered())
	}
	head, rest, _ := bytes.Cut(bytes.Clone(a.raw.Bytes()), []byte("\r\n\r\n"))
	kept := bytes.Buffer{}
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		if !bytes.HasPrefix(line, []byte("Date: ")) {
			kept.Write(append(line, '\n'))
		}
	}
	return append(kept.Bytes(), rest...)
}
