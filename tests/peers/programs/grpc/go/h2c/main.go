// Command h2c is a target program: it gets each numbered page once by net/http's own HTTP/2, by
// prior knowledge, and exits 0 only if all were there: h2c URL_BASE COUNT CONCURRENCY.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: h2c URL_BASE COUNT CONCURRENCY")
	}
	count, err := strconv.Atoi(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	concurrency, err := strconv.Atoi(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: transport}
	var next atomic.Int64
	var workers sync.WaitGroup
	for range concurrency {
		workers.Go(func() {
			for n := next.Add(1); n <= int64(count); n = next.Add(1) {
				if err := get(client, fmt.Sprintf("%s/n/%d", os.Args[1], n)); err != nil {
					log.Fatalf("request %d: %v", n, err)
				}
			}
		})
	}
	workers.Wait()
}

// get sends a body too, so that HEADERS and DATA follow one another.
func get(client *http.Client, url string) error {
	response, err := client.Post(url, "text/plain", strings.NewReader(strings.Repeat("b", 100)))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", response.StatusCode)
	}
	return nil
}
