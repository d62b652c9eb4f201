// Command stock is a service of the demo: it knows how many of an article are left, asks the price
// service what it and the one beside it cost, both at once, knows what comes off and on to that, and packs what was sold.
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
	engine.GET("/price/:id", answer(4*time.Millisecond, func(id int) int { return 1000 + 10*id }))
	engine.GET("/discount/:id", answer(6*time.Millisecond, func(id int) int { return 5 * id }))
	engine.GET("/delivery/:id", answer(8*time.Millisecond, func(int) int { return 490 }))
	log.Fatal(http.ListenAndServe(*listen, engine))
}

// answer looks up cents of an article. It takes a moment, so that the span can be seen.
func answer(moment time.Duration, look func(id int) int) gin.HandlerFunc {
	return func(c *gin.Context) {
		id, err := strconv.Atoi(c.Param("id"))
		if err != nil {
			c.JSON(http.StatusBadRequest, gin.H{"error": "the article's id is a number"})
			return
		}
		time.Sleep(moment)
		c.JSON(http.StatusOK, gin.H{"article": id, "cents": look(id)})
	}
}

func answerStock(prices prices) gin.HandlerFunc {
	return func(c *gin.Context) {
		id, err := strconv.Atoi(c.Param("id"))
		if err != nil {
			c.JSON(http.StatusBadRequest, gin.H{"error": "the article's id is a number"})
			return
		}
		quoted, err := prices.quotes(c.Request.Context(), id, id+1)
		if err != nil {
			c.JSON(http.StatusBadGateway, gin.H{"error": err.Error()})
			return
		}
		// Counting takes a moment, so that the span can be seen.
		time.Sleep(10 * time.Millisecond)
		c.JSON(http.StatusOK, gin.H{"article": id, "left": 100 - id%100, "cents": quoted[0].Cents, "next": quoted[1].Cents})
	}
}
