"""Synthetic streams and table events as the kernel would give them, from real HPACK encoders."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from hpack import Encoder

from unit.records import record
from waggle import layout
from waggle.layout import Block, BlockFlag, Side, TableEventKind
from waggle.probes.http2.blocks import representations
from waggle.spans import Records

Fields = Sequence[tuple[bytes, bytes]]

_STREAM_SIZE = layout.HTTP2.itemsize
_SIDES = {
    Block.REQUEST: Side.CLIENT,
    Block.RESPONSE: Side.SERVER,
    Block.TRAILERS: Side.SERVER,
    Block.REQUEST_TRAILERS: Side.CLIENT,
}


@dataclass
class SentBlock:
    """A block with what the kernel counts."""

    data: bytes
    inserted: int
    insertions: int
    epoch: int = 0


@dataclass
class Wire:
    """One connection: an encoder a side, and the events that came of it."""

    connection: int = 7
    encoders: dict[Side, Encoder] = field(
        default_factory=lambda: {side: Encoder() for side in Side}
    )
    inserted: dict[Side, int] = field(default_factory=lambda: dict.fromkeys(Side, 0))
    sequences: dict[Side, int] = field(default_factory=lambda: dict.fromkeys(Side, 0))
    events: list[Records] = field(default_factory=list)

    def block(self, side: Side, fields: Fields, *, huffman: bool = True) -> SentBlock:
        """Encode one header block, and tell it if it changes the table."""
        return self.sent(side, self.encoders[side].encode(list(fields), huffman=huffman))

    def sent(self, side: Side, data: bytes) -> SentBlock:
        """Count a block that somebody encoded, and tell it if it changes the table."""
        insertions = sum(one.inserts for one in representations(data))
        made = SentBlock(data, self.inserted[side], insertions)
        if insertions or (data[:1] and data[0] & 0xE0 == 0x20):
            self._tell(side, made)
        self.inserted[side] += insertions
        return made

    def take_events(self) -> Records:
        """The events since the last call, as one batch."""
        taken, self.events = self.events, []
        return np.concatenate(taken) if taken else np.zeros(0, layout.TABLE_EVENT)

    def _tell(self, side: Side, block: SentBlock) -> None:
        room = layout.TABLE_EVENT["bytes"].shape[0]
        for offset in range(0, len(block.data), room):
            piece = block.data[offset : offset + room]
            event = np.zeros(1, layout.TABLE_EVENT)
            event["connection"], event["side"] = self.connection, side
            event["sequence"] = self.sequences[side]
            event["inserted"], event["insertions"] = block.inserted, block.insertions
            event["offset"], event["length"] = offset, len(piece)
            event["block_full"], event["kind"] = len(block.data), TableEventKind.BLOCK
            event["bytes"][0, : len(piece)] = np.frombuffer(piece, np.uint8)
            self.events.append(event)
            self.sequences[side] += 1


def stream(
    wire: Wire,
    blocks: dict[Block, SentBlock],
    *,
    number: int = 1,
    large: bool = False,
    columns: dict[str, object] | None = None,
    route: bytes = b"",
    told: bytes = b"",
    **facts: object,
) -> Records:
    """The record of one stream. columns: of layout.HTTP2; facts: of layout.EXCHANGE. told: what
    follows all else."""
    facts = {"protocol": layout.Protocol.HTTP2, "version": 20, "method": 0, "shape": 0, **facts}
    made = record(b"", (), large=large, **facts)
    head = np.zeros(1, layout.HTTP2)
    head["connection"], head["stream"] = wire.connection, number
    at, data = _STREAM_SIZE, b""
    for block, sent in blocks.items():
        head["block_inserted"][0, block] = sent.inserted
        head["block_offset"][0, block] = at + len(data)
        head["block_length"][0, block] = head["block_full"][0, block] = len(sent.data)
        head["block_epoch"][0, block] = sent.epoch
        changes = BlockFlag.CHANGES if sent.insertions else 0
        head["block_flags"][0, block] = BlockFlag.PRESENT | changes
        data += sent.data
    if route:
        head["route_offset"], head["route_length"] = at + len(data), len(route)
        data += route
    if told:
        data += told
        head["told_length"], made["http2_len"] = len(told), at + len(data)
    for name, value in (columns or {}).items():
        head[name][0] = value
    raw = head.tobytes() + data
    if len(raw) > made["head"].shape[1]:
        raise ValueError(f"{len(raw)} bytes of blocks do not fit")
    made["head"][0, : len(raw)] = np.frombuffer(raw, np.uint8)
    return made
