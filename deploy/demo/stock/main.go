// Command stock is a service of the demo: it knows how many of an article are left, asks the price
// service what it costs, and packs what was sold.
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
	calls := flag.String("grpc", "127.0.0.1:9001", "HOST:PORT for gRPC")
	target := flag.String("prices", "127.0.0.1:9002", "HOST:PORT of the price service")
	flag.Parse()
	go serveCalls(*calls)
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.GET("/ready", func(c *gin.Context) { c.String(http.StatusOK, "ready\n") })
	engine.GET("/stock/:id", answerStock(dialPrices(*target)))
	log.Fatal(http.ListenAndServe(*listen, engine))
}

func answerStock(prices prices) gin.HandlerFunc {
	return func(c *gin.Context) {
		id, err := strconv.Atoi(c.Param("id"))
		if err != nil {
			c.JSON(http.StatusBadRequest, gin.H{"error": "the article's id is a number"})
			return
		}
		price, err := prices.quote(c.Request.Context(), id)
		if err != nil {
			c.JSON(http.StatusBadGateway, gin.H{"error": err.Error()})
			return
		}
		// Counting takes a moment, so that the span can be seen.
		time.Sleep(10 * time.Millisecond)
		c.JSON(http.StatusOK, gin.H{"article": id, "left": 100 - id%100, "cents": price.Cents})
	}
}
