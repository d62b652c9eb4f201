// Command stock is a service of the demo: it knows how many of an article are left, and what it costs.
package main

import (
	"flag"
	"log"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:9000", "HOST:PORT")
	flag.Parse()
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.GET("/ready", func(c *gin.Context) { c.String(http.StatusOK, "ready\n") })
	engine.GET("/stock/:id", answer(10*time.Millisecond, "left", func(id int) int { return 100 - id%100 }))
	engine.GET("/price/:id", answer(4*time.Millisecond, "cents", func(id int) int { return 1000 + 10*id }))
	engine.GET("/discount/:id", answer(6*time.Millisecond, "cents", func(id int) int { return 5 * id }))
	engine.GET("/delivery/:id", answer(8*time.Millisecond, "cents", func(int) int { return 490 }))
	log.Fatal(http.ListenAndServe(*listen, engine))
}

// answer looks something up about an article. It takes a moment, so that the span can be seen.
func answer(moment time.Duration, what string, look func(id int) int) gin.HandlerFunc {
	return func(c *gin.Context) {
		id, err := strconv.Atoi(c.Param("id"))
		if err != nil {
			c.JSON(http.StatusBadRequest, gin.H{"error": "the article's id is a number"})
			return
		}
		time.Sleep(moment)
		c.JSON(http.StatusOK, gin.H{"article": id, what: look(id)})
	}
}
