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
from waggle.columns import SHORT, Slices, copy_short, copy_slices, equal_slices, gather_bytes
from waggle.exporter import rows as rows_module
from waggle.exporter import template_cache
from waggle.exporter.encoding import EncodedRequest, OtlpEncoder
from waggle.exporter.messages import SCHEMA_URL
from waggle.exporter.rows import LARGE_GROUP
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
# Fields that differ from row to row, in good and in odd forms.
VARYING = st.lists(
    st.one_of(
        st.tuples(
            st.just(Kept.X_FORWARDED_FOR),
            st.one_of(
                st.sampled_from(
                    [
                        b"192.0.2.1",
                        b"192.0.2.2",
                        b"192.0.2.3, 10.0.0.1",
                        b"192.0.2.4,fe80::1",
                        b"192.0.2.5:4711",
                        b"2001:db8::17",
                        b"2001:db8::18, 192.0.2.1:80",
                        b"[2001:db8::19]:80",
                        b"2001:0db8:0000:0000:0000:0000:0000:0011",
                        b"2001:0db8:0000:0000:0000:0000:0000:0012, ::1",
                        b"unknown",
                        b"_hidden, 192.0.2.1",
                        b'"192.0.2.6"',
                        b" 192.0.2.7 ",
                        b",192.0.2.8",
                        b"[[::1]:1]",
                        b"caf\xc3\xa9",
                        b"fade:1/2",
                    ]
                ),
                st.text("0123456789abcf.:,[]/@ ", max_size=50).map(str.encode),
                st.binary(max_size=12),
            ),
        ),
        st.tuples(
            st.just(Kept.FORWARDED),
            st.one_of(
                st.sampled_from(
                    [
                        b"for=192.0.2.1;proto=https",
                        b"for=192.0.2.2;proto=http;by=10.0.0.1",
                        b'for="[2001:db8::17]:4711"',
                        b"proto=https;For=192.0.2.3, for=10.0.0.1",
                        b"proto=gopher;for=192.0.2.4",
                        b"for=unknown;proto=https",
                        b'for="a\\"b"',
                        b'for="a@b:1"',
                        b"proto=HTTPS",
                    ]
                ),
                st.text('for=proths;", 12', max_size=30).map(str.encode),
            ),
        ),
        st.tuples(
            st.just(Kept.TRACESTATE),
            st.one_of(st.sampled_from([b"dd=p:0123", b"dd=p:4567"]), st.binary(max_size=8)),
        ),
    ),
    max_size=3,
)
ADDRESSES = st.one_of(
    st.sampled_from(["::ffff:0:0", "::", "10.1.2.3", "2001:db8::7", "127.0.0.1", "::1.2.3.4"]),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
)
U64 = st.one_of(st.sampled_from([0, 1, BODY_LIMIT - 1, BODY_LIMIT]), st.integers(0, 2**64 - 1))
U16 = st.one_of(st.sampled_from([0, 80, 8080]), st.integers(0, 2**16 - 1))
SAMPLING = st.one_of(
    st.sampled_from([0, 0, 0, 0x03 << 56, 0x03 << 56 | 0xE666 << 40, 0x05 << 56 | 1 << 55, 1]),
    st.integers(0, 2**64 - 1),
)
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
        "protocol": st.sampled_from([1, 1, 1, 1, 1, 0, 3, 9]),
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
        "http2_len": U16,
        "sampling": SAMPLING,
    }
)


@st.composite
def batches(draw: st.DrawFn) -> SpanBatch:
    large = draw(st.booleans())
    rows = []
    shapes = st.tuples(KEPT, COLUMNS, st.lists(TARGETS, max_size=4), st.sampled_from([1, 2, 6]))
    for kept, columns, targets, times in draw(st.lists(shapes, max_size=5)):
        for target in targets:
            own = draw(st.permutations([*kept, *draw(VARYING)])) if draw(st.booleans()) else kept
            if draw(st.booleans()):
                columns = {**columns, "peer": draw(ADDRESSES)}
            one = record(target, own, large=large, **columns)
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
@given(batches(), st.sampled_from([1, 3, LARGE_GROUP]))
def test_both_paths_give_the_same_spans(spans: SpanBatch, large_group: int) -> None:
    """Whatever is in a batch, bytes made by columns decode to what the slow path gives."""
    encoder = OtlpEncoder(min_rows=1, large_group=large_group)
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
    spans = batch([one] * 20)
    encoder = OtlpEncoder()
    assert decoded(encoder.encode(spans)) == expected(spans)
    assert encoder.stats().slow == {"irregular": 20}


def test_a_new_shape_gets_no_template_at_first_sight() -> None:
    """One row of an unknown shape is not worth a template; when enough were seen, it is."""
    spans = batch([record()])
    encoder = OtlpEncoder(min_rows=1)
    for _ in range(template_cache.BUILD_AFTER - 1):
        encoder.encode(spans)
    assert (encoder.stats().built, encoder.stats().hits) == (0, 0)
    encoder.encode(spans)
    assert (encoder.stats().built, encoder.stats().hits) == (1, 1)


def test_a_collision_of_keys_never_exports_a_wrong_span(monkeypatch: pytest.MonkeyPatch) -> None:
    """When every key is the same, rows are told apart by their bytes, within and across batches."""
    monkeypatch.setattr(rows_module, "_mix", lambda words: np.zeros(len(words), np.uint64))
    mixed = batch([record(status=200)] * 8 + [record(status=503)] * 8)
    other = batch([record(status=404)] * 8)
    encoder = OtlpEncoder(min_rows=1)
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


def clients(number: int) -> list[tuple[str, bytes]]:
    """As many different addresses: of peers, and as the client a proxy names."""
    return [
        (f"10.{i % 200}.{i // 200}.{7 * i % 256}", b"198.%d.%d.7" % (i // 100, i % 100))
        for i in range(number)
    ]


@pytest.mark.parametrize("role", [Role.SERVER, Role.CLIENT])
def test_clients_are_columns(role: Role) -> None:
    """A different peer and a different X-Forwarded-For in every row share few templates."""
    rows = []
    for peer, client in clients(400):
        peer = peer if role == Role.SERVER else "10.0.0.9"
        kept = [(Kept.HOST, b"a"), (Kept.X_FORWARDED_FOR, client), (Kept.USER_AGENT, b"x" * 99)]
        rows.append(record(b"/", kept, role=role, peer=peer))
    spans = batch(rows)
    encoder = OtlpEncoder()
    for _ in range(template_cache.BUILD_AFTER):
        assert decoded(encoder.encode(spans)) == expected(spans)
    before = encoder.stats().hits
    encoder.encode(spans)
    assert encoder.stats().hits - before == 400
    assert encoder.stats().templates < 30


@pytest.mark.parametrize(
    ("tag", "form"),
    [
        (Kept.X_FORWARDED_FOR, b"192.0.2.%03d, 10.0.0.1"),
        (Kept.X_FORWARDED_FOR, b"192.0.2.%03d:80"),
        (Kept.X_FORWARDED_FOR, b"2001:db8::%03d"),
        (Kept.FORWARDED, b"for=192.0.2.%03d;proto=https"),
        (Kept.FORWARDED, b'by=x;for="[2001:db8::%03d]:80"'),
        (Kept.TRACESTATE, b"dd=p:%03d"),
    ],
)
def test_what_varies_in_kept_fields_is_a_column(tag: Kept, form: bytes) -> None:
    """Rows that differ only in such a field share one template, whatever its form."""
    spans = batch([record(kept=[(Kept.HOST, b"a"), (tag, form % i)]) for i in range(100)])
    encoder = OtlpEncoder()
    assert decoded(encoder.encode(spans)) == expected(spans)
    assert (encoder.stats().hits, encoder.stats().templates) == (100, 1)


def test_the_scheme_a_proxy_names_is_part_of_the_shape() -> None:
    """Forwarded fields of one client text but different schemes do not share a template."""
    said = (b"for=192.0.2.%d;proto=http", b"for=192.0.2.%d;proto=https", b"for=192.0.2.%d")
    spans = batch([record(kept={Kept.FORWARDED: said[i % 3] % (i % 10)}) for i in range(60)])
    encoder = OtlpEncoder()
    assert decoded(encoder.encode(spans)) == expected(spans)
    assert (encoder.stats().hits, encoder.stats().templates) == (60, 3)


def test_other_kept_fields_are_told_apart_beside_one_that_varies() -> None:
    """With every key and hash the same, two user agents keep their own."""
    rows = [
        record(kept=[(Kept.X_FORWARDED_FOR, b"192.0.2.%d" % (i % 10)), (Kept.USER_AGENT, agent)])
        for i, agent in enumerate([b"a", b"b"] * 20)
    ]
    spans = batch(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "_mix", lambda words: np.zeros(len(words), np.uint64))
        encoder = OtlpEncoder()
        assert decoded(encoder.encode(spans)) == expected(spans)
    assert encoder.stats().slow == {"key_collision": 20}


def test_small_batches_are_encoded_slowly() -> None:
    """Few rows go where few rows are quicker, and are counted with the reason."""
    spans = batch([record()] * 3, [0, 1, 0])
    encoder = OtlpEncoder(min_rows=4)
    assert decoded(encoder.encode(spans)) == expected(spans)
    assert encoder.stats().slow == {"small_batch": 3}


def test_the_cache_of_templates_is_bounded() -> None:
    """No more templates than allowed; old ones go only when they are out of use."""
    encoder = OtlpEncoder(max_templates=2, min_rows=1)
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


@given(st.lists(st.binary(max_size=SHORT + 1), max_size=30), st.booleans())
def test_copy_short_copies_slices_and_nothing_else(pieces: list[bytes], roomy: bool) -> None:
    """Short slices arrive whole and alone; where a window would not fit, nothing happens."""
    lengths = np.array([len(piece) for piece in pieces], np.intp)
    source = np.frombuffer(b"".join(pieces) + bytes(SHORT if roomy else 0), np.uint8)
    places = np.arange(len(pieces)) * SHORT
    target = np.full(SHORT * len(pieces), 0xEE, np.uint8)
    done = copy_short(Slices(source, np.cumsum(lengths) - lengths, lengths), target, places)
    want = b"".join(piece.ljust(SHORT, b"\xee") for piece in pieces)
    assert target.tobytes() == (want if done else b"\xee" * len(target))
    assert done or not roomy or max(lengths) > SHORT


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
