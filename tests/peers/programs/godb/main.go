// Command godb is a target program: it serves request n, asks a database for n on its behalf, and calls
// another server with the same number.
//
//	godb --listen HOST:PORT      environment: CALLED=URL, POSTGRES=DSN, REDIS=HOST:PORT
//
// GET /m/<client>/<n> answers when the call has; /both/<client>/<n> makes the call in a goroutine of
// its own beside the statement. Clients: pgx, pgxpool, pq, redis, pipeline.
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

	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"
	"github.com/redis/go-redis/v9"
)

type ask func(ctx context.Context, n int) (int, error)

func main() {
	address := flag.String("listen", "127.0.0.1:0", "HOST:PORT")
	flag.Parse()
	pool, err := pgxpool.New(context.Background(), os.Getenv("POSTGRES"))
	if err != nil {
		log.Fatal(err)
	}
	store := redis.NewClient(&redis.Options{Addr: os.Getenv("REDIS"), PoolSize: 8})
	clients := map[string]ask{
		"pgx": queried("pgx"),
		"pq":  queried("postgres"),
		"pgxpool": func(ctx context.Context, n int) (got int, err error) {
			return got, errors.Join(pool.QueryRow(ctx, "SELECT $1::int", n).Scan(&got))
		},
		"redis": func(ctx context.Context, n int) (int, error) {
			key := strconv.Itoa(n)
			if err := store.Set(ctx, key, n, 0).Err(); err != nil {
				return 0, err
			}
			return store.Get(ctx, key).Int()
		},
		"pipeline": func(ctx context.Context, n int) (int, error) {
			pipe, key := store.Pipeline(), strconv.Itoa(n)
			pipe.Set(ctx, key, n, 0)
			got := pipe.Get(ctx, key)
			if _, err := pipe.Exec(ctx); err != nil {
				return 0, err
			}
			return got.Int()
		},
	}
	call := func(ctx context.Context, n int) error {
		r, _ := http.NewRequestWithContext(ctx, "GET", fmt.Sprint(os.Getenv("CALLED"), "/n/", n), nil)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		_, err = io.Copy(io.Discard, answer.Body)
		return err
	}
	http.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ready") })
	serve := func(w http.ResponseWriter, r *http.Request, both bool) {
		n, _ := strconv.Atoi(r.PathValue("n"))
		ctx, called := r.Context(), make(chan error, 1)
		if both {
			go func() { called <- call(ctx, n) }()
		}
		got, err := clients[r.PathValue("client")](ctx, n)
		if err == nil && got != n {
			err = fmt.Errorf("%d came back", got)
		}
		if !both {
			called <- call(ctx, n)
		}
		if err = errors.Join(err, <-called); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprintf(w, "n=%d\n", n)
	}
	http.HandleFunc("/m/{client}/{n}", func(w http.ResponseWriter, r *http.Request) { serve(w, r, false) })
	http.HandleFunc("/both/{client}/{n}", func(w http.ResponseWriter, r *http.Request) { serve(w, r, true) })
	log.Fatal(http.ListenAndServe(*address, nil))
}

// queried is a client of database/sql.
func queried(driver string) ask {
	db, err := sql.Open(driver, os.Getenv("POSTGRES"))
	if err != nil {
		log.Fatal(err)
	}
	db.SetMaxOpenConns(8)
	return func(ctx context.Context, n int) (got int, err error) {
		return got, errors.Join(db.QueryRowContext(ctx, "SELECT $1::int", n).Scan(&got))
	}
}
