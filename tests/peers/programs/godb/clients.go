package main

import (
	"context"
	"database/sql"
	"log"
	"os"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/lib/pq"
	"github.com/redis/go-redis/v9"
)

const (
	question = "SELECT $1::text"
	slow     = "SELECT pg_sleep(1)"
)

// newClients makes those whose database the environment has.
func newClients(dial dial) map[string]client {
	clients := map[string]client{}
	if where := os.Getenv("POSTGRES"); where != "" {
		addPostgres(clients, where, dial)
	}
	if where := os.Getenv("MYSQL"); where != "" {
		clients["mysql"] = newMySQL(where, dial)
	}
	if where := os.Getenv("REDIS"); where != "" {
		addRedis(clients, where, dial)
	}
	return clients
}

func addPostgres(clients map[string]client, where string, dial dial) {
	config, err := pgxpool.ParseConfig(where)
	if err != nil {
		log.Fatal(err)
	}
	config.MaxConns = 8
	config.ConnConfig.DialFunc = dial
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		log.Fatal(err)
	}
	clients["pgxpool"] = client{
		func(ctx context.Context, n int) (got string, err error) {
			err = pool.QueryRow(ctx, question, marked(n)).Scan(&got)
			return got, err
		},
		func(ctx context.Context) error {
			_, err := pool.Exec(ctx, slow)
			return err
		},
	}
	single, err := pgx.ParseConfig(where)
	if err != nil {
		log.Fatal(err)
	}
	single.DialFunc = dial
	clients["pgx"] = queried(stdlib.OpenDB(*single), question, slow)
	connector, err := pq.NewConnector(where)
	if err != nil {
		log.Fatal(err)
	}
	connector.Dialer(pqDialer{dial})
	clients["pq"] = queried(sql.OpenDB(connector), question, slow)
}

func newMySQL(where string, dial dial) client {
	config := mysql.NewConfig()
	config.Net, config.Addr, config.User, config.DBName = "tcp", where, "root", "mysql"
	config.DialFunc = dial
	connector, err := mysql.NewConnector(config)
	if err != nil {
		log.Fatal(err)
	}
	return queried(sql.OpenDB(connector), "SELECT ?", "SELECT SLEEP(1)")
}

func addRedis(clients map[string]client, where string, dial dial) {
	store := redis.NewClient(&redis.Options{
		Addr: where, PoolSize: 8, Dialer: dial, ContextTimeoutEnabled: true,
	})
	wait := func(ctx context.Context) error { return store.BLPop(ctx, time.Second, "nothing").Err() }
	clients["redis"] = client{
		func(ctx context.Context, n int) (string, error) {
			if err := store.Set(ctx, marked(n), marked(n), 0).Err(); err != nil {
				return "", err
			}
			return store.Get(ctx, marked(n)).Result()
		},
		wait,
	}
	clients["pipeline"] = client{
		func(ctx context.Context, n int) (string, error) {
			pipe := store.Pipeline()
			pipe.Set(ctx, marked(n), marked(n), 0)
			got := pipe.Get(ctx, marked(n))
			if _, err := pipe.Exec(ctx); err != nil {
				return "", err
			}
			return got.Result()
		},
		wait,
	}
}
