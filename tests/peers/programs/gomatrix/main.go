// Command gomatrix is a target program of the Go matrix: it serves request n of a shape through
// one of the usual frameworks, and on its behalf calls another server with the same number.
//
//	gomatrix --listen HOST:PORT --framework NAME      environment: CALLED=URL of another gomatrix
//
// GET /m/<shape>/<client>/<n> plays a shape (shapes.go) with a client (clients.go).
// The same shapes are played by gRPC (grpc.go), by HTTP/2 without TLS, and over TLS (https.go).
// GET /n/<n> answers; /redirect/<n>, /flaky/<n>, /busy/<n> and /slow/<n> answer in their own ways;
// /park/<n> makes n goroutines that do nothing for ever.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"reflect"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/gorilla/mux"
	"github.com/labstack/echo/v4"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
)

// play serves one request of the matrix.
type play func(w http.ResponseWriter, r *http.Request, shape, client, n string)

func main() {
	address := flag.String("listen", "127.0.0.1:0", "HOST:PORT")
	framework := flag.String("framework", "nethttp", "nethttp, gin, chi, mux, echo, fiber or xnet")
	flag.Parse()
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	make, known := frameworks[*framework]
	if *framework == "fiber" || *framework == "xnet" {
		make, known = frameworks["nethttp"], true
	}
	if !known {
		log.Fatalf("no framework %q", *framework)
	}
	called, err := url.Parse(os.Getenv("CALLED"))
	if err != nil {
		log.Fatal(err)
	}
	s := newShapes(called)
	go serveGRPC(*address, s.play)
	root := http.NewServeMux()
	addOwn(root)
	root.Handle("/m/", make(s.play))
	root.Handle("/proxied/", http.StripPrefix("/proxied", httputil.NewSingleHostReverseProxy(called)))
	root.Handle("/limited/", http.TimeoutHandler(make(s.play), 20*time.Second, "too late"))
	go serveHTTPS(*address, root)
	if *framework == "fiber" {
		log.Fatal(serveFiber(listener, root, s.play))
	}
	if *framework == "xnet" { // HTTP/2 by the module, not by what net/http has of it
		log.Fatal(http.Serve(listener, h2c.NewHandler(root, new(http2.Server))))
	}
	server := &http.Server{Handler: root, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	log.Fatal(server.Serve(listener))
}

// Each is given paths that begin with /m/ or /limited/.
var frameworks = map[string]func(play) http.Handler{
	"nethttp": func(p play) http.Handler {
		m := http.NewServeMux()
		m.HandleFunc("GET /{kind}/{shape}/{client}/{n}", func(w http.ResponseWriter, r *http.Request) {
			p(w, r, r.PathValue("shape"), r.PathValue("client"), r.PathValue("n"))
		})
		return m
	},
	"gin": func(p play) http.Handler {
		gin.SetMode(gin.ReleaseMode)
		e := gin.New()
		e.GET("/:kind/:shape/:client/:n", told(func(c *gin.Context) {
			p(c.Writer, c.Request, c.Param("shape"), c.Param("client"), c.Param("n"))
		}))
		return e
	},
	"chi": func(p play) http.Handler {
		c := chi.NewRouter()
		c.Route("/{kind}/{shape}", func(inner chi.Router) {
			inner.Get("/{client}/{n}", told(func(w http.ResponseWriter, r *http.Request) {
				p(w, r, chi.URLParam(r, "shape"), chi.URLParam(r, "client"), chi.URLParam(r, "n"))
			}))
		})
		return c
	},
	"mux": func(p play) http.Handler {
		m := mux.NewRouter()
		inner := m.PathPrefix("/{kind}").Subrouter()
		inner.HandleFunc("/{shape}/{client}/{n}", told(func(w http.ResponseWriter, r *http.Request) {
			v := mux.Vars(r)
			p(w, r, v["shape"], v["client"], v["n"])
		}))
		return m
	},
	"echo":     func(p play) http.Handler { return echoed(p) },
	"echo-pre": func(p play) http.Handler { e := echoed(p); e.Pre(passing); return e },
}

// told says what the runtime calls a handler.
func told[F any](handler F) F {
	log.Println("handler", runtime.FuncForPC(reflect.ValueOf(handler).Pointer()).Name())
	return handler
}

func echoed(p play) *echo.Echo {
	e := echo.New()
	e.GET("/:kind/:shape/:client/:n", told(func(c echo.Context) error {
		p(c.Response(), c.Request(), c.Param("shape"), c.Param("client"), c.Param("n"))
		return nil
	}), passing)
	return e
}

// passing is middleware that runs before the router.
func passing(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error { return next(c) }
}

// addOwn adds what other instances call.
func addOwn(m *http.ServeMux) {
	m.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ready") })
	m.HandleFunc("/n/{n}", answer)
	m.HandleFunc("/redirect/{n}", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/n/"+r.PathValue("n"), http.StatusFound)
	})
	m.HandleFunc("/slow/{n}", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(30 * time.Second):
		case <-r.Context().Done():
		}
	})
	m.HandleFunc("/park/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.PathValue("n"))
		for range n {
			go func() { select {} }()
		}
		answer(w, r)
	})
	var tries sync.Map
	first := func(n string) bool {
		_, known := tries.LoadOrStore(n, true)
		return !known
	}
	m.HandleFunc("/flaky/{n}", func(w http.ResponseWriter, r *http.Request) {
		if first("flaky" + r.PathValue("n")) {
			panic(http.ErrAbortHandler)
		}
		answer(w, r)
	})
	m.HandleFunc("/busy/{n}", func(w http.ResponseWriter, r *http.Request) {
		if first("busy" + r.PathValue("n")) {
			http.Error(w, "n="+r.PathValue("n"), http.StatusServiceUnavailable)
			return
		}
		answer(w, r)
	})
}

func answer(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "n=%s\n", r.PathValue("n"))
}
