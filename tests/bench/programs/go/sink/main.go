// Command sink takes OTLP by HTTP, counts the spans of the requests for numbers, and forgets them.
//
// It walks the protobuf by its lengths and decodes nothing it does not need, so that on a machine
// of two cores what is measured is the agent and not its receiver.
package main

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"sync/atomic"
)

const (
	resourceSpans = 1 // of ExportTraceServiceRequest
	scopeSpans    = 2 // of ResourceSpans
	span          = 2 // of ScopeSpans
)

var spans, numbered, bodies, size atomic.Int64

// numberPath is how url.path of a numbered request begins: the length of the string is not fixed.
var numberPath = []byte("/n/")

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "HOST:PORT")
	flag.Parse()
	http.HandleFunc("/v1/traces", take)
	http.HandleFunc("/taken", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%d %d %d %d\n", spans.Load(), numbered.Load(), bodies.Load(), size.Load())
	})
	http.HandleFunc("/ready", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "ready\n")
	})
	log.Fatal(http.ListenAndServe(*listen, nil))
}

func take(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = count(body)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	bodies.Add(1)
	size.Add(int64(len(body)))
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func count(request []byte) error {
	return each(request, resourceSpans, func(resource []byte) error {
		return each(resource, scopeSpans, func(scope []byte) error {
			return each(scope, span, func(one []byte) error {
				spans.Add(1)
				if bytes.Contains(one, numberPath) {
					numbered.Add(1)
				}
				return nil
			})
		})
	})
}

// each calls visit with every length-delimited field of that number in message.
func each(message []byte, field uint64, visit func([]byte) error) error {
	for len(message) > 0 {
		key, n := binary.Uvarint(message)
		if n <= 0 {
			return fmt.Errorf("a field's key is cut")
		}
		message = message[n:]
		value, rest, err := cut(message, key&7)
		if err != nil {
			return err
		}
		if key>>3 == field && key&7 == 2 {
			if err := visit(value); err != nil {
				return err
			}
		}
		message = rest
	}
	return nil
}

// cut gives the value at the start of message, by its wire type, and what follows it.
func cut(message []byte, wireType uint64) (value, rest []byte, err error) {
	size := uint64(0)
	switch wireType {
	case 0:
		_, n := binary.Uvarint(message)
		size = uint64(max(n, 0))
	case 1:
		size = 8
	case 2:
		length, n := binary.Uvarint(message)
		if n <= 0 {
			return nil, nil, fmt.Errorf("a length is cut")
		}
		message, size = message[n:], length
	case 5:
		size = 4
	default:
		return nil, nil, fmt.Errorf("wire type %d is not of protobuf 3", wireType)
	}
	if size > uint64(len(message)) {
		return nil, nil, fmt.Errorf("a value of %d bytes in %d", size, len(message))
	}
	return message[:size], message[size:], nil
}
