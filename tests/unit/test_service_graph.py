"""Edges between services, from the two ends of each call."""

import itertools

import numpy as np
import pytest

from unit.records import NO_PARENT, batch, record, resource_table
from waggle.layout import Role
from waggle.metrics.graph import HOLD_S, MOST_HELD, ServiceGraph
from waggle.metrics.histograms import Floats
from waggle.metrics.points import HistogramFamily, NumberFamily
from waggle.metrics.series import Limits, Numbers
from waggle.spans import Records, Resource, SpanBatch

Edge = tuple[str, str, str]
SHOP, STOCK, PAY = 0, 1, 2


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Graph:
    """A graph whose servers are called by number, on a clock of the test's."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.clock = Clock()
        self.table = resource_table("shop", "stock", "pay")
        agent = Resource({"service.name": "waggle"})
        self.graph = ServiceGraph(self.table, limits or Limits(), agent, now=self.clock)

    def add(self, rows: list[Records], resources: list[int], failed: tuple[int, ...] = ()) -> None:
        made = batch(rows, resources, self.table)
        seconds: Floats = np.full(len(made), 0.25)
        failures = np.isin(np.arange(len(made)), failed)
        self.graph.add(
            made.records, made.resources, seconds, failures, lambda rows: self.peers(made, rows)
        )

    def peers(self, made: SpanBatch, rows: Numbers) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
        ports = made.records["peer_port"][rows].tolist()
        return np.array([self.graph.name_number(f"db:{port}") for port in ports], np.int32)

    def numbers(self, name: str) -> dict[Edge, float]:
        self.graph.settle()
        found: dict[Edge, float] = {}
        for family in self.graph.collect():
            if family.instrument.name != f"traces_service_graph_request_{name}":
                continue
            if isinstance(family, NumberFamily):
                rows = [(point.attributes, float(point.value)) for point in family.points]
            else:
                assert isinstance(family, HistogramFamily)
                counts = [float(count) for count in family.points.counts]
                attributes = [series.attributes for series in family.series]
                rows = list(zip(attributes, counts, strict=True))
            for pairs, value in rows:
                told = dict(pairs)
                edge = str(told["client"]), str(told["server"]), str(told["connection_type"])
                found[edge] = value
        return {edge: value for edge, value in found.items() if value}


def client(span: int, port: int = 5432) -> Records:
    return record(role=Role.CLIENT, span_id=span.to_bytes(8, "big"), peer_port=port)


def server(parent: int) -> Records:
    made = record(role=Role.SERVER, parent_id=parent.to_bytes(8, "big"))
    made["span_id"][0, 0] = 99
    return made


@pytest.mark.parametrize("order", list(itertools.permutations(range(2))))
@pytest.mark.parametrize("apart", [False, True])
def test_two_ends_are_one_edge_in_any_order(order: tuple[int, ...], apart: bool) -> None:
    """Client's end and server's end, in one batch or in two, whichever comes first."""
    graph = Graph()
    ends = [(client(7), SHOP), (server(7), STOCK)]
    parts = [[ends[i]] for i in order] if apart else [[ends[i] for i in order]]
    for part in parts:
        graph.add([row for row, _ in part], [resource for _, resource in part])
    edge = {("shop", "stock", ""): 1.0}
    assert graph.numbers("total") == edge
    assert graph.numbers("server_seconds") == edge
    assert graph.numbers("client_seconds") == edge
    assert graph.numbers("failed_total") == {}


def test_a_call_fails_where_either_end_says_so() -> None:
    """Three calls, of which the client sees one fail and the server another."""
    graph = Graph()
    rows = [client(1), server(1), client(2), server(2), client(3), server(3)]
    graph.add(rows, [SHOP, STOCK] * 3, failed=(0, 3))
    assert graph.numbers("total") == {("shop", "stock", ""): 3.0}
    assert graph.numbers("failed_total") == {("shop", "stock", ""): 2.0}


def test_what_comes_from_outside_comes_from_user() -> None:
    """A server's request without a parent is an edge at once, of a virtual node."""
    graph = Graph()
    graph.add([record(parent_id=NO_PARENT)], [SHOP])
    assert graph.numbers("total") == {("user", "shop", "virtual_node"): 1.0}
    assert graph.numbers("client_seconds") == {}


def test_what_goes_outside_goes_to_its_address_after_a_while() -> None:
    """A call whose other end is not seen waits, then is an edge to what was called."""
    graph = Graph()
    graph.add([client(1)], [SHOP])
    graph.clock.now += HOLD_S / 2
    assert graph.numbers("total") == {}
    graph.clock.now += HOLD_S
    edge = {("shop", "db:5432", "virtual_node"): 1.0}
    assert graph.numbers("total") == edge
    assert graph.numbers("client_seconds") == edge
    assert graph.numbers("server_seconds") == {}


def test_a_request_whose_client_is_elsewhere_is_no_edge() -> None:
    """Who sees the client's end has that edge; here it is counted as unpaired."""
    graph = Graph()
    graph.add([server(1)], [SHOP])
    graph.clock.now += 2 * HOLD_S
    assert graph.numbers("total") == {}
    assert graph.graph.stats.unpaired == 1


def test_what_waits_is_bounded() -> None:
    """Of more calls than may wait the oldest become edges at once; none is lost."""
    graph = Graph()
    count = MOST_HELD + 100
    rows = np.repeat(client(1), count)
    rows["span_id"] = np.arange(1, count + 1).astype("<u8").view(np.uint8).reshape(-1, 8)
    graph.add([rows], [SHOP] * count)
    assert graph.numbers("total") == {("shop", "db:5432", "virtual_node"): 100.0}
    graph.clock.now += 2 * HOLD_S
    assert graph.numbers("total") == {("shop", "db:5432", "virtual_node"): float(count)}


def test_edges_are_bounded() -> None:
    """What has no room is counted under otel.metric.overflow."""
    graph = Graph(Limits(per_resource=3))
    graph.add([client(n, port=n) for n in range(1, 10)], [SHOP] * 9)
    graph.clock.now += 2 * HOLD_S
    graph.graph.settle()
    totals = graph.graph.collect()[0]
    assert isinstance(totals, NumberFamily)
    by_edge = {point.attributes: point.value for point in totals.points}
    assert len(by_edge) == 3
    assert by_edge[(("otel.metric.overflow", True),)] == 7
