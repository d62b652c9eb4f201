"""Waggle: a zero-code tracing agent for Linux."""


def __getattr__(name: str) -> str:
    """`__version__`, looked up when asked for: importlib.metadata is slow to import."""
    if name != "__version__":
        raise AttributeError(f"module 'waggle' has no attribute '{name}'")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("waggle-ebpf")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"
