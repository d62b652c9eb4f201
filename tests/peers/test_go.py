"""The Go matrix: whose request is a call part of, by every client, in every shape, in programs of
every version of Go. The numbers in the URLs are the truth; a wrong parent is worse than none."""

import sys

import pytest

from .agent import started_agent
from .clients import run_client, start_client
from .go_demands import demand
from .go_matrix import (
    CONCURRENCIES,
    FRAMEWORKS,
    GOMATRIX,
    HANDOVER,
    MULTIPLEXED,
    TLS_CLIENTS,
    cells_of,
    kind_of,
    old_cells,
    play,
)
from .go_table import OLD, WARM
from .python_matrix import Cell, Run
from .servers import start_server
from .toolchain import GO_WAYS, ensure_go_matrix, ensure_go_old
from .truth import judge

FEW = 160
MANY = 1000
QUICK = (
    ("each-two", "raw"),  # needs births, which stay then
    ("one", "std"),
    ("one", "close"),
    ("one", "wrapped"),
    ("parallel", "std"),
    ("nested", "std"),
    ("after-func", "std"),
    ("detached", "std"),
    ("stream", "std"),
    ("late", "std"),
    ("hijack", "std"),
    ("hijack-on", "std"),
    ("retry", "std"),
    ("timeout", "std"),
    ("parallel", "h2c"),
    ("parallel", "xnet"),
    ("parallel", "grpc"),
    ("one", "stream"),
    ("pool-ctx", "std"),
    ("pool", "std"),
    ("lazy-pool", "std"),
    ("spare-pool", "std"),
)


def check(run: Run) -> None:
    """No call has a wrong parent, no trace is split, nothing is missing, and each cell has the
    share of right ones that is demanded of it."""
    for result in run.results:
        print(result)
    assert not [str(result) for result in run.results if result.wrong]
    assert not [result for result in run.results if result.split]
    assert not [result for result in run.results if result.unserved or result.missing]
    low = [result for result in run.results if result.share < demand(result.cell).least]
    assert not low, [str(result) for result in low]
    assert not run.ended.lost


def test_calls_are_part_of_their_request() -> None:
    """A few hundred requests of the shapes that tell kinds of evidence apart, 64 at once."""
    ensure_go_matrix()
    check(play([Cell("gin", shape, client, 64) for shape, client in QUICK], FEW, warm=WARM))


def test_workers_that_are_handed_their_work() -> None:
    """With --go-handover, by what passes a channel: hand to hand, through a buffer, a full one and
    a select. Workers that hold orders back, or do something for another, have no parents there."""
    ensure_go_matrix()
    right = ("pool", "buffered", "full-pool", "select-pool", "lazy-pool")
    traps = ("gather-pool", "behind-pool", "tidy-pool", "closing-pool", "free-list")
    check(play([Cell(HANDOVER, shape, "std", 64) for shape in right + traps], FEW, warm=WARM))


@pytest.mark.parametrize("how", ["grpc", "h2c", "xnet"])
def test_streams_have_their_handlers(how: str) -> None:
    """Requests that share a connection: what each handler calls is part of its own."""
    ensure_go_matrix()
    cells = [Cell(how, "one", "std", 64), Cell(how, "parallel", "grpc", 64)]
    check(play([*cells, Cell(how, "pool-ctx", "std", 64)], FEW, warm=WARM))


def test_calls_over_tls() -> None:
    """HTTP/1 and HTTP/2 in crypto/tls, kept connections and one for each call, asked by HTTP/2 over
    TLS: what the called server did is below each call."""
    ensure_go_matrix()
    # Its goroutines end, so that births tell of the others.
    cells = [Cell("https", "detached", "std", 64)]
    cells += [Cell("https", "parallel", client, 64) for client in TLS_CLIENTS]
    check(play(cells, FEW, warm=WARM))


@pytest.mark.slow
def test_workers_that_serve_one_stream_after_the_other() -> None:
    """grpc's NumStreamWorkers: a goroutine serves what it was given last."""
    ensure_go_matrix()
    cells = [Cell("grpc", "one", "std", 64), Cell("grpc", "parallel", "grpc", 64)]
    check(play(cells, FEW, env={"STREAM_WORKERS": "8"}, warm=WARM))


@pytest.mark.parametrize("workers", ["3", "8", "40"])
def test_workers_from_their_first_stream(workers: str) -> None:
    """That a process has such workers shows only by and by: until then nothing is wrong either."""
    ensure_go_matrix()
    check_wrong(play([Cell("grpc", "one", "std", 64)], FEW, env={"STREAM_WORKERS": workers}))


def test_more_streams_than_lie_near() -> None:
    """1,500 streams of grpc at once, more than the maps whose memory is warm have room for: what
    each handler calls is part of its own."""
    ensure_go_matrix()
    check(play([Cell("grpc", "one", "std", 1500)], 3000, warm=WARM))


def test_children_without_a_warm_up() -> None:
    """From the very first request nothing is wrong; with one at a time only the first few
    goroutines of each function are without a parent."""
    ensure_go_matrix()
    run = play([Cell("nethttp", shape, "raw", 1) for shape in ("parallel", "detached")], 40)
    check_wrong(run)
    assert not [str(result) for result in run.results if result.none > 10]


def test_reverse_proxies() -> None:
    """What httputil.ReverseProxy passes on is part of what it was asked."""
    ensure_go_matrix()
    kinds = {one: kind_of(GOMATRIX, "nethttp") for one in ("called", "go")}
    with (
        start_server("called", kinds=kinds) as called,
        start_server("go", env={"CALLED": called.base_url}, kinds=kinds) as server,
        started_agent(pids=[called.pid, server.pid]) as agent,
    ):
        run_client("go", server.base_url, FEW, 64, path="/proxied/n/{}")
        agent.settle(3 * FEW)
        ended = agent.stop()
    truth = judge(ended.spans, server.pids(), [called.pid])
    assert truth.verdicts == {"right": FEW}
    assert truth.split == truth.astray == 0
    assert not ended.lost


def check_wrong(run: Run) -> None:
    assert not [str(result) for result in run.results if result.wrong or result.split]


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", CONCURRENCIES)
@pytest.mark.parametrize("framework", [*FRAMEWORKS, *MULTIPLEXED, HANDOVER])
def test_the_whole_matrix(framework: str, concurrency: int) -> None:
    """Every framework, shape and client: make test-go."""
    ensure_go_matrix()
    count = MANY if concurrency > 1 else FEW
    check(play(cells_of(framework, concurrency), count, warm=WARM))


@pytest.mark.slow
@pytest.mark.parametrize("way", GO_WAYS)
@pytest.mark.parametrize("version", OLD)
def test_every_version_of_go(version: str, way: str) -> None:
    """However a program is built: stripped, position independent, with C linked in."""
    ensure_go_matrix()
    program = ensure_go_old(version, way=way)
    check(play(old_cells(16), FEW, program=program, warm=WARM))
    check(play(old_cells(16, HANDOVER), FEW, program=program, warm=WARM))


@pytest.mark.slow
@pytest.mark.parametrize("env", [{"GOGC": "1"}, {"GODEBUG": "gccheckmark=0,asyncpreemptoff=1"}])
def test_the_runtime_under_stress(env: dict[str, str]) -> None:
    """Stacks that grow and move while they are looked at, and collections all the time."""
    ensure_go_matrix()
    cells = [Cell("nethttp", shape, "std", 64) for shape in ("deep", "parallel", "pool-ctx")]
    check(play(cells, FEW, env=env, warm=WARM))
    cells = [Cell(HANDOVER, shape, "std", 64) for shape in ("pool", "full-pool", "gather-pool")]
    check(play(cells, FEW, env=env, warm=WARM))


def test_an_agent_that_is_killed_harms_nobody() -> None:
    """SIGKILL under load, while stacks grow under the probes: every request is answered with its
    number, by the same process; the next agent finds the right parents at once."""
    ensure_go_matrix()
    kinds = {"called": kind_of(GOMATRIX, "nethttp"), "go": kind_of(GOMATRIX, "gin")}
    with (
        start_server("called", kinds=kinds) as called,
        start_server("go", env={"CALLED": called.base_url}, kinds=kinds) as server,
        start_client("go", server.base_url, 200_000, 16, path="/m/deep/std/{}") as load,
    ):
        with started_agent(pids=[called.pid, server.pid]) as agent:
            agent.wait_for(lambda spans: len(spans) > 300)
            agent.kill()
        taken = load.end_early().count
        assert taken > 100
        with started_agent(pids=[called.pid, server.pid]) as agent:
            run_client("go", server.base_url, 100, 4, first=300_000, path="/m/one/std/{}")
            agent.settle(300)
            spans = agent.stop().spans
        assert server.program.process.poll() is None
        assert judge(spans, server.pids(), [called.pid]).verdicts == {"right": 100}


# An agent whose maps have so little room.
SMALLER = """
from waggle.libbpf.objects import Object
load = Object.load
def smaller(self, **options):
    self.maps[{name!r}].max_entries = {entries}
    return load(self, **options)
Object.load = smaller
import sys; sys.argv[0] = 'waggle'
from waggle.main import main
sys.exit(main())
"""


@pytest.mark.parametrize(("name", "entries"), [("go_claims", 8), ("go_slots", 8), ("go_pools", 1)])
def test_what_workers_are_handed_where_there_is_no_room_for_it(name: str, entries: int) -> None:
    """What is forgotten is nobody's: no call has a wrong parent, by workers that answer each order
    first or by those that do not, and none is split from what it reached."""
    ensure_go_matrix()
    right = ("pool", "buffered", "full-pool", "select-pool", "lazy-pool", "several-pool")
    traps = ("behind-pool", "gather-pool", "turning-pool", "tidy-pool", "closing-pool", "free-list")
    program = [sys.executable, "-c", SMALLER.format(name=name, entries=entries)]
    cells = [Cell(HANDOVER, shape, "std", 64) for shape in right + traps]
    run = play(cells, FEW, warm=WARM, agent_program=program)
    check_wrong(run)
    assert not [result for result in run.results if result.unserved or result.missing]
    assert not run.ended.lost
    none = {result.cell.shape: result.none for result in run.results}
    print(none)
    assert sum(none[shape] for shape in right) > 0  # there was too little


def test_more_calls_wait_than_lie_in_warm_memory() -> None:
    """Where calls have no room in the map that is asked first, each has its right parent all the
    same."""
    ensure_go_matrix()
    program = [sys.executable, "-c", SMALLER.format(name="near_calls", entries=2)]
    shapes = (("one", "std"), ("parallel", "std"), ("one", "few"), ("one", "grpc"))
    check(play([Cell("gin", *one, 64) for one in shapes], FEW, warm=WARM, agent_program=program))
