"""Header blocks against the hpack library: any conversation, read in any order, is the same."""

from pathlib import Path

import pytest
from hpack import Decoder
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.http2_wire import Wire
from waggle.layout import Side
from waggle.probes.http2.blocks import BlockError, decode, representations
from waggle.probes.http2.tables import MAX_ENTRIES, EntryLog, Tables

GOLDEN = Path(__file__).parent / "golden" / "http2"

NAMES = st.sampled_from(
    [b":path", b":authority", b"user-agent", b"te", b"x-a", b"grpc-timeout", b"content-type"]
)
VALUES = st.binary(min_size=0, max_size=40)
FIELDS = st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=8)


@st.composite
def conversations(draw: st.DrawFn) -> list[tuple[list[tuple[bytes, bytes]], bool, int | None]]:
    """Header lists with: Huffman or not, and a new size of the table or None."""
    sizes = st.none() | st.sampled_from([0, 64, 200, 4096, 65536])
    return draw(st.lists(st.tuples(FIELDS, st.booleans(), sizes), min_size=1, max_size=12))


@settings(max_examples=200, deadline=None)
@given(conversations(), st.randoms())
def test_blocks_read_late_and_in_any_order_are_what_was_sent(conversation, random) -> None:  # type: ignore[no-untyped-def]
    """Every block decodes to its own fields once all events are in, whatever order it is read in
    and whatever was evicted from the real table meanwhile."""
    wire, tables = Wire(), Tables()
    blocks = []
    for fields, huffman, size in conversation:
        if size is not None:
            wire.encoders[Side.CLIENT].header_table_size = size
        blocks.append((wire.block(Side.CLIENT, fields, huffman=huffman), fields))
    tables.add(wire.take_events())
    random.shuffle(blocks)
    for block, fields in blocks:
        decoded = decode(block.data, block.inserted, tables.log(wire.connection, 0, 0).entry)
        assert decoded.damage is None
        assert (decoded.fields, decoded.unknown) == (fields, [])


@settings(max_examples=200, deadline=None)
@given(conversations(), st.integers(0, 11))
def test_what_was_lost_is_unknown_and_never_something_else(conversation, lost) -> None:  # type: ignore[no-untyped-def]
    """Without one of the events, every field that is told is a field that was sent there."""
    wire, tables = Wire(), Tables()
    blocks = [(wire.block(Side.CLIENT, f, huffman=h), f) for f, h, _ in conversation]
    events = wire.take_events()
    tables.add(events[[i for i in range(len(events)) if i != lost]])
    for block, fields in blocks:
        decoded = decode(block.data, block.inserted, tables.log(wire.connection, 0, 0).entry)
        assert len(decoded.fields) + len(decoded.unknown) == len(fields)
        left = iter(fields)  # what is told is a subsequence of what was sent
        assert all(field in left for field in decoded.fields)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(block: bytes) -> None:
    """Bytes that are no HPACK end in `damage`, never in another exception; what hpack decodes
    without a table, we do."""
    decoded = decode(block, 0, lambda n: None)
    try:
        theirs = Decoder().decode(block, raw=True)
    except Exception:
        return
    if not decoded.unknown and decoded.damage is None:
        assert decoded.fields == [(bytes(n), bytes(v)) for n, v in theirs]


def test_the_rfc_examples() -> None:
    """RFC 7541, C.4: three requests with Huffman coding on one connection."""
    blocks = [
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ]
    wire, tables = Wire(), Tables()
    sent = [wire.sent(Side.CLIENT, bytes.fromhex(block)) for block in blocks]
    tables.add(wire.take_events())
    last = sent[2]
    decoded = decode(last.data, last.inserted, tables.log(7, 0, 0).entry)
    assert decoded.fields == [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/index.html"),
        (b":authority", b"www.example.com"),
        (b"custom-key", b"custom-value"),
    ]


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # index 0
        b"\xff\xff\xff\xff\xff\xff\x0f",  # an index of too many bytes
        b"\x40\x7f\xff\xff\xff\xff\xff\x7f",  # a length of too many bytes
        b"\x00\x05ab",  # a string longer than the block
        b"\x3f\xff\xff\xff\xff\xff\xff",  # a table of too many bytes
    ],
)
def test_hostile_numbers_are_refused(block: bytes) -> None:
    """No number makes us look beyond the block or build a large one."""
    with pytest.raises(BlockError):
        list(representations(block))


def test_a_block_of_endless_fields_is_bounded() -> None:
    """A block of one-byte fields that name the same entry (a decompression bomb) is cut."""
    decoded = decode(b"\x82" * 60_000, 0, lambda n: None)
    assert decoded.damage is not None
    assert len(decoded.fields) <= 512


def test_the_log_is_bounded_and_keeps_numbers() -> None:
    """After more insertions than there is room for, the latest are known and the first are not."""
    log = EntryLog()
    for number in range(3 * MAX_ENTRIES):
        log.insert(b"\x40\x01a\x05%05d" % (number % 100_000), number)
    latest = 3 * MAX_ENTRIES - 1
    entry = log.entry(latest)
    assert entry is not None and entry.field() == (b"a", b"%05d" % latest)
    assert log.entry(0) is None
    assert len(log._entries) <= MAX_ENTRIES


def test_a_hostile_connection_does_not_take_all_memory() -> None:
    """Large values fill their own log's bound, and what is held stays below the bound of all."""
    log = EntryLog()
    block = b"\x40\x01a\x7f\x81\x1f" + b"x" * 4096  # 127 + 1 + 31 * 128
    for number in range(2000):
        log.insert(block, number)
    assert log.size <= (1 << 20) + 5000
    tables = Tables(max_bytes=100_000)
    for connection in range(300):
        wire = Wire(connection=connection)
        wire.block(Side.CLIENT, [(b"x-a", b"v" * 1000)])
        tables.add(wire.take_events())
    assert tables.stats.forgotten_connections > 100
    assert len(tables) < 120


def test_blocks_in_pieces_are_joined_or_lost() -> None:
    """A block that comes in several events is whole with all of them and unknown without one."""
    fields = [(b"x-long", bytes(range(65, 91)) * 60), (b"x-b", b"after")]
    for lost in (None, 0, 1):
        wire, tables = Wire(), Tables()
        wire.block(Side.CLIENT, fields, huffman=False)
        again = wire.block(Side.CLIENT, fields, huffman=False)
        events = wire.take_events()
        assert len(events) > 2
        tables.add(events[[i for i in range(len(events)) if i != lost]])
        decoded = decode(again.data, again.inserted, tables.log(7, Side.CLIENT, 0).entry)
        assert decoded.fields == (fields if lost is None else [])
        assert tables.stats.lost_events == (0 if lost is None else 1)


@pytest.mark.parametrize("recording", sorted(GOLDEN.glob("*.txt")), ids=lambda path: path.stem)
def test_recorded_blocks_decode_as_hpack_has_it(recording: Path) -> None:
    """Blocks that real programs sent, in their order, give what the library makes of them."""
    decoders = {side: Decoder() for side in Side}
    wire, tables, blocks = Wire(), Tables(), []
    for decoder in decoders.values():
        decoder.max_allowed_table_size = 1 << 16
    for line in recording.read_text().splitlines():
        if line.startswith("#"):
            continue
        side = Side[line.split()[0].upper()]
        data = bytes.fromhex(line.split()[-1])
        theirs = [(bytes(n), bytes(v)) for n, v in decoders[side].decode(data, raw=True)]
        blocks.append((side, wire.sent(side, data), theirs))
    assert len(blocks) >= 4
    tables.add(wire.take_events())
    for side, block, theirs in blocks:
        decoded = decode(block.data, block.inserted, tables.log(7, side, 0).entry)
        assert (decoded.damage, decoded.unknown, decoded.fields) == (None, [], theirs)
