"""Kernel tests of HTTP/2: two actors, between them a conversation that `h2` speaks on both ends,
and the records of its streams, whose header blocks `hpack` decodes with the tables that the kernel
told of."""

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import hpack
import hpack.table
import numpy as np
from h2.config import H2Configuration
from h2.connection import H2Connection

from kernel.capturing import TRACED, Actor, Connection, Recording, open_connection
from waggle import layout
from waggle.capture import Capture
from waggle.layout import (
    Block,
    BlockFlag,
    End,
    Http2Flag,
    Link,
    Protocol,
    Role,
    Side,
    TableEventKind,
)

Headers = list[tuple[str, str]]


class Tables:
    """Every HPACK table at every time, as the events tell: the reference for user space."""

    def __init__(self) -> None:
        self.events: list[np.void] = []
        self._decoders: dict[tuple[int, int, int], hpack.Decoder] = {}
        self._states: dict[tuple[int, int, int, int], hpack.table.HeaderTable] = {}
        self._pieces: dict[tuple[int, int], bytes] = {}

    def add(self, event: np.void) -> None:
        self.events.append(event)
        if event["kind"] != TableEventKind.BLOCK:
            return
        key = int(event["connection"]), int(event["side"])
        so_far = self._pieces.pop(key, b"")
        assert event["offset"] == len(so_far)
        so_far += event["bytes"][: event["length"]].tobytes()
        if len(so_far) < event["block_full"]:
            self._pieces[key] = so_far
            return
        self._insert((*key, int(event["epoch"])), so_far, event)

    def _insert(self, key: tuple[int, int, int], block: bytes, event: np.void) -> None:
        decoder = self._decoders.setdefault(key, hpack.Decoder(1 << 20))
        decoder.max_allowed_table_size = 1 << 20
        before, after = int(event["inserted"]), int(event["inserted"] + event["insertions"])
        self._states.setdefault((*key, before), copy.deepcopy(decoder.header_table))
        try:
            decoder.decode(block, raw=True)
        except hpack.InvalidTableIndexError:
            # Entries that are older than what was seen: only where that was said.
            assert event["epoch"] or event["flags"] & Http2Flag.RESYNCED
            return
        self._states[(*key, after)] = copy.deepcopy(decoder.header_table)

    def decode(self, key: tuple[int, int, int], inserted: int, block: bytes) -> Headers:
        decoder = hpack.Decoder(1 << 20)
        decoder.max_allowed_table_size = 1 << 20
        state = self._states.get((*key, inserted))
        if state is None:
            assert not inserted, f"no insertion {inserted} of {key}"
        else:
            decoder.header_table = copy.deepcopy(state)
        return [(str(name), str(value)) for name, value in decoder.decode(block)]


@dataclass
class Stream:
    """One record of HTTP/2."""

    row: np.void
    http2: np.void
    blocks: dict[Block, Headers]
    raw: dict[Block, bytes]
    large: bool

    @property
    def stream(self) -> int:
        return int(self.http2["stream"])

    @property
    def end(self) -> End:
        return End(int(self.row["end"]))

    @property
    def role(self) -> Role:
        return Role(int(self.row["role"]))

    @property
    def link(self) -> Link:
        return Link(int(self.row["link"]))

    def ids(self, name: str) -> str:
        return str(self.row[name].tobytes().hex())

    def __str__(self) -> str:
        return (
            f"{self.role.name} stream {self.stream} {self.row['status']} {self.end.name} "
            f"{self.link.name} error {self.http2['error']} in {self.row['request_body']} out "
            f"{self.row['response_body']} {self.blocks}"
        )


class StreamRecording(Recording):
    """A recording of streams, of HTTP/2 and nothing else."""

    def __init__(self, capture: Capture, mode: int = TRACED) -> None:
        self.rows: list[tuple[np.void, bool]] = []
        self.tables = Tables()
        super().__init__(capture, mode)
        self.rows.clear()
        self.tables = Tables()

    def _drain(self) -> None:
        for ring, large in (
            (self.capture.exchanges, False),
            (self.capture.large_exchanges, True),
        ):
            while len(records := ring.read()):
                self.rows += [(row, large) for row in records]
        while len(events := self.capture.tables.read()):
            for event in events:
                self.tables.add(event)
        while len(self.capture.events.read()):
            pass

    def streams(self, count: int, patience_s: float = 5.0) -> list[Stream]:
        """All streams, once there are so many records or after so long."""
        self.wait_rows(count, patience_s)
        return [self._stream(row, large) for row, large in self.rows]

    def wait_rows(self, count: int, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        self._drain()
        while len(self.rows) < count and time.monotonic() < deadline:
            time.sleep(0.002)
            self._drain()

    def _stream(self, row: np.void, large: bool) -> Stream:
        assert row["protocol"] == Protocol.HTTP2
        head = row["head"].tobytes()
        http2 = np.frombuffer(head[: layout.HTTP2.itemsize], layout.HTTP2)[0]
        assert not http2["told_length"]
        in_use = sum(int(row[name]) for name in ("target_len", "kept_len", "http2_len"))
        blocks, raw = {}, {}
        for block in Block:
            if not http2["block_flags"][block] & BlockFlag.PRESENT:
                continue
            at, length = int(http2["block_offset"][block]), int(http2["block_length"][block])
            raw[block] = head[at : at + length]
            assert at + length <= in_use
            if http2["block_flags"][block] & BlockFlag.CUT:
                continue
            blocks[block] = self._decode(block, http2, raw[block])
        assert not any(head[in_use:]), "what nobody uses is zero"
        return Stream(row, http2, blocks, raw, large)

    def _decode(self, block: Block, http2: np.void, raw: bytes) -> Headers:
        side = Side.SERVER if block in (Block.RESPONSE, Block.TRAILERS) else Side.CLIENT
        if block == Block.REQUEST and http2["flags"] & Http2Flag.PUSHED:
            side = Side.SERVER
        key = int(http2["connection"]), int(side), int(http2["block_epoch"][block])
        return self.tables.decode(key, int(http2["block_inserted"][block]), raw)


def _end(client: bool) -> H2Connection:
    config = H2Configuration(client_side=client, header_encoding="utf-8")
    return H2Connection(config=config)


@dataclass
class Talk:
    """A connection of HTTP/2 between two actors."""

    pair: Connection
    recorded: StreamRecording
    client: H2Connection = field(default_factory=lambda: _end(True))
    server: H2Connection = field(default_factory=lambda: _end(False))
    cut: int = 0  # bytes of a call; 0: all in one

    def __post_init__(self) -> None:
        self.heard: dict[str, list[Any]] = {"client": [], "server": []}

    def begin(self) -> None:
        self.client.initiate_connection()
        self.server.initiate_connection()
        self.flush()

    def flush(self) -> None:
        """Everything that either end has to say, until both are silent."""
        while self._move("client") | self._move("server"):
            pass

    def _move(self, who: str) -> bool:
        ours, theirs = (self.client, self.server) if who == "client" else (self.server, self.client)
        data = ours.data_to_send()
        if not data:
            return False
        self.raw(who, data)
        self.heard["server" if who == "client" else "client"] += theirs.receive_data(data)
        return True

    def raw(self, who: str, data: bytes) -> None:
        """Bytes from one actor to the other, in calls of `cut` bytes."""
        sender, receiver = self._actors(who)
        size = self.cut or len(data)
        for at in range(0, len(data), size):
            piece = data[at : at + size]
            sender.send(self.pair.name, piece)
            receiver.do("receive_count", name=self.pair.name, count=len(piece))

    def _actors(self, who: str) -> tuple[Actor, Actor]:
        ends = self.pair.client, self.pair.server
        return ends if who == "client" else (ends[1], ends[0])

    def request(self, stream: int, path: str, *more: tuple[str, str], end: bool = True) -> None:
        headers = [(":method", "GET"), (":scheme", "http"), (":authority", "t"), (":path", path)]
        self.client.send_headers(stream, [*headers, *more], end_stream=end)

    def answer(
        self, stream: int, status: str = "200", *more: tuple[str, str], end: bool = True
    ) -> None:
        self.server.send_headers(stream, [(":status", status), *more], end_stream=end)


@contextmanager
def talking(
    capture: Capture, family: str = "ipv4", mode: int = TRACED, cut: int = 0
) -> Iterator[Talk]:
    """Two traced processes that have connected and exchanged prefaces."""
    recorded = StreamRecording(capture, mode)
    try:
        server, client = recorded.actor(), recorded.actor()
        talk = Talk(open_connection(server, client, recorded, family), recorded, cut=cut)
        talk.begin()
        yield talk
    finally:
        recorded.dismiss()


def both(streams: Sequence[Stream], number: int) -> tuple[Stream, Stream]:
    """The client's and the server's record of a stream, of which there must be one each."""
    found = [one for one in streams if one.stream == number]
    clients = [one for one in found if one.role == Role.CLIENT]
    servers = [one for one in found if one.role == Role.SERVER]
    assert (len(clients), len(servers)) == (1, 1), "\n".join(map(str, streams))
    return clients[0], servers[0]
