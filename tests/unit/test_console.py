"""waggle.exporter.console and what it is made of: what the user sees, and what it costs.

Golden screens are the files in golden/. `WAGGLE_WRITE_GOLDEN=1 pytest` writes them anew;
look at the difference before you keep it.
"""

import fcntl
import io
import os
import pty
import struct
import termios
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle import layout
from waggle.exporter.console import ConsoleExporter, LiveView, Output
from waggle.exporter.selection import Selection, Skipped, hash_of, hashes_of
from waggle.exporter.waterfall import ASCII, Look, cells, draw, duration, label, printable, shorten
from waggle.spans import AttributeValue, Resource, ResourceTable, Span, SpanBatch
from waggle.traces import Trace, build_trace

GOLDEN = Path(__file__).parent / "golden"
MS = 1_000_000
SECOND = 1_000_000_000
SERVER, CLIENT = 2, 3
TRACE_ID = bytes(range(16))
NOTHING_MORE: dict[str, AttributeValue] = {}

NGINX = Resource({"service.name": "nginx", "process.pid": 3991})
SHOP = Resource({"service.name": "shop", "process.pid": 4121}, "gunicorn")
STOCK = Resource({"service.name": "stock", "process.pid": 4130}, "go")


def server(
    number: int,
    parent: int,
    path: str,
    times: tuple[float, float],
    status: int = 200,
    *,
    link: str = "",
    more: Mapping[str, AttributeValue] = NOTHING_MORE,
) -> Span:
    return make_span(number, parent, SERVER, times, status, link, {"url.path": path, **more})


def client(
    number: int,
    parent: int,
    url: str,
    times: tuple[float, float],
    status: int = 200,
    *,
    link: str = "",
    more: Mapping[str, AttributeValue] = NOTHING_MORE,
) -> Span:
    return make_span(number, parent, CLIENT, times, status, link, {"url.full": url, **more})


def make_span(
    number: int,
    parent: int,
    kind: int,
    times: tuple[float, float],
    status: int,
    link: str,
    more: dict[str, AttributeValue],
) -> Span:
    attributes: dict[str, AttributeValue] = {"http.request.method": "GET", **more}
    if status:
        attributes["http.response.status_code"] = status
    if link:
        attributes["waggle.link.method"] = link
    error = "error.type" in attributes
    return Span(
        trace_id=TRACE_ID,
        span_id=number.to_bytes(8, "big"),
        parent_id=parent.to_bytes(8, "big") if parent else b"",
        trace_state="",
        name="GET",
        kind=kind,
        start_unix_ns=1_700_000_000 * SECOND + round(times[0] * MS),
        end_unix_ns=1_700_000_000 * SECOND + round(times[1] * MS),
        attributes=attributes,
        error=error,
        status_message="",
        flags=0x100,
        resource=0,
    )


def checkout() -> Trace:
    """The trace of the example in the project's first issue."""
    spans = [
        (server(1, 0, "/checkout", (0, 184)), NGINX),
        (server(2, 1, "/checkout", (0.5, 183.5), link="socket"), SHOP),
        (client(3, 2, "http://stock:9000/stock/7", (9, 21), link="thread"), SHOP),
        (
            server(
                4, 3, "/stock/7", (9.5, 20.5), link="socket", more={"http.route": "/stock/{id}"}
            ),
            STOCK,
        ),
        (
            client(
                5,
                2,
                "http://pay:9100/pay",
                (40, 160),
                502,
                link="thread",
                more={"error.type": "502", "http.request.method": "POST"},
            ),
            SHOP,
        ),
    ]
    return build_trace(TRACE_ID, spans)


def failures() -> Trace:
    reset = {"error.type": "ECONNRESET"}
    closed = {"error.type": "connection_closed"}
    spans = [
        (server(1, 0, "/report", (0, 2_300), 500, more={"error.type": "500"}), SHOP),
        (client(2, 1, "http://stock:9000/a", (10, 900), 0, link="thread", more=reset), SHOP),
        (client(3, 1, "http://stock:9000/b", (1_000, 2_000), 0, link="thread", more=closed), SHOP),
        (
            client(
                4,
                1,
                "http://stock:9000/c",
                (2_100, 2_200),
                404,
                link="thread",
                more={"error.type": "404"},
            ),
            SHOP,
        ),
    ]
    return build_trace(TRACE_ID, spans)


def deep() -> Trace:
    spans = [(server(1, 0, "/0", (0, 100)), SHOP)]
    for depth in range(1, 30):
        times = (depth, 100 - depth)
        spans.append((server(depth + 1, depth, f"/{depth}", times, link="socket"), STOCK))
    return build_trace(TRACE_ID, spans)


def long_names() -> Trace:
    path = "/api/v2/" + "/".join(f"part-{number}" for number in range(20))
    name = Resource({"service.name": "a-service-with-a-very-long-name", "process.pid": 1234567})
    spans = [
        (server(1, 0, path, (0, 5)), name),
        (
            client(2, 1, f"http://warehouse.internal.example:9000{path}", (1, 4), link="thread"),
            name,
        ),
    ]
    return build_trace(TRACE_ID, spans)


def parallel() -> Trace:
    spans = [(server(1, 0, "/gather", (0, 90)), SHOP)]
    for number in range(6):
        times = (1 + number, 30 + 11 * number)
        spans.append(
            (client(number + 2, 1, f"http://stock:9000/{number}", times, link="turn"), SHOP)
        )
    return build_trace(TRACE_ID, spans)


def missing_parents() -> Trace:
    spans = [
        (server(1, 99, "/from-afar", (0, 50), link="traceparent"), NGINX),
        (client(3, 98, "http://stock:9000/x", (10, 30), link="thread"), SHOP),
        (server(4, 3, "/x", (11, 29), link="socket"), STOCK),
    ]
    return build_trace(TRACE_ID, spans, more=1_234, continued=True)


def unsynced() -> Trace:
    spans = [
        (server(1, 0, "/", (0, 40)), NGINX),
        (server(2, 1, "/", (-25, 13), link="socket"), SHOP),
        (server(3, 2, "/", (30, 20), link="socket"), STOCK),
    ]
    return build_trace(TRACE_ID, spans)


def wide_characters() -> Trace:
    spans = [
        (server(1, 0, "/商品/一覧", (0, 50)), SHOP),
        (server(2, 1, "/" + "商品" * 30, (5, 30), link="socket"), STOCK),
        (client(3, 1, "http://stock:9000/plain", (35, 45), link="thread"), SHOP),
    ]
    return build_trace(TRACE_ID, spans)


def unix_socket() -> Trace:
    unix: dict[str, AttributeValue] = {"network.transport": "unix"}
    spans = [
        (client(1, 0, "http://docker/v1.43/info", (0, 0.85), more=unix), SHOP),
        (server(2, 1, "/v1.43/info", (0.1, 0.8), link="socket", more=unix), STOCK),
    ]
    return build_trace(TRACE_ID, spans)


def lines_of_code() -> Trace:
    """Calls that carry their line of code: in the place of a process already named, else not."""
    at_7: dict[str, AttributeValue] = {
        "code.file.path": "/srv/shop/\x1b[31mshop.py",
        "code.line.number": 7,
    }
    at_41: dict[str, AttributeValue] = {
        "code.file.path": "/srv/shop/checkout.py",
        "code.line.number": 1041,
    }
    unknown: dict[str, AttributeValue] = {
        "code.file.path": "/srv/shop/shop.py",
        "code.function.name": "checkout",
    }
    spans = [
        (client(1, 0, "http://shop:8080/checkout", (0, 100), more=at_41), NGINX),
        (server(2, 1, "/checkout", (5, 95), link="socket"), SHOP),
        (client(3, 2, "http://stock:9000/stock/7", (10, 30), link="task", more=at_7), SHOP),
        (client(4, 2, "http://stock:9000/stock/8", (20, 60), link="task", more=at_41), SHOP),
        (client(5, 2, "http://stock:9000/stock/9", (60, 90), link="task", more=unknown), SHOP),
    ]
    return build_trace(TRACE_ID, spans)


SCREENS: dict[str, tuple[Callable[[], Trace], Look]] = {
    "issue": (checkout, Look(120)),
    "issue_100": (checkout, Look(100)),
    "issue_80": (checkout, Look(80)),
    "issue_60": (checkout, Look(60)),
    "issue_40": (checkout, Look(40)),
    "issue_20": (checkout, Look(20)),
    "issue_color": (checkout, Look(120, color=True)),
    "issue_ascii": (checkout, Look(100, glyphs=ASCII)),
    "failures": (failures, Look(100)),
    "deep": (deep, Look(100)),
    "long_names": (long_names, Look(100)),
    "parallel": (parallel, Look(100)),
    "missing_parents": (missing_parents, Look(100)),
    "unsynced": (unsynced, Look(100)),
    "wide_characters": (wide_characters, Look(80)),
    "unix_socket": (unix_socket, Look(100)),
    "lines_of_code": (lines_of_code, Look(100)),
    "lines_of_code_color": (lines_of_code, Look(80, color=True)),
}


@pytest.mark.parametrize("name", SCREENS)
def test_golden_screen(name: str) -> None:
    """The screen is, character for character, the one somebody looked at and found good."""
    trace, look = SCREENS[name]
    screen = draw(trace(), look)
    file = GOLDEN / f"console_{name}.txt"
    if os.environ.get("WAGGLE_WRITE_GOLDEN"):
        file.write_text(screen, encoding="utf-8")
    assert screen == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SCREENS)
@pytest.mark.parametrize("width", [1, 7, 23, 42, 59, 60, 61, 79, 99, 132, 250])
def test_no_line_is_wider_than_the_terminal(name: str, width: int) -> None:
    """At any width every line fits, and has no blanks at its end."""
    trace, _ = SCREENS[name]
    for line in draw(trace(), Look(width)).splitlines():
        assert cells(line) <= width
        assert line == line.rstrip()


@pytest.mark.parametrize("name", SCREENS)
def test_columns_are_aligned(name: str) -> None:
    """The bars of one trace stand below each other."""
    trace, _ = SCREENS[name]
    lines = [line for line in draw(trace(), Look(100)).splitlines() if "▏" in line and "▕" in line]
    assert lines
    assert len({cells(line[: line.index("▕")]) for line in lines}) == 1
    assert len({cells(line[: line.rindex("▏")]) for line in lines}) == 1


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (-5, "0 us"),
        (0, "0 us"),
        (850, "850 ns"),
        (850_000, "850 us"),
        (999_499, "999 us"),
        (999_999, "1 ms"),
        (9_995_000, "10 ms"),
        (12_000_000, "12 ms"),
        (12_345_678, "12.3 ms"),
        (184_000_000, "184 ms"),
        (1_200_000_000, "1.2 s"),
        (59_990_000_000, "1 min"),
        (210_000_000_000, "3.5 min"),
        (7_200_000_000_000, "2 h"),
    ],
)
def test_duration(nanoseconds: int, text: str) -> None:
    """Three significant digits at most, in the unit that suits, rounded into the next one."""
    assert duration(nanoseconds) == text


@given(st.integers(1, 10**15))
def test_duration_is_near_the_truth(nanoseconds: int) -> None:
    """What is said is off by half of the third digit at most, and never longer than a column."""
    number, unit = duration(nanoseconds).split()
    size = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}
    assert abs(float(number) * size[unit] / nanoseconds - 1) <= 0.0051
    assert len(number.replace(".", "").lstrip("0")) <= 3


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (server(1, 0, "/a", (0, 1), more={"url.query": "token=1"}), "GET /a"),
        (client(1, 0, "http://stock:9000/stock/7?q=1#x", (0, 1)), "GET stock:9000/stock/7"),
        (client(1, 0, "http://REDACTED:REDACTED@h/x", (0, 1)), "GET h/x"),
        (client(1, 0, "", (0, 1), more={"server.address": "h", "server.port": 81}), "GET h:81"),
        (client(1, 0, "http://x/y", (0, 1), more={"network.transport": "unix"}), "GET /y"),
        (
            server(
                1,
                0,
                "/",
                (0, 1),
                more={"http.request.method": "_OTHER", "http.request.method_original": "PURGE"},
            ),
            "PURGE /",
        ),
    ],
)
def test_label(span: Span, text: str) -> None:
    """A server's line has the path, a client's the host too, neither a query or credentials."""
    assert label(span) == text


HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\n\x9b31m\u202e\u2028\ud800\x00"


@pytest.mark.parametrize("color", [True, False])
def test_nothing_a_program_sends_acts_on_the_terminal(color: bool) -> None:
    """Escape sequences in a path, a host, a service, an error or a method are made visible."""
    resource = Resource({"service.name": HOSTILE, "process.pid": 1}, HOSTILE)
    hostile: dict[str, AttributeValue] = {
        "error.type": HOSTILE,
        "http.request.method_original": HOSTILE,
    }
    spans = [
        (server(1, 0, HOSTILE, (0, 2), link=HOSTILE, more=hostile), resource),
        (client(2, 1, f"http://{HOSTILE}/{HOSTILE}", (0, 1), link=HOSTILE, more=hostile), resource),
    ]
    screen = draw(build_trace(TRACE_ID, spans), Look(250, color=color))
    harmless = screen.replace("\n", "")
    for ours in ("0m", "1m", "2m", "31m", "32m", "34m", "36m", "31;7m"):
        harmless = harmless.replace(f"\x1b[{ours}", "") if color else harmless
    assert harmless.isprintable()
    assert screen.count("\n") == 2
    screen.encode()


@given(st.text())
def test_printable_is_printable_and_nothing_is_lost(text: str) -> None:
    """Each character stays one character, and none of them controls anything."""
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)


@given(st.text(st.characters(categories=["L", "N", "P", "S"])), st.integers(0, 30))
def test_shorten_fits(text: str, width: int) -> None:
    """A shortened text is as wide as asked at most, and a text that fits is left alone."""
    short = shorten(text, width)
    assert cells(short) <= width
    assert short == text if cells(text) <= width else short != text


class Screen:
    """A LiveView on a text stream, with a clock that is moved by hand."""

    def __init__(self, traces_per_second: int = 20) -> None:
        self.stream = io.StringIO()
        self.now = 0
        output = Output(self.stream, {})
        self.view = LiveView(output, traces_per_second=traces_per_second, now_ns=0)

    def offer(self, milliseconds: int, *, error: bool = False) -> None:
        more = {"error.type": "500"} if error else NOTHING_MORE
        path = f"/{'bad' if error else 'ok'}/{milliseconds}"
        span = server(1, 0, path, (0, milliseconds), 500 if error else 200, more=more)
        self.view.offer(build_trace(TRACE_ID, [(span, SHOP)]))

    def tick(self, seconds: float) -> list[str]:
        """The first words of the lines that are written up to `seconds`."""
        before = len(self.stream.getvalue())
        self.view.tick(round(seconds * SECOND))
        return [line.split("  ")[0] for line in self.stream.getvalue()[before:].splitlines()]


def test_a_burst_within_the_bound_is_drawn_whole() -> None:
    """Up to the bound every trace of a second is drawn, none is told as left out."""
    screen = Screen(traces_per_second=20)
    for number in range(20):
        screen.offer(number + 1)
    drawn = [line for step in range(1, 30) for line in screen.tick(step / 10)]
    assert sorted(drawn) == sorted(f"GET /ok/{number + 1}" for number in range(20))


def test_the_failed_and_the_slow_come_first() -> None:
    """When there are too many, errors are drawn, then the slowest; the rest is one line."""
    screen = Screen(traces_per_second=4)
    for number in range(1, 1_001):
        screen.offer(number, error=number in (7, 300))
    drawn = [line for step in range(1, 12) for line in screen.tick(step / 10)]
    assert drawn[:2] == ["GET /bad/7", "GET /bad/300"]
    assert sorted(drawn[2:-1]) == ["GET /ok/1000", "GET /ok/999"]
    assert drawn[-1] == "… and 996 traces more"
    assert (screen.view.drawn_spans, screen.view.left_out_spans) == (4, 996)


def test_errors_that_are_not_drawn_are_told() -> None:
    """The line about what is left out says how many of it failed."""
    screen = Screen(traces_per_second=2)
    for number in range(1, 6):
        screen.offer(number, error=True)
    screen.view.skip(Skipped(spans=4_000, traces=2_000, failed=10))
    drawn = [line for step in range(1, 12) for line in screen.tick(step / 10)]
    assert drawn[-1] == "… and 2,003 traces more (13 with errors)"


def test_trees_are_set_apart() -> None:
    """Empty lines stand between trees, and around them, never between single lines."""
    screen = Screen()
    screen.offer(1)
    screen.offer(2)
    screen.view.offer(checkout())
    screen.tick(0.1)
    blank = [not line for line in screen.stream.getvalue().splitlines()]
    assert blank == [False, False, True, False, False, False, False, False]


RESOURCES = ResourceTable([NGINX, SHOP, STOCK])


def make_batch(traces: int, *, seed: int = 0, at_ns: int = 0, status: int = 200) -> SpanBatch:
    """Traces of two spans each: a server's request (first in time) and its client's call."""
    random = np.random.default_rng(seed)
    records = np.zeros(2 * traces, dtype=layout.EXCHANGE)
    ids = random.integers(1, 256, (traces, 16), np.uint8)
    calls, requests = records[:traces], records[traces:]
    for rows in (calls, requests):
        rows["trace_id"] = ids
        rows["span_id"] = random.integers(1, 256, (traces, 8), np.uint8)
        rows["protocol"] = layout.Protocol.HTTP1
        rows["end"], rows["method"], rows["version"] = layout.End.DONE, layout.Method.GET, 11
        rows["family"], rows["status"] = 2, 200
        rows["target_len"] = 2
        rows["head"][:, :2] = np.frombuffer(b"/x", np.uint8)
    calls["parent_id"] = requests["span_id"]
    calls["role"], calls["link"] = layout.Role.CLIENT, layout.Link.THREAD
    requests["role"], requests["status"] = layout.Role.SERVER, status
    requests["start_ns"], requests["end_ns"] = at_ns + 1_000, at_ns + 9_000
    calls["start_ns"], calls["end_ns"] = at_ns + 2_000, at_ns + 8_000
    return SpanBatch(records, np.zeros(2 * traces, np.intp), RESOURCES, 0)


def ids_of(batches: list[SpanBatch]) -> list[bytes]:
    return [row.tobytes() for batch in batches for row in batch.records["trace_id"]]


def test_below_the_bound_everything_is_taken() -> None:
    """A rate that fits leaves nothing out and copies nothing."""
    selection = Selection(traces=20, spans=2_000, now_ns=0)
    skipped = Skipped()
    for second in range(5):
        batch = make_batch(15, seed=second)
        assert selection.choose([batch], skipped, second * SECOND) == [batch]
    assert skipped == Skipped()


def test_a_flood_is_reduced_to_whole_traces() -> None:
    """Of a flood about the bound is taken, each trace with all of its spans, the rest counted."""
    selection = Selection(traces=20, spans=2_000, now_ns=0)
    skipped = Skipped()
    taken = total = 0
    for step in range(100):
        batch = make_batch(100, seed=step)
        ids = ids_of(selection.choose([batch], skipped, step * SECOND // 10))
        assert all(ids.count(trace_id) == 2 for trace_id in set(ids))
        total += len(batch)
        taken += len(ids)
    assert skipped.spans == total - taken
    assert skipped.traces == (total - taken) // 2
    assert 10 * 2 * 10 < taken < 10 * 2 * 45


def test_spans_are_bounded_whatever_their_traces() -> None:
    """A few traces with very many spans do not get past the bound on spans."""
    selection = Selection(traces=20, spans=500, now_ns=0)
    batch = make_batch(2_000)
    batch.records["trace_id"] = 7
    taken = 0
    for step in range(20):
        taken += len(ids_of(selection.choose([batch], Skipped(), step * SECOND // 10)))
    assert taken <= 2 * 500


def test_failed_traces_are_preferred() -> None:
    """In a flood of good traces the few that fail are taken with their other spans."""
    selection = Selection(traces=20, spans=2_000, now_ns=0)
    wanted = []
    taken: set[bytes] = set()
    for step in range(60):
        good, bad = make_batch(100, seed=step), make_batch(1, seed=10_000 + step, status=500)
        chosen = ids_of(selection.choose([good, bad], Skipped(), step * SECOND // 5))
        if step >= 20:
            wanted += ids_of([bad])[:1]
            taken |= {trace_id for trace_id in chosen if chosen.count(trace_id) == 2}
    assert len(taken.intersection(wanted)) >= 0.9 * len(wanted)


def leaves_out(selection: Selection) -> bool:
    return not selection.everything


def test_a_trace_taken_in_part_is_known() -> None:
    """whole() is true exactly for traces that began when their hash was already let through."""
    selection = Selection(traces=20, spans=2_000, now_ns=0)
    for step in range(20):
        selection.choose([make_batch(200, seed=step)], Skipped(), step * SECOND // 10)
    assert leaves_out(selection)
    ids = {trace_id: hash_of(trace_id) for trace_id in ids_of([make_batch(2_000, seed=99)])}
    lowest, highest = min(ids, key=ids.__getitem__), max(ids, key=ids.__getitem__)
    assert selection.whole(lowest, start_ns=0)
    assert not selection.whole(highest, start_ns=19 * SECOND // 10)
    calm = 10 * SECOND
    selection.choose([make_batch(1)], Skipped(), calm)
    selection.choose([make_batch(1)], Skipped(), 2 * calm)
    assert not leaves_out(selection)
    assert selection.whole(highest, start_ns=2 * calm)
    assert not selection.whole(highest, start_ns=calm - 1)


def test_the_column_hash_is_the_row_hash() -> None:
    """Both ways to the hash of a trace id agree."""
    batch = make_batch(50)
    hashed = hashes_of(batch.records).tolist()
    assert hashed == [hash_of(trace_id) for trace_id in ids_of([batch])]


class Pipe:
    """A pipe whose writing end is a text stream."""

    def __init__(self) -> None:
        self.read_fd, write_fd = os.pipe()
        self.stream = os.fdopen(write_fd, "w", encoding="utf-8")
        self._reading = True

    def stop_reading(self) -> None:
        if self._reading:
            os.close(self.read_fd)
            self._reading = False

    def close(self) -> None:
        """Let whoever still writes come to its end before the descriptor is used again."""
        self.stop_reading()
        for thread in threading.enumerate():
            if thread.name == "waggle-console":
                thread.join(30)
        self.stream.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def test_what_is_exported_is_drawn() -> None:
    """A batch handed over is on the screen after close(), and every span is accounted for."""
    stream = io.StringIO()
    console = ConsoleExporter(stream, environment={})
    console.export(make_batch(3))
    console.flush(10)
    console.close(10)
    console.export(make_batch(1))
    lines = stream.getvalue().splitlines()
    assert sum(line.startswith("GET /x") for line in lines) == 3
    assert sum(line.startswith("└─ GET") for line in lines) == 3
    assert "\x1b" not in stream.getvalue()
    stats = console.stats()
    assert (stats.exported, stats.queued, stats.lost) == (6, 0, {"closed": 2})


def test_a_finished_trace_appears_without_another_batch(pipe: Pipe) -> None:
    """A trace is drawn while the program runs, not only when something else comes or ends."""
    console = ConsoleExporter(pipe.stream, environment={})
    console.export(make_batch(1))
    assert os.read(pipe.read_fd, 65536).startswith(b"GET /x")
    console.close(10)


def test_a_flood_is_accounted_for() -> None:
    """After a flood every span handed over was drawn or is lost for a reason."""
    console = ConsoleExporter(io.StringIO(), environment={})
    for step in range(50):
        console.export(make_batch(200, seed=step))
    console.flush(30)
    console.close(30)
    stats = console.stats()
    assert stats.queued == 0
    assert stats.exported > 0
    assert set(stats.lost) <= {"above_draw_rate", "screen_behind", "trace_too_large"}
    assert stats.exported + sum(stats.lost.values()) == 50 * 400


def test_a_reader_that_goes_away_is_a_quiet_end(
    pipe: Pipe, capfd: pytest.CaptureFixture[str]
) -> None:
    """A closed pipe raises nothing and prints nothing; `closed` tells, the spans are counted."""
    pipe.stop_reading()
    console = ConsoleExporter(pipe.stream, environment={})
    console.export(make_batch(2))
    console.close(10)
    assert console.closed
    assert console.failure is None
    assert console.stats().lost == {"output_closed": 4}
    assert capfd.readouterr() == ("", "")


def test_a_terminal_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    """Output that is set to non-blocking and full loses nothing and ends nothing."""
    os.set_blocking(pipe.stream.fileno(), False)
    output = Output(pipe.stream, {})
    text = "x" * 300_000
    writer = threading.Thread(target=output.write, args=(text,))
    writer.start()
    received = 0
    while received < len(text):
        received += len(os.read(pipe.read_fd, 65536))
    writer.join(10)
    assert not writer.is_alive()


def test_a_full_disk_is_told() -> None:
    """A write that fails ends the drawing, and `failure` has the error for the user."""
    with open("/dev/full", "w") as stream:  # noqa: PTH123
        console = ConsoleExporter(stream, environment={})
        console.export(make_batch(1))
        console.close(10)
    assert console.failure is not None
    assert console.failure.strerror == "No space left on device"
    assert console.stats().lost == {"output_failed": 2}


def test_a_stopped_terminal_holds_nobody_up(pipe: Pipe) -> None:
    """While the output takes nothing, export() still returns, memory is bounded, loss counted."""
    console = ConsoleExporter(pipe.stream, environment={}, traces_per_second=10_000)
    batch = make_batch(1_000)
    for _ in range(100):
        console.export(batch)
    console.close(0.0)
    stats = console.stats()
    assert stats.lost["screen_behind"] > 0
    assert stats.exported + stats.queued + sum(stats.lost.values()) == 100 * len(batch)


def on_a_terminal(environment: dict[str, str], columns: int) -> str:
    """What a terminal of this width is sent for the trace of the issue."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    received: list[bytes] = []

    def read() -> None:
        while b"502\r\n" not in b"".join(received).replace(b"\x1b[0m", b""):
            received.append(os.read(leader, 65536))

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(follower, "w", encoding="utf-8") as stream:
        view = LiveView(Output(stream, environment), traces_per_second=20, now_ns=0)
        view.offer(checkout())
        view.tick(0)
        reader.join(10)
    os.close(leader)
    return b"".join(received).decode()


@pytest.mark.parametrize(
    ("environment", "color"),
    [
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
def test_colors_only_where_they_are_wanted(environment: dict[str, str], color: bool) -> None:
    """A terminal gets colours unless NO_COLOR is set to something, or TERM is dumb or unset."""
    assert ("\x1b[" in on_a_terminal(environment, 100)) == color


@pytest.mark.parametrize("columns", [60, 90, 140])
def test_the_terminals_width_is_used(columns: int) -> None:
    """The screen is drawn as wide as the terminal is at that moment."""
    drawn = on_a_terminal({"NO_COLOR": "1", "TERM": "xterm"}, columns).replace("\r\n", "\n")
    assert drawn == draw(checkout(), Look(columns))


def test_an_encoding_without_boxes_gets_plain_signs() -> None:
    """Output in Latin-1 is drawn with ASCII, and what it cannot say is replaced."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1", errors="replace", write_through=True)
    view = LiveView(Output(stream, {}), traces_per_second=20, now_ns=0)
    view.offer(checkout())
    view.tick(0)
    assert raw.getvalue().decode("latin-1") == draw(checkout(), Look(100, glyphs=ASCII))
