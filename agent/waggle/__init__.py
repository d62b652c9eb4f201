"""Waggle: a zero-code tracing agent for Linux."""

__version__ = "0.1.0"
