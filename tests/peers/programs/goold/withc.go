//go:build withc
// +build withc

package main

// int waggle_one(void) { return 1; }
import "C"

func init() {
	if C.waggle_one() != 1 {
		panic("C is not linked in")
	}
}
