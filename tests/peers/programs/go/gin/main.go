// Command gin is a target program: the Gin web framework.
package main

import (
	"io"
	"log"
	"net/http"
	"strconv"

	"github.com/gin-gonic/gin"

	"waggle.test/peers/internal/peer"
)

func main() {
	listener, err := peer.ListenFlag()
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, routes()))
}

func routes() *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	client := peer.NewClient()
	engine.GET("/ready", func(c *gin.Context) { c.String(http.StatusOK, "ready\n") })
	engine.GET("/n/:n", func(c *gin.Context) {
		c.String(http.StatusOK, "%s", peer.Body(c.Param("n")))
	})
	engine.GET("/slow/:n", func(c *gin.Context) {
		peer.Sleep(c.Request, c.Query("ms"))
		c.String(http.StatusOK, "%s", peer.Body(c.Param("n")))
	})
	engine.GET("/status/:code/:n", answerStatus)
	engine.GET("/chunked/:n", func(c *gin.Context) { peer.WriteChunks(c.Writer, c.Param("n")) })
	engine.GET("/big/:n", func(c *gin.Context) {
		c.Data(http.StatusOK, "text/plain", []byte(peer.Big(c.Param("n"))))
	})
	engine.GET("/until-close/:n", func(c *gin.Context) {
		c.Header("Transfer-Encoding", "identity")
		io.WriteString(c.Writer, peer.Body(c.Param("n")))
	})
	engine.POST("/echo/:n", answerEcho)
	engine.GET("/call/:n", func(c *gin.Context) {
		body, err := peer.Call(client, c.Request, c.Param("n"))
		if err != nil {
			c.String(http.StatusBadGateway, "%s", err)
			return
		}
		c.String(http.StatusOK, "%s", body)
	})
	return engine
}

func answerStatus(c *gin.Context) {
	code, err := strconv.Atoi(c.Param("code"))
	if err != nil || code < 200 || code > 599 {
		c.String(http.StatusBadRequest, "no such status")
		return
	}
	if code == http.StatusNoContent || code == http.StatusNotModified {
		c.Status(code)
		return
	}
	c.String(code, "%s", peer.Body(c.Param("n")))
}

func answerEcho(c *gin.Context) {
	size, err := io.Copy(io.Discard, c.Request.Body)
	if err != nil {
		c.String(http.StatusBadRequest, "%s", err)
		return
	}
	c.String(http.StatusOK, "n=%s bytes=%d\n", c.Param("n"), size)
}
