// Command godb is a target program: it serves request n, asks a database for n on its behalf, and calls
// another server with the same number.
//
//	godb --listen HOST:PORT      environment: CALLED=URL, and of those that are asked
//	                             POSTGRES=DSN, MYSQL=HOST:PORT, REDIS=HOST:PORT
//
// GET /m/<client>/<n> answers when the call has; /both/<client>/<n> makes the call in a goroutine of
// its own beside the statement; /cancelled/<client>/<n> gives up a slow statement before both.
// /writes/<client>/<n> makes no call: whoever writes a statement to the database calls (witness.go).
// Clients: pgx, pgxpool, pq, mysql, redis, pipeline.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"time"
)

// client asks a database: for n, whose statement has `n=<n>;` in it, and for something that takes
// longer than anybody waits.
type client struct {
	ask  func(ctx context.Context, n int) (string, error)
	slow func(ctx context.Context) error
}

func main() {
	address := flag.String("listen", "127.0.0.1:0", "HOST:PORT")
	flag.Parse()
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = 64
	clients, witnessed := newClients(plainly), newClients(witnessing)
	http.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ready") })
	handle := func(pattern string, known map[string]client, serve func(context.Context, client, int) error) {
		http.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			n, _ := strconv.Atoi(r.PathValue("n"))
			if err := serve(r.Context(), known[r.PathValue("client")], n); err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			fmt.Fprintf(w, "n=%d\n", n)
		})
	}
	handle("/m/{client}/{n}", clients, func(ctx context.Context, c client, n int) error {
		return errors.Join(asked(ctx, c, n), call(ctx, n))
	})
	handle("/both/{client}/{n}", clients, func(ctx context.Context, c client, n int) error {
		called := make(chan error, 1)
		go func() { called <- call(ctx, n) }()
		return errors.Join(asked(ctx, c, n), <-called)
	})
	handle("/cancelled/{client}/{n}", clients, func(ctx context.Context, c client, n int) error {
		short, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
		defer cancel()
		c.slow(short) // to its end at times: a server may be told before it has begun
		return errors.Join(asked(ctx, c, n), call(ctx, n))
	})
	handle("/writes/{client}/{n}", witnessed, asked)
	log.Fatal(http.ListenAndServe(*address, nil))
}

func asked(ctx context.Context, c client, n int) error {
	got, err := c.ask(ctx, n)
	if err == nil && got != marked(n) {
		err = fmt.Errorf("%s came back", got)
	}
	return err
}

func call(ctx context.Context, n int) error {
	r, _ := http.NewRequestWithContext(ctx, "GET", fmt.Sprint(os.Getenv("CALLED"), "/n/", n), nil)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}

// queried is a client of database/sql.
func queried(db *sql.DB, question, slow string) client {
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	return client{
		func(ctx context.Context, n int) (got string, err error) {
			err = db.QueryRowContext(ctx, question, marked(n)).Scan(&got)
			return got, err
		},
		func(ctx context.Context) error {
			_, err := db.ExecContext(ctx, slow)
			return err
		},
	}
}
