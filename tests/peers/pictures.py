"""`PYTHONPATH=tests python -m peers.pictures`: what real backends held after a real run, drawn for
the docs (as root; Jaeger and Prometheus are built once).

Of Jaeger and Prometheus the modules that can be had have no web pages in them, and the Collector
has none: so these are drawings of what their APIs, or its file, said. Nothing in them is made up.
"""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from .agent import started_agent
from .collector import started_collector
from .harness import ensure_built, lease_port, run_client
from .jaeger import started_jaeger
from .processes import ROOT
from .prometheus import started_prometheus
from .test_end_to_end import Chain, arrived_at, started_chain

FOLDER = ROOT / "docs" / "pictures"
REQUESTS = 40
_PLACES = 5  # spans of a request: nginx twice, Flask twice, Go

_WIDTH, _LINE, _LEFT, _BAR_AT, _BAR = 900, 22, 16, 330, 400
_COLOURS = ("#3b7dd8", "#d9822b", "#2a9d8f", "#9b5de5", "#c1121f")


@dataclass(frozen=True)
class Row:
    """A line: a label, perhaps a bar over a share of the width, and what is said behind it."""

    label: str
    text: str = ""
    begin: float = 0.0
    share: float = 0.0
    colour: int = 0


@dataclass(frozen=True)
class Block:
    heading: str
    rows: Sequence[Row] = field(default_factory=list)


def svg(title: str, blocks: Iterable[Block]) -> str:
    """The blocks one below the other, on white, so that they can be read in dark pages too."""
    parts, at = [_words(_LEFT, 28, title, 'font-size="16" font-weight="bold"')], 56
    for block in blocks:
        parts.append(_words(_LEFT, at, block.heading, 'font-weight="bold" fill="#555"'))
        for row in block.rows:
            at += _LINE
            parts += _drawn(row, at)
        at += _LINE + 14
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {at - 10}"'
    head += ' font-family="ui-monospace, monospace" font-size="13">'
    back = f'<rect width="{_WIDTH}" height="{at - 10}" rx="6" fill="#fff" stroke="#ccc"/>'
    return "\n".join([head, back, *parts, "</svg>\n"])


def _drawn(row: Row, at: int) -> list[str]:
    parts = [_words(_LEFT + 12, at, row.label)]
    if row.share:
        left, width = _BAR_AT + row.begin * _BAR, max(2.0, row.share * _BAR)
        colour = _COLOURS[row.colour % len(_COLOURS)]
        parts.append(
            f'<rect x="{left:.1f}" y="{at - 11}" width="{width:.1f}" height="13" rx="2" '
            f'fill="{colour}"/>'
        )
    if row.text:
        parts.append(_words(_BAR_AT + _BAR + 12 if row.share else _BAR_AT, at, row.text))
    return parts


def _words(x: float, y: float, text: str, more: str = "") -> str:
    attributes = " ".join([f'x="{x:g}" y="{y:g}"', *([more] if more else [])])
    return f"<text {attributes}>{escape(text)}</text>"


@dataclass(frozen=True)
class Bar:
    """A span of a trace, whoever told of it; times in microseconds."""

    id: str
    parent: str
    service: str
    name: str
    start: float
    duration: float


def waterfall(spans: Sequence[Bar]) -> list[Row]:
    """A line a span, children below their parents."""
    begin = min(span.start for span in spans)
    whole = max(span.start + span.duration for span in spans) - begin
    services = sorted({span.service for span in spans})
    rows: list[Row] = []

    def add(parent: str, depth: int) -> None:
        for span in sorted((s for s in spans if s.parent == parent), key=lambda s: s.start):
            label = "  " * depth + f"{span.service}  {span.name}"
            share = span.duration / whole
            rows.append(
                Row(
                    label.replace("  ", "\u00a0\u00a0"),
                    f"{span.duration / 1000:.2f} ms",
                    (span.start - begin) / whole,
                    share,
                    services.index(span.service),
                )
            )
            add(span.id, depth + 1)

    add("", 0)
    assert len(rows) == len(spans), "one trace, whole"
    return rows


def _pids(chain: Chain) -> list[int]:
    return [chain.front.pid, chain.middle.pid, chain.back.pid]


def draw_collector(chain: Chain, folder: Path) -> str:
    """A trace as it lies in the Collector's file."""
    with started_collector(folder) as collector:
        flags = ("--otlp", collector.http_endpoint)
        with started_agent(*flags, pids=_pids(chain), json_lines=False) as agent:
            run_client("go", chain.front.base_url, REQUESTS, path=chain.path)
            agent.stop()
        collector.wait_for_spans(REQUESTS * _PLACES)
        arrived = arrived_at(collector)
    trace = arrived[0].span.trace_id
    bars = [
        Bar(
            one.span.span_id.hex(),
            one.span.parent_span_id.hex(),
            str(one.resource["service.name"]),
            one.span.name,
            one.span.start_time_unix_nano / 1000,
            (one.span.end_time_unix_nano - one.span.start_time_unix_nano) / 1000,
        )
        for one in arrived
        if one.span.trace_id == trace
    ]
    services = sorted({str(one.resource["service.name"]) for one in arrived})
    return svg(
        "OpenTelemetry Collector: what its file exporter wrote",
        [
            Block(f"trace {trace.hex()}", waterfall(bars)),
            Block(
                "in all",
                [
                    Row("spans", f"{len(arrived)} of {REQUESTS} requests"),
                    Row("resources by service.name", ", ".join(services)),
                ],
            ),
        ],
    )


def draw_jaeger(chain: Chain, folder: Path) -> str:
    """A trace and the dependencies by Jaeger's API."""
    with started_jaeger(folder) as jaeger:
        endpoint = f"http://127.0.0.1:{jaeger.http_port}"
        with started_agent("--otlp", endpoint, pids=_pids(chain), json_lines=False) as agent:
            run_client("go", chain.front.base_url, REQUESTS, path=chain.path)
            agent.stop()
        traces = jaeger.traces("nginx", REQUESTS)
        trace = jaeger.trace(traces[0]["traceID"])
        services = sorted(jaeger.services())
        links = jaeger.dependencies()
    names = {key: value["serviceName"] for key, value in trace["processes"].items()}
    bars = [
        Bar(
            span["spanID"],
            next((r["spanID"] for r in span["references"] if r["refType"] == "CHILD_OF"), ""),
            names[span["processID"]],
            span["operationName"],
            span["startTime"],
            span["duration"],
        )
        for span in trace["spans"]
    ]
    edges = [
        Row(f"{link['parent']} -> {link['child']}", f"{link['callCount']} calls")
        for link in links
        if link["parent"] != link["child"]
    ]
    return svg(
        "Jaeger 2.13: what its API answered",
        [
            Block(f"/api/traces/{trace['traceID']}", waterfall(bars)),
            Block("/api/services", [Row(", ".join(services))]),
            Block("/api/dependencies", edges),
        ],
    )


_P95 = "histogram_quantile(0.95, sum by (job, le) (http_server_request_duration_seconds_bucket))"
_CALLS = "sum by (client, server) (traces_service_graph_request_total)"


def draw_prometheus(chain: Chain, folder: Path) -> str:
    """Instant queries, and an exemplar, by Prometheus' API."""
    lease = lease_port()
    try:
        with (
            started_agent(f"--prometheus=127.0.0.1:{lease.port}", pids=_pids(chain)) as agent,
            started_prometheus(folder, lease.port) as prometheus,
        ):
            run_client("go", chain.front.base_url, REQUESTS, path=chain.path)
            prometheus.wait_for(
                'sum(traces_service_graph_request_total{server="stock"})',
                lambda value: value >= REQUESTS,
            )
            calls, p95 = prometheus.query(_CALLS), prometheus.query(_P95)
            exemplars = prometheus.exemplars("http_server_request_duration_seconds_bucket")
            agent.stop()
    finally:
        lease.release()
    most, slowest = max(value for _, value in calls), max(value for _, value in p95)
    edges = [
        Row(f"{labels['client']} -> {labels['server']}", f"{value:g}", 0, value / most)
        for labels, value in sorted(calls, key=lambda one: sorted(one[0].items()))
    ]
    slow = [
        Row(labels["job"], f"{value * 1000:.1f} ms", 0, value / slowest, 1)
        for labels, value in sorted(p95, key=lambda one: -one[1])
    ]
    told = [
        Row(f"{float(one['value']) * 1000:.2f} ms", f"trace_id {one['labels']['trace_id']}")
        for one in exemplars[:3]
    ]
    return svg(
        "Prometheus 3.13: what its API answered",
        [
            Block(_CALLS, edges),
            Block(_P95, slow),
            Block("/api/v1/query_exemplars, three of them", told),
        ],
    )


def main() -> None:
    ensure_built()
    with started_chain() as chain:
        for draw in (draw_collector, draw_jaeger, draw_prometheus):
            with tempfile.TemporaryDirectory() as folder:
                name = draw.__name__.removeprefix("draw_")
                (FOLDER / f"{name}.svg").write_text(draw(chain, Path(folder)))
                print(f"docs/pictures/{name}.svg")


if __name__ == "__main__":
    main()
