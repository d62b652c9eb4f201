"""Waggle: a zero-code tracing agent for Linux."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("waggle-ebpf")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
