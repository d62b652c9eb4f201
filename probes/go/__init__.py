"""Looks into Go programs: whose goroutine a call was asked for by."""
