"""Go's clients of databases. Statements have no spans yet; what must hold already is that whose
request a statement is part of is known where it is written, and that calls beside are right."""

from collections.abc import Iterator, Mapping, Sequence

import pytest

from .agent import started_agent
from .clients import run_client
from .databases import started_databases
from .go_matrix import GOMATRIX, kind_of
from .servers import ServerKind, start_server
from .toolchain import GO_MATRIX_BIN, PROGRAMS, ensure_go_matrix, ensure_go_module
from .truth import judge

OF_POSTGRES, OF_MYSQL, OF_REDIS = ("pgx", "pgxpool", "pq"), ("mysql",), ("redis", "pipeline")
EVERY = (*OF_POSTGRES, *OF_MYSQL, *OF_REDIS)
# How: calls of one request.
BESIDE = {"m": 1, "both": 1, "cancelled": 1}
WRITES = {client: 2 if client == "redis" else 1 for client in EVERY}  # it sets, and then gets
REQUESTS, CONCURRENCY = 160, 16
MANY = 64
GODB = ServerKind(lambda place, _: [GO_MATRIX_BIN / "godb", "--listen", place.address])

Databases = Mapping[str, str]


@pytest.fixture(scope="module")
def mysql() -> Iterator[Databases]:
    with started_databases("MYSQL") as places:
        yield places


@pytest.fixture(scope="module")
def databases() -> Iterator[Databases]:
    with started_databases() as places:
        where = "host={} port={} user=postgres dbname=postgres sslmode=disable"
        postgres = where.format(*places["POSTGRES"].split(":"))
        yield {**places, "POSTGRES": postgres}


def play(databases: Databases, clients: Sequence[str], concurrency: int) -> None:
    """Every client, beside a call in every way, and with a call by whoever writes the statement:
    each is answered, each call has the right parent, and nothing else becomes a span."""
    ensure_go_matrix()
    ensure_go_module(PROGRAMS / "godb", ["."], GO_MATRIX_BIN)
    loads = {f"/{how}/{client}/{{}}": calls for how, calls in BESIDE.items() for client in clients}
    loads |= {f"/writes/{client}/{{}}": WRITES[client] for client in clients}
    kinds = {"called": kind_of(GOMATRIX, "nethttp"), "godb": GODB}
    with start_server("called", kinds=kinds) as called:
        env = {"CALLED": called.base_url, **databases}
        with (
            start_server("godb", env=env, kinds=kinds) as server,
            started_agent(pids=[called.pid, server.pid]) as agent,
        ):
            for index, path in enumerate(loads):
                first = 1 + index * REQUESTS
                run_client("go", server.base_url, REQUESTS, concurrency, first=first, path=path)
            calls = REQUESTS * sum(loads.values())
            agent.settle(REQUESTS * len(loads) + 2 * calls)
            ended = agent.stop()
    spans = ended.spans
    truth = judge(spans, [server.pid], [called.pid])
    for index, (path, each) in enumerate(loads.items()):
        part = truth.within(range(1 + index * REQUESTS, 1 + (index + 1) * REQUESTS))
        assert part.verdicts == {"right": each * REQUESTS}, (
            *(path, part.verdicts, part.examples("wrong"), part.examples("none")),
            *(ended.losses, len(spans), REQUESTS * len(loads) + 2 * calls),
        )
    assert truth.split == 0
    assert len(spans) == REQUESTS * len(loads) + 2 * calls


def test_statements_of_mysql(mysql: Databases) -> None:
    """database/sql with go-sql-driver/mysql, whose connections have goroutines that watch for who
    gives up: against a MariaDB, more requests at once than connections."""
    play(mysql, OF_MYSQL, CONCURRENCY)


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, MANY])
@pytest.mark.parametrize("client", EVERY)
def test_statements_of_every_client(client: str, concurrency: int, databases: Databases) -> None:
    """database/sql or not, pools, pipelines; one request at a time and many more than there are
    connections."""
    play(databases, [client], concurrency)
