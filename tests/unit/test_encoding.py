"""The columnar encoder against the slow path: both must give the same spans."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.semconv.schemas import Schemas

from unit.otlp_messages import Spans, expected, received
from unit.records import NO_PARENT, batch, record, resource_table
from waggle.columns import copy_slices, equal_slices, gather_bytes
from waggle.exporter import rows, template_cache
from waggle.exporter.encoding import EncodedRequest, OtlpEncoder
from waggle.exporter.messages import SCHEMA_URL
from waggle.exporter.templates import BODY_LIMIT, Meaning, build_template, padded_varints
from waggle.layout import End, Flag, Kept, Link, Method, Role
from waggle.probes.http1 import decode
from waggle.spans import Decoded, Exchange, Records, SpanBatch


def decoded(requests: Sequence[EncodedRequest]) -> Spans:
    """What a receiver reads."""
    return received([trace_pb2.TracesData.FromString(request.payload) for request in requests])


def repeated(records: Records, times: int) -> Records:
    """Rows of one shape that differ in everything that may differ."""
    rows = np.concatenate([records] * times)
    rng = np.random.default_rng(7)
    for name, low in (("trace_id", 0), ("span_id", 0), ("parent_id", 1)):
        rows[name] = rng.integers(low, 256, rows[name].shape)
    rows["start_ns"] = rng.integers(1, 1 << 62, times)
    rows["end_ns"] = rows["start_ns"] + rng.integers(0, 1 << 40, times).astype(np.uint64)
    rows["request_body"] = rng.integers(0, BODY_LIMIT, times)
    rows["response_body"] = rng.integers(0, BODY_LIMIT, times)
    port = "peer_port" if rows["role"][0] == Role.SERVER else "local_port"
    rows[port] = rng.integers(0, 1 << 16, times)
    for name in ("tid", "tgid", "process_start_ns", "response_ns", "target_full_len"):
        rows[name] = rng.integers(0, 1 << 16, times)
    return rows


# Any batch at all. Values come from small pools as well as from everywhere, so that
# rows share shapes (and templates are used) and yet differ in every single column.
TARGETS = st.one_of(
    st.sampled_from(
        [
            b"/",
            b"/a",
            b"/?",
            b"/?q",
            b"/items/7",
            b"/items/8?page=2&sort=name",
            b"/items/9?page=2&sort=mane",
            b"/login?user=a&token=abc",
            b"/x?monkey=1&a?b=c",
            b"//twice?//",
            b"/\xc3\xa9",
            b"/\xff\xfe?\x80",
            b"*",
            b"",
            b"shop.test:443",
            b"http://u:p@other.test:81/way?sig=1",
            b"http://[::1]/",
            b"relative?x=1",
        ]
    ),
    st.binary(max_size=40).map(lambda tail: b"/" + tail),
    st.text("ab?/&=", max_size=8).map(lambda tail: b"/" + tail.encode()),
    st.binary(max_size=200),
)
KEPT = st.lists(
    st.tuples(
        st.sampled_from([tag for tag in Kept if tag != Kept.END]),
        st.one_of(
            st.sampled_from(
                [
                    b"shop.test",
                    b"shop.test:8080",
                    b"[2001:db8::1]:80",
                    b"u:p@x",
                    b"https",
                    b"for=192.0.2.1;proto=https",
                    b"192.0.2.9, 10.0.0.1",
                    b"QUERY",
                    b"a=1,b=2",
                    b"",
                ]
            ),
            st.binary(max_size=24),
        ),
    ),
    max_size=5,
)
ADDRESSES = st.sampled_from(["::ffff:0:0", "::", "10.1.2.3", "2001:db8::7", "127.0.0.1"])
U64 = st.one_of(st.sampled_from([0, 1, BODY_LIMIT - 1, BODY_LIMIT]), st.integers(0, 2**64 - 1))
U16 = st.one_of(st.sampled_from([0, 80, 8080]), st.integers(0, 2**16 - 1))
COLUMNS = st.fixed_dictionaries(
    {
        "status": st.one_of(st.sampled_from([0, 101, 200, 404, 500, 599, 600]), U16),
        "flags": st.one_of(
            st.sampled_from([0, Flag.REMOTE_PARENT, Flag.REQUEST_BODY | Flag.RESPONSE_BODY]),
            st.integers(0, 2 * max(Flag) - 1),
        ),
        "family": st.sampled_from([0, 1, 2, 10]),
        "role": st.sampled_from([*Role, 1, 2, 1, 2, 9]),
        "link": st.sampled_from([*Link, 77]),
        "end": st.sampled_from([*End, 1, 1, 1, 66]),
        "method": st.sampled_from([*Method, 1, 1, 1, 55]),
        "version": st.sampled_from([10, 11, 0, 20]),
        "protocol": st.sampled_from([1, 1, 1, 1, 1, 0, 9]),
        "trace_flags": st.sampled_from([0, 1, 255]),
        "local": ADDRESSES,
        "peer": ADDRESSES,
        "local_port": U16,
        "peer_port": U16,
        "parent_id": st.sampled_from([NO_PARENT, b"\x01" * 8, bytes(7) + b"\x09"]),
        "span_id": st.binary(min_size=8, max_size=8),
        "trace_id": st.binary(min_size=16, max_size=16),
        "start_ns": U64,
        "end_ns": U64,
        "request_body": U64,
        "response_body": U64,
        "response_ns": U64,
        "tid": st.integers(0, 2**32 - 1),
        "target_full_len": U16,
        "reserved": U16,
    }
)


@st.composite
def batches(draw: st.DrawFn) -> SpanBatch:
    large = draw(st.booleans())
    rows = []
    shapes = st.tuples(KEPT, COLUMNS, st.lists(TARGETS, max_size=4), st.sampled_from([1, 2, 6]))
    for kept, columns, targets, times in draw(st.lists(shapes, max_size=5)):
        for target in targets:
            one = record(target, kept, large=large, **columns)
            rows.append(one if times == 1 else repeated(one, times))
    if draw(st.booleans()):  # a shape that says nothing: everything collides
        for one in rows:
            one["shape"] = 1
    if rows and draw(st.integers(0, 3)) == 0:  # lengths that lie
        rows[0]["target_len"] = draw(U16)
        rows[0]["kept_len"] = draw(U16)
    joined = np.concatenate(rows) if rows else record()[:0]
    resources = draw(st.lists(st.integers(0, 2), min_size=len(joined), max_size=len(joined)))
    offset = draw(st.sampled_from([0, -5, 1_700_000_000_000_000_000, 2**63]))
    return batch([joined], resources, resource_table("a", "b", "c"), offset)


@settings(max_examples=150, deadline=None)
@given(batches())
def test_both_paths_give_the_same_spans(spans: SpanBatch) -> None:
    """Whatever is in a batch, bytes made by columns decode to what the slow path gives."""
    encoder = OtlpEncoder()
    want = expected(spans)
    for _ in range(template_cache.BUILD_AFTER + 1):  # new, then sighted, then from templates
        assert decoded(encoder.encode(spans)) == want


def test_rows_of_one_shape_come_from_a_template() -> None:
    """A shape seen often enough takes the fast path, and its spans are right."""
    for role in (Role.SERVER, Role.CLIENT):
        body = Flag.REQUEST_BODY | Flag.RESPONSE_BODY
        spans = batch([repeated(record(b"/items?page=1", role=role, flags=body), 50)])
        encoder = OtlpEncoder()
        assert decoded(encoder.encode(spans)) == expected(spans)
        assert (encoder.stats().hits, encoder.stats().built) == (50, 1)


def test_targets_are_columns() -> None:
    """Targets of one length with their '?' in one place share a template."""
    rows = [record(b"/items/%03d?page=%d" % (i, i % 10)) for i in range(100)]
    spans = batch(rows)
    encoder = OtlpEncoder()
    assert decoded(encoder.encode(spans)) == expected(spans)
    assert (encoder.stats().hits, encoder.stats().templates) == (100, 1)


def test_whether_there_is_a_parent_is_part_of_the_shape() -> None:
    """Roots and children, alike in all else, do not share a template."""
    spans = batch([record(), record(parent_id=NO_PARENT)] * 10)
    encoder = OtlpEncoder()
    assert decoded(encoder.encode(spans)) == expected(spans)
    assert (encoder.stats().hits, encoder.stats().templates) == (20, 2)


def test_the_place_of_the_query_is_part_of_the_shape() -> None:
    """Targets of one length whose '?' is elsewhere do not share a template."""
    targets = (b"/a?bcd", b"/ab?cd", b"/abcd?", b"/abcde", b"/??abc")
    spans = batch([record(target) for target in targets * 5])
    encoder = OtlpEncoder()
    assert decoded(encoder.encode(spans)) == expected(spans)
    assert (encoder.stats().hits, encoder.stats().templates) == (25, 5)


@pytest.mark.parametrize(
    "one",
    [
        record("/caf\u00e9".encode()),
        record(b"/login?access_token=s3cret"),
        record(b"*", method=Method.OPTIONS),
        record(b"http://shop.test/"),
        record(request_body=BODY_LIMIT),
        record(target_len=600),
    ],
)
def test_what_columns_cannot_do_is_counted_as_irregular(one: Records) -> None:
    """Rows that need care are encoded slowly, and counted with the reason."""
    spans = batch([one] * 10)
    encoder = OtlpEncoder()
    assert decoded(encoder.encode(spans)) == expected(spans)
    assert encoder.stats().slow == {"irregular": 10}


def test_a_new_shape_gets_no_template_at_first_sight() -> None:
    """One row of an unknown shape is not worth a template; when enough were seen, it is."""
    spans = batch([record()])
    encoder = OtlpEncoder()
    for _ in range(template_cache.BUILD_AFTER - 1):
        encoder.encode(spans)
    assert (encoder.stats().built, encoder.stats().hits) == (0, 0)
    encoder.encode(spans)
    assert (encoder.stats().built, encoder.stats().hits) == (1, 1)


def test_a_collision_of_keys_never_exports_a_wrong_span(monkeypatch: pytest.MonkeyPatch) -> None:
    """When every key is the same, rows are told apart by their bytes, within and across batches."""
    monkeypatch.setattr(rows, "_mix", lambda words: np.zeros(len(words), np.uint64))
    mixed = batch([record(status=200)] * 8 + [record(status=503)] * 8)
    other = batch([record(status=404)] * 8)
    encoder = OtlpEncoder()
    assert decoded(encoder.encode(mixed)) == expected(mixed)
    assert decoded(encoder.encode(other)) == expected(other)
    assert encoder.stats().slow["key_collision"] == 8
    assert encoder.stats().slow["no_template"] == 8


def test_a_collision_of_shapes_never_exports_a_wrong_span() -> None:
    """Rows whose kernel-side hash is equal but whose kept fields differ keep their own."""
    rows = [record(kept={Kept.HOST: b"shop-%d.test" % (i % 2)}, shape=9) for i in range(20)]
    spans = batch(rows)
    encoder = OtlpEncoder()
    assert decoded(encoder.encode(spans)) == expected(spans)
    assert encoder.stats().slow == {"key_collision": 10}


def test_the_cache_of_templates_is_bounded() -> None:
    """No more templates than allowed; old ones go only when they are out of use."""
    encoder = OtlpEncoder(max_templates=2)
    first = batch([record(status=200 + i // 4) for i in range(12)])
    encoder.encode(first)
    assert (encoder.stats().templates, encoder.stats().evicted) == (2, 0)
    later = batch([record(status=404)] * 4)
    for _ in range(template_cache.STALE_AFTER):
        assert decoded(encoder.encode(later)) == expected(later)
    assert (encoder.stats().templates, encoder.stats().evicted) == (2, 1)


def test_a_use_of_a_value_that_columns_cannot_follow_gives_no_template(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A decoder that derives something from a column makes rows slow, not wrong."""

    def leaky(exchange: Exchange) -> Decoded:
        return Decoded(f"took {exchange.facts.tid}", 2, {"n": exchange.facts.request_body // 3})

    monkeypatch.setattr(decode.DECODER, "decode", leaky)
    assert build_template(record(), Meaning(query=1)) is None
    spans = batch([repeated(record(), 20)])
    encoder = OtlpEncoder()
    assert decoded(encoder.encode(spans)) == expected(spans)
    assert encoder.stats().slow == {"no_template": 20}


def test_requests_stay_within_their_bounds() -> None:
    """No request is larger than allowed, in bytes and in spans, and no span is lost."""
    rows = [record(b"/%d" % i, status=200 + i % 3) for i in range(500)]
    spans = batch(rows, [i % 3 for i in range(500)])
    for limits in ({"max_bytes": 10_000}, {"max_spans": 7}, {"max_bytes": 1}):
        requests = OtlpEncoder(**limits).encode(spans)
        assert decoded(requests) == expected(spans)
        assert sum(request.spans for request in requests) == 500
        for request in requests:
            small = len(request.payload) <= limits.get("max_bytes", 10**9)
            assert small or request.spans == 1
            assert request.spans <= limits.get("max_spans", 500)


def test_an_empty_batch_gives_no_request() -> None:
    """Nothing in, nothing out."""
    assert OtlpEncoder().encode(batch([])) == []


def test_another_table_means_other_resources() -> None:
    """Resources are remembered for one table only."""
    encoder = OtlpEncoder()
    for name in ("old", "new"):
        spans = batch([record()], table=resource_table(name))
        assert decoded(encoder.encode(spans)) == expected(spans)


def test_records_need_not_be_contiguous() -> None:
    """A slice with a step is encoded like its copy."""
    rows = np.concatenate([record(b"/%02d" % i) for i in range(40)])[::2]
    spans = batch([rows])
    strided = SpanBatch(rows, spans.resources, spans.table, spans.clock_offset_ns)
    assert decoded(OtlpEncoder().encode(strided)) == expected(spans)


def test_undecodable_text_in_a_resource_is_replaced() -> None:
    """A surrogate (from a command line that is not UTF-8) breaks nothing."""
    spans = batch([record()], table=resource_table("caf\udce9"))
    (request,) = OtlpEncoder().encode(spans)
    found = trace_pb2.TracesData.FromString(request.payload).resource_spans[0].resource
    assert found.attributes[0].value.string_value == "caf?"


def test_the_schema_is_the_published_one() -> None:
    """The schema URL names the newest version the conventions package knows."""
    assert list(Schemas)[-1].value == SCHEMA_URL


@given(st.lists(st.integers(0, BODY_LIMIT - 1), min_size=1, max_size=20))
def test_padded_varints_are_varints(numbers: list[int]) -> None:
    """Protobuf reads a padded varint as the number it was made of."""
    column = padded_varints(np.array(numbers, np.uint64), 5)
    for number, word in zip(numbers, column.tolist(), strict=True):
        encoded = b"\x30" + word.to_bytes(8, "little")[:5]  # Span.kind is field 6
        unknown = trace_pb2.Span.FromString(encoded)
        assert unknown.kind == ((number + 2**31) % 2**32) - 2**31  # an enum has 32 bits


@given(st.lists(st.binary(max_size=150), max_size=30), st.randoms(use_true_random=False))
def test_copy_slices_copies_slices_and_nothing_else(slices: list[bytes], rng: object) -> None:
    """Every slice arrives whole, and no byte beside it changes."""
    lengths = np.array([len(piece) for piece in slices], np.intp)
    starts = np.cumsum(lengths) - lengths
    source = np.frombuffer(b"".join(slices), np.uint8)
    places = starts + np.arange(len(slices))  # a byte between each two
    target = np.full(int(lengths.sum()) + len(slices), 0xEE, np.uint8)
    copy_slices(source, starts, target, places, lengths)
    assert target.tobytes() == b"".join(piece + b"\xee" for piece in slices)
    assert gather_bytes(target, places, lengths).tobytes() == source.tobytes()


@given(st.lists(st.tuples(st.binary(max_size=150), st.integers(-1, 149)), max_size=20))
def test_equal_slices_sees_every_difference(cases: list[tuple[bytes, int]]) -> None:
    """Two slices are equal exactly when no byte of them differs."""
    pairs = [
        (one, one if at < 0 or at >= len(one) else one[:at] + b"\x00" + one[at + 1 :])
        for one, at in cases
    ]
    buffer = np.frombuffer(b"".join(one + other for one, other in pairs), np.uint8)
    lengths = np.array([len(one) for one, _ in pairs], np.intp)
    these = 2 * (np.cumsum(lengths) - lengths)
    equal = equal_slices(buffer, these, these + lengths, lengths)
    assert equal.tolist() == [one == other for one, other in pairs]
