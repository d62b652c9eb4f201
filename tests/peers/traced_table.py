"""python -m tests.peers.traced_table [--write]: the README's table of what is traced.

It is made from what the tests start, so that it cannot promise a program that nothing runs;
tests/unit/test_traced_table.py fails when the README has another.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from . import go_matrix, runtime_matrix, test_http2
from .clients import CLIENTS
from .grpc_programs import IMPLEMENTATIONS
from .processes import ROOT
from .python_servers import ASYNC_CLIENTS, PYTHON_SERVERS, SYNC_CLIENTS
from .servers import SERVERS

PAGE = ROOT / "README.md"
BEGIN, END = "<!-- traced -->", "<!-- end traced -->"
_OURS = {"raw"}  # written for the tests


@dataclass(frozen=True)
class Row:
    """A line of the table: programs that are run against each other, and what runs them."""

    protocol: str
    servers: tuple[str, ...]
    clients: tuple[str, ...]
    target: str

    def __str__(self) -> str:
        cells = (self.protocol, _listed(self.servers), _listed(self.clients), f"`{self.target}`")
        return f"| {' | '.join(cells)} |"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def rows() -> Sequence[Row]:
    quick = [name for name, how in IMPLEMENTATIONS.items() if not how.is_slow]
    return (
        Row("HTTP/1", _but_ours(SERVERS), _but_ours(CLIENTS), "make test"),
        _tls_row(),
        Row(
            "HTTP/1, Python",
            tuple(PYTHON_SERVERS),
            (*SYNC_CLIENTS, *ASYNC_CLIENTS),
            "make test-python",
        ),
        Row(
            "Go", go_matrix.FRAMEWORKS, (*go_matrix.CLIENTS, *go_matrix.TLS_CLIENTS), "make test-go"
        ),
        _runtimes_row(),
        *_http2_rows(),
        Row("gRPC", tuple(quick), tuple(quick), "make test"),
        Row("gRPC", tuple(IMPLEMENTATIONS), tuple(IMPLEMENTATIONS), "make test-grpc"),
        *_proxy_rows(),
    )


def _tls_row() -> Row:
    servers = [name for name, kind in SERVERS.items() if kind.can_tls]
    clients = [name for name, kind in CLIENTS.items() if kind.can_tls]
    return Row("HTTP/1 inside TLS", _but_ours(servers), _but_ours(clients), "make test-full")


def _runtimes_row() -> Row:
    servers = dict.fromkeys(server for server, _, _ in runtime_matrix.CELLS)
    clients = dict.fromkeys(client for _, _, client in runtime_matrix.CELLS)
    return Row("HTTP/1, other runtimes", tuple(servers), tuple(clients), "make test-runtimes")


def _proxy_rows() -> Iterable[Row]:
    """A proxy is server and client."""
    slow = test_http2.SLOW_PROXIES
    quick = tuple(name for name in test_http2.PROXIES if name not in slow)
    yield Row("gRPC through a proxy", quick, quick, "make test")
    every = tuple(test_http2.PROXIES)
    yield Row("gRPC through a proxy", every, every, "make test-grpc")


def _http2_rows() -> Iterable[Row]:
    for pairs, target in ((test_http2.QUICK, "make test"), (test_http2.PAIRS, "make test-grpc")):
        servers = tuple(name for name in test_http2.SERVERS if name in dict(pairs))
        used = {client for _, client in pairs}
        clients = tuple(name for name in test_http2.CLIENTS if name in used)
        if target == "make test":
            servers, clients = (*servers, "nghttpd"), (*clients, "h2load")
        yield Row("HTTP/2", servers, clients, target)


def _but_ours(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in _OURS)


def table() -> str:
    head = ["| protocol | servers | clients | run by |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *map(str, rows())])


def with_table(page: str) -> str:
    """The page with the table in its place. Raises ValueError where it has none."""
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{PAGE.name} has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> int:
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(with_table(PAGE.read_text("utf-8")), "utf-8")
    else:
        print(table())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
