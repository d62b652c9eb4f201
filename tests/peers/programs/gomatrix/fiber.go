package main

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/gofiber/fiber/v2"
)

// serveFiber plays shapes by another HTTP server than net/http's, whose requests have no context of
// their own; everything else is handed to what is built on net/http.
func serveFiber(listener net.Listener, others http.Handler, p play) error {
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	app.Get("/m/:shape/:client/:n", func(c *fiber.Ctx) error {
		// What fiber hands out holds until the handler returns; calls may live longer.
		shape, client, n := kept(c.Params("shape")), kept(c.Params("client")), kept(c.Params("n"))
		return answered(c, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p(w, r, shape, client, n) }))
	})
	app.Use(func(c *fiber.Ctx) error { return answered(c, others) })
	return app.Listener(listener)
}

func kept(text string) string { return strings.Clone(text) }

func answered(c *fiber.Ctx, handler http.Handler) error {
	answer := httptest.NewRecorder()
	request := httptest.NewRequestWithContext(context.Background(), c.Method(), kept(c.OriginalURL()), nil)
	handler.ServeHTTP(answer, request)
	return c.Status(answer.Code).Send(answer.Body.Bytes())
}
