"""Who calls whom: a client's span and the server's that is its child are one edge.

Both ends are seen where both processes are traced on this machine; the two records come within
moments of each other, in any order, and are joined by the client's span id. What stays alone for
HOLD_S has its other end elsewhere:

- a client's: an edge to the address it called, which is a node of its own (virtual_node)
- a server's without a parent: an edge from `user`, as service graphs call whoever is not traced
- a server's with a parent elsewhere: no edge; who sees the client's end has one

Names are those that Grafana's service map reads (Tempo's metrics generator makes them):
traces_service_graph_request_total and so on, with the labels client, server, connection_type.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from waggle.layout import Role
from waggle.metrics.histograms import ExplicitHistograms, Floats
from waggle.metrics.instruments import (
    DURATION_BOUNDS,
    GRAPH_CLIENT,
    GRAPH_FAILED,
    GRAPH_SERVER,
    GRAPH_TOTAL,
    OVERFLOW,
)
from waggle.metrics.points import Collected, HistogramFamily, NumberFamily, NumberPoint
from waggle.metrics.series import NO_SERIES, Limits, Numbers, SeriesTable
from waggle.spans import Records, Resource, ResourceTable

HOLD_S = 5.0
MOST_HELD = 16_384  # ends that wait for their other end, on each side; beyond, the oldest go
USER = "user"
_VIRTUAL = "virtual_node"
Names = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Ends:
    """One end each of some calls, as columns, in order of age.

    ids: of the client's span. services: number of the name of whose end it is. peers: of a
    client's, what it called. since: when the end came here.
    """

    ids: npt.NDArray[np.uint64]
    services: Names
    peers: Names
    seconds: Floats
    failed: npt.NDArray[np.bool_]
    since: Floats

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: "Numbers | npt.NDArray[np.bool_] | slice") -> "Ends":
        return Ends(
            self.ids[rows],
            self.services[rows],
            self.peers[rows],
            self.seconds[rows],
            self.failed[rows],
            self.since[rows],
        )

    def followed_by(self, other: "Ends") -> "Ends":
        if not len(self) or not len(other):
            return self if len(self) else other
        return Ends(
            np.concatenate((self.ids, other.ids)),
            np.concatenate((self.services, other.services)),
            np.concatenate((self.peers, other.peers)),
            np.concatenate((self.seconds, other.seconds)),
            np.concatenate((self.failed, other.failed)),
            np.concatenate((self.since, other.since)),
        )


_NO_NAMES: Names = np.empty(0, np.int32)
_NO_NUMBERS: Floats = np.empty(0)
NO_ENDS = Ends(
    np.empty(0, np.uint64), _NO_NAMES, _NO_NAMES, _NO_NUMBERS, np.empty(0, np.bool_), _NO_NUMBERS
)


@dataclass(slots=True)
class GraphStats:
    """unpaired: servers' ends whose client is not seen here. crowded: ends that were given up
    before their time."""

    unpaired: int = 0
    crowded: int = 0


class ServiceGraph:
    """Edges between services. Not for use by two threads at once."""

    def __init__(
        self,
        resources: ResourceTable,
        limits: Limits,
        agent: Resource,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """agent: whose metrics the edges are."""
        self.stats = GraphStats()
        self._agent = agent
        self._since_ns = time.time_ns()
        self._resources = resources
        self._now = now
        # All edges are of one resource, the agent's.
        self._table = SeriesTable(replace(limits, in_all=limits.per_resource))
        self._totals = np.zeros(0, np.uint64)
        self._failures = np.zeros(0, np.uint64)
        self._server_s = ExplicitHistograms(DURATION_BOUNDS)
        self._client_s = ExplicitHistograms(DURATION_BOUNDS)
        self._names: list[str] = [USER]
        self._name_numbers = {USER: 0}
        self._services = np.zeros(0, np.int32)  # by resource: number of its name
        self._edges: dict[tuple[int, int, bool], int] = {}
        self._clients: Ends = NO_ENDS
        self._servers: Ends = NO_ENDS

    def add(
        self,
        records: Records,
        resources: Numbers,
        seconds: Floats,
        failed: npt.NDArray[np.bool_],
        peer: Callable[[Numbers], Names],
    ) -> None:
        """Take in a batch.

        resources: indices into the table. peer: numbers, by name_number(), of what rows called.
        """
        services = self._services_of(resources)
        is_server = records["role"] == Role.SERVER
        parents = _ids(records, "parent_id")
        roots = is_server & (parents == 0)
        if roots.any():
            users = np.zeros(int(np.count_nonzero(roots)), np.int32)
            self._count(users, services[roots], failed[roots], None, seconds[roots])
        now = self._now()

        def ends(rows: Numbers, ids: npt.NDArray[np.uint64], peers: Names) -> Ends:
            since = np.full(len(rows), now)
            return Ends(ids, services[rows], peers, seconds[rows], failed[rows], since)

        clients, servers = (~is_server).nonzero()[0], (is_server & ~roots).nonzero()[0]
        callers = called = NO_ENDS
        if len(clients):
            callers = ends(clients, _ids(records, "span_id")[clients], peer(clients))
        if len(servers):
            called = ends(servers, parents[servers], np.zeros(len(servers), np.int32))
        self._join(callers, called)
        self._expire()

    def name_number(self, name: str) -> int:
        """A number for a name; bounded: what is beyond shares one, of no name."""
        found = self._name_numbers.get(name)
        if found is None:
            if len(self._names) >= 4 * MOST_HELD:
                return self.name_number("") if name else 0
            found = self._name_numbers[name] = len(self._names)
            self._names.append(name)
        return found

    def settle(self) -> None:
        """Have edges of what waited long enough, also when nothing comes any more."""
        self._expire()

    def collect(self) -> Collected:
        """The four metrics of all edges."""
        count = len(self._table)
        if not count:
            return []
        rows = list(self._table.rows)
        self._reserve()
        totals, failures = self._totals[:count].tolist(), self._failures[:count].tolist()
        found: Collected = []
        for instrument, values in ((GRAPH_TOTAL, totals), (GRAPH_FAILED, failures)):
            numbers = [
                NumberPoint(self._agent, row.attributes, value, row.since_ns)
                for row, value in zip(rows, values, strict=True)
            ]
            found.append(NumberFamily(instrument, numbers))
        for instrument, histograms in (
            (GRAPH_SERVER, self._server_s),
            (GRAPH_CLIENT, self._client_s),
        ):
            points = histograms.points(count)
            used = points.counts.nonzero()[0]
            if len(used):
                series = [rows[number] for number in used.tolist()]
                agent = [self._agent] * len(series)
                found.append(HistogramFamily(instrument, agent, series, points.take(used)))
        return found

    def _services_of(self, resources: Numbers) -> npt.NDArray[np.int32]:
        known = len(self._services)
        if len(self._resources.rows) > known:
            names = [
                str(resource.attributes.get("service.name", ""))
                for resource in self._resources.rows[known:]
            ]
            new = np.array([self.name_number(name) for name in names], np.int32)
            self._services = np.concatenate((self._services, new))
        found: npt.NDArray[np.int32] = self._services[resources]
        return found

    def _join(self, clients: Ends, servers: Ends) -> None:
        """Make edges of ends that belong together; the others wait."""
        clients, servers = (
            self._clients.followed_by(clients),
            self._servers.followed_by(servers),
        )
        if len(clients) and len(servers):
            order = clients.ids.argsort()
            ordered = clients.ids[order]
            places = np.minimum(np.searchsorted(ordered, servers.ids), len(order) - 1)
            paired = ordered[places] == servers.ids
            if paired.any():
                which = order[places[paired]]
                callers, called = clients.take(which), servers.take(paired)
                failed = callers.failed | called.failed
                self._count(
                    callers.services, called.services, failed, callers.seconds, called.seconds
                )
                alone = np.ones(len(clients), np.bool_)
                alone[which] = False
                clients, servers = clients.take(alone), servers.take(~paired)
        self._clients, self._servers = clients, servers

    def _expire(self) -> None:
        """Let go of ends that waited long enough, or are too many; they are in order of age."""
        before = self._now() - HOLD_S
        gone, self._clients = self._split(self._clients, before)
        if len(gone):
            self._count(gone.services, gone.peers, gone.failed, gone.seconds, None)
        gone, self._servers = self._split(self._servers, before)
        self.stats.unpaired += len(gone)

    def _split(self, ends: Ends, before: float) -> tuple[Ends, Ends]:
        old = int(np.searchsorted(ends.since, before, side="right"))
        crowded = max(len(ends) - old - MOST_HELD, 0)
        self.stats.crowded += crowded
        if not old + crowded:
            return NO_ENDS, ends
        return ends.take(slice(None, old + crowded)), ends.take(slice(old + crowded, None))

    def _count(
        self,
        clients: Names,
        servers: Names,
        failed: npt.NDArray[np.bool_],
        client_s: Floats | None,
        server_s: Floats | None,
    ) -> None:
        """Add to the edges between these, with the durations of the ends that were seen."""
        virtual = client_s is None or server_s is None
        pairs = (clients.astype(np.int64) << 32) | servers
        distinct, which = np.unique(pairs, return_inverse=True)
        numbers = np.array([self._edge(pair, virtual) for pair in distinct.tolist()], np.intp)
        numbers = numbers[which]
        there = numbers != NO_SERIES
        self._reserve()
        np.add.at(self._totals, numbers[there], np.uint64(1))
        np.add.at(self._failures, numbers[there & failed], np.uint64(1))
        for seconds, histograms in ((client_s, self._client_s), (server_s, self._server_s)):
            if seconds is not None:
                histograms.record(numbers[there], seconds[there])

    def _edge(self, pair: int, virtual: bool) -> int:
        client, server = pair >> 32, pair & 0xFFFF_FFFF
        found = self._edges.get((client, server, virtual))
        if found is None:
            attributes = (
                ("client", self._names[client]),
                ("server", self._names[server]),
                ("connection_type", _VIRTUAL if virtual else ""),
            )
            found = self._table.number(0, 0, attributes, self._since_ns)
            if self._table.rows[found].attributes != OVERFLOW:
                self._edges[(client, server, virtual)] = found
        return found

    def _reserve(self) -> None:
        more = len(self._table) - len(self._totals)
        if more > 0:
            self._totals = np.concatenate((self._totals, np.zeros(more, np.uint64)))
            self._failures = np.concatenate((self._failures, np.zeros(more, np.uint64)))


def _ids(records: Records, name: str) -> npt.NDArray[np.uint64]:
    """A column of span ids as numbers."""
    return np.ascontiguousarray(records[name]).view(np.uint64).reshape(-1)
