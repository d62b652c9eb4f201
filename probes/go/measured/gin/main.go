// Command gin has in it what Waggle reads of github.com/gin-gonic/gin. It is built by
// `make go-offsets` with several versions of that module; nobody runs it.
package main

import (
	"github.com/gin-gonic/gin"
)

func main() { gin.New().Run() }
