// Command echo has in it what Waggle reads of github.com/labstack/echo/v4. It is built by
// `make go-offsets` with several versions of that module; nobody runs it.
package main

import (
	"github.com/labstack/echo/v4"
)

func main() { echo.New().Start("") }
