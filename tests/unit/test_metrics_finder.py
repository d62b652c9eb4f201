"""Which series an exchange belongs to: the columnar way against decoding each span."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unit.records import batch, record, resource_table
from waggle.layout import End, Kept, Method, Protocol, Role
from waggle.metrics import finder
from waggle.metrics.finder import SeriesFinder, attributes_of, facts_of, kind_of
from waggle.metrics.instruments import OVERFLOW
from waggle.metrics.series import Limits, Numbers, SeriesTable
from waggle.probes.http2.kept import Stream, StreamKept
from waggle.spans import KIND_SERVER, Records, SpanBatch, decode_batch, decode_span

texts = st.sampled_from([b"a", b"shop.test", b"shop.test:8080", b"x" * 40])
kept = st.lists(
    st.one_of(
        st.tuples(st.just(Kept.HOST), texts),
        st.tuples(st.just(Kept.USER_AGENT), texts),
        st.tuples(st.just(Kept.TRACESTATE), texts),
        st.tuples(st.just(Kept.X_FORWARDED_FOR), st.sampled_from([b"10.0.0.1", b"10.0.0.2"])),
        st.tuples(st.just(Kept.X_FORWARDED_PROTO), st.sampled_from([b"http", b"https"])),
        st.tuples(
            st.just(Kept.FORWARDED),
            st.sampled_from([b"for=10.0.0.1", b"for=10.0.0.9;proto=https", b"proto=http", b"?"]),
        ),
    ),
    max_size=5,
)
targets = st.sampled_from(
    [b"/", b"/items/1", b"/items/2?q=1", b"http://a.test/x", b"https://b.test:8443/y?z", b"*"]
)


@st.composite
def exchanges(draw: st.DrawFn) -> Records:
    role = draw(st.sampled_from([Role.SERVER, Role.CLIENT]))
    method = draw(st.sampled_from([Method.GET, Method.POST, Method.OTHER, Method.CONNECT]))
    fields = draw(kept)
    if method == Method.OTHER:
        fields = [(Kept.METHOD, draw(st.sampled_from([b"BREW", b"QUERY"]))), *fields]
    target = b"a.test:443" if method == Method.CONNECT else draw(targets)
    return record(
        target,
        fields,
        role=role,
        method=method,
        status=draw(st.sampled_from([0, 200, 404, 500])),
        end=draw(st.sampled_from([End.DONE, End.RESET])),
        version=draw(st.sampled_from([10, 11])),
        peer=draw(st.sampled_from(["10.0.0.2", "10.0.0.3", "fd00::1"])),
        peer_port=draw(st.sampled_from([80, 8080])),
    )


def series_of(found: SeriesFinder, made: SpanBatch) -> Numbers:
    return found.of(made, facts_of(made.records))


def wanted(made: SpanBatch) -> list[tuple[object, ...]]:
    """What each row's series is, by its span."""
    found: list[tuple[object, ...]] = []
    for span in decode_batch(made):
        kind = kind_of(span.attributes, is_server=span.kind == KIND_SERVER)
        assert kind is not None
        found.append((kind, span.resource, attributes_of(kind, span.attributes)))
    return found


def told(table: SeriesTable, numbers: Sequence[int]) -> list[tuple[object, ...]]:
    rows = [table.rows[number] for number in numbers]
    return [(row.group, row.resource, row.attributes) for row in rows]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(exchanges(), min_size=1, max_size=30), st.data())
def test_each_exchange_is_counted_as_its_span_says(
    rows: list[Records], data: st.DataObject
) -> None:
    """Kind, resource and attributes of each row's series are those of its own span, the first
    time and when all is known already."""
    resources = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    made = batch(rows, resources)
    table = SeriesTable()
    found = SeriesFinder(table, 0)
    for _ in range(3):
        assert told(table, series_of(found, made).tolist()) == wanted(made)


def test_calls_of_grpc_are_told_by_method_and_status() -> None:
    """Two calls that differ in message counts only are one series; another status is another."""

    def call(status: bytes, messages: int) -> Records:
        fields = [
            (StreamKept.RPC_SYSTEM, b"grpc"),
            (StreamKept.RPC_METHOD, b"shop.Shop/Buy"),
            (StreamKept.RPC_STATUS, status),
            (StreamKept.STREAM, Stream(requests=messages, responses=1).packed()),
        ]
        return record(b"", fields, protocol=Protocol.HTTP2, version=20)  # type: ignore[arg-type]

    made = batch([call(b"0", 1), call(b"0", 2), call(b"13", 1)])
    table = SeriesTable()
    numbers = series_of(SeriesFinder(table, 0), made).tolist()
    assert numbers[0] == numbers[1] != numbers[2]
    assert dict(table.rows[numbers[2]].attributes) == {
        "rpc.system.name": "grpc",
        "rpc.method": "shop.Shop/Buy",
        "rpc.response.status_code": "INTERNAL",
        "error.type": "INTERNAL",
    }


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The rows that were looked at alone."""
    rows: list[int] = []
    real = decode_span

    def decode(made: SpanBatch, row: int) -> object:
        rows.append(row)
        return real(made, row)

    monkeypatch.setattr(finder, "decode_span", decode)
    yield rows


def test_what_no_metric_shows_makes_no_work(decoded: list[int]) -> None:
    """A thousand clients with as many user agents, addresses and trace states: one look."""
    rows = [
        record(
            b"/items/%d" % number,
            [
                (Kept.HOST, b"shop-%d.test" % number),
                (Kept.USER_AGENT, b"agent/%d" % number),
                (Kept.X_FORWARDED_FOR, b"10.1.%d.%d" % divmod(number, 250)),
                (Kept.FORWARDED, b"for=10.1.%d.%d" % divmod(number, 250)),
                (Kept.TRACESTATE, b"v=%d" % number),
            ],
            peer_port=1024 + number,
        )
        for number in range(1000)
    ]
    table = SeriesTable()
    numbers = series_of(SeriesFinder(table, 0), batch(rows))
    assert set(numbers.tolist()) == {0}
    assert len(decoded) == 1


def test_too_many_new_ones_at_once_overflow(decoded: list[int]) -> None:
    """Of a batch of 2,000 methods that somebody made up 512 are looked at, the others counted
    under otel.metric.overflow; none is lost."""
    rows = [
        record(kept=[(Kept.METHOD, b"M%d" % number)], method=Method.OTHER) for number in range(2000)
    ]
    table = SeriesTable()
    found = SeriesFinder(table, 0)
    numbers = series_of(found, batch(rows))
    assert len(decoded) == finder.MOST_DECODED
    assert found.undecided == 2000 - finder.MOST_DECODED
    assert (numbers >= 0).all()
    assert {table.rows[number].attributes == OVERFLOW for number in set(numbers.tolist())} == {
        True,
        False,
    }


def test_a_resource_that_is_full_has_one_more_series_marked_so() -> None:
    """With a limit of 10 a resource gets 9 series and the overflow; another one has its own."""
    table = SeriesTable(Limits(per_resource=10))
    rows = [record(status=200 + number) for number in range(50)]
    made = batch(rows * 2, [0] * 50 + [1] * 50, resource_table("a", "b"))
    numbers = series_of(SeriesFinder(table, 0), made)
    for resource, some in enumerate(np.split(numbers, 2)):
        these = {table.rows[number].attributes for number in set(some.tolist())}
        assert len(these) == 10
        assert OVERFLOW in these
        assert {table.rows[number].resource for number in some.tolist()} == {resource}
    assert table.overflowed > 0


def test_all_resources_together_are_bounded() -> None:
    """Beyond the bound for all, a resource has its overflow series only; without room for even
    that, an exchange has none, which is said."""
    table = SeriesTable(Limits(in_all=3))
    numbers = [table.number(0, resource, (("a", 1),), 0) for resource in range(5000)]
    assert [table.rows[number].attributes == OVERFLOW for number in numbers[:5]] == [
        *(False,) * 3,
        *(True,) * 2,
    ]
    assert len(table) == 3 + 4096
    assert numbers[-1] == -1
