"""A hop between two networks that does to TCP segments what some hops do.

    python middle_hop.py DEVICE DEVICE ACTION

Every frame that comes from one device leaves by the other, unless ACTION says something else:

    pass       everything is passed on
    lose       every seventh segment with data is lost, once
    reorder    every third segment with data changes places with the next
    strip      options of kind 254 become padding
    silence    segments with such an option are lost
    reset      who sends one gets a reset

    python middle_hop.py plain DEVICE

makes a device's sender compute checksums and cut segments itself, as if it had a cable.
Prints a line when it is ready, and ends with its standard input.
"""

import array
import fcntl
import select
import socket
import struct
import sys

_ETH_P_ALL = 3
_OUTGOING = 4
_SIOCETHTOOL = 0x8946
_CHECKSUM, _SCATTER, _TSO, _GSO = 0x17, 0x19, 0x1F, 0x24  # ETHTOOL_S*
_KIND = 254


def make_plain(device: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in (_TSO, _GSO, _SCATTER, _CHECKSUM):
            value = array.array("B", struct.pack("=II", command, 0))
            request = struct.pack("@16sP", device.encode(), value.buffer_info()[0])
            fcntl.ioctl(control, _SIOCETHTOOL, request)


class Segment:
    """A frame with TCP in IPv4, taken apart; `frame` may be changed in place."""

    def __init__(self, frame: bytearray, ip: int, tcp: int, end: int) -> None:
        self.frame, self.ip, self.tcp = frame, ip, tcp
        self.payload = tcp + (frame[tcp + 12] >> 4) * 4
        self.end = end

    @classmethod
    def of(cls, data: bytes) -> "Segment | None":
        if data[12:14] != b"\x08\x00" or data[23] != socket.IPPROTO_TCP:
            return None
        size = (data[14] & 15) * 4
        return cls(bytearray(data), 14, 14 + size, 14 + int.from_bytes(data[16:18], "big"))

    @property
    def has_data(self) -> bool:
        return self.end > self.payload

    @property
    def sequence(self) -> int:
        return int.from_bytes(self.frame[self.tcp + 4 : self.tcp + 8], "big")

    def option(self) -> tuple[int, int] | None:
        """Where an option of our kind lies, and its length."""
        at = self.tcp + 20
        while at < self.payload:
            kind = self.frame[at]
            if kind == 0:
                return None
            length = 1 if kind == 1 else self.frame[at + 1]
            if kind == _KIND:
                return at, length
            at += length
        return None

    def strip(self) -> bytes:
        found = self.option()
        if found:
            at, length = found
            self.frame[at : at + length] = b"\x01" * length
            self._sum_up()
        return bytes(self.frame)

    def _sum_up(self) -> None:
        self.frame[self.tcp + 16 : self.tcp + 18] = b"\0\0"
        body = bytes(self.frame[self.tcp : self.end])
        pseudo = bytes(self.frame[self.ip + 12 : self.ip + 20])
        pseudo += struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(body))
        text = pseudo + body + (b"\0" if len(body) % 2 else b"")
        total = sum(struct.unpack(f"!{len(text) // 2}H", text))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        self.frame[self.tcp + 16 : self.tcp + 18] = (~total & 0xFFFF).to_bytes(2, "big")

    def reset(self) -> bytes:
        """The answer that refuses this segment."""
        answer = Segment(bytearray(self.frame[: self.tcp + 20]), self.ip, self.tcp, self.tcp + 20)
        frame, tcp, ip = answer.frame, self.tcp, self.ip
        frame[0:6], frame[6:12] = self.frame[6:12], self.frame[0:6]
        frame[ip + 12 : ip + 16], frame[ip + 16 : ip + 20] = (
            self.frame[ip + 16 : ip + 20],
            self.frame[ip + 12 : ip + 16],
        )
        frame[tcp : tcp + 2], frame[tcp + 2 : tcp + 4] = (
            self.frame[tcp + 2 : tcp + 4],
            self.frame[tcp : tcp + 2],
        )
        frame[tcp + 4 : tcp + 8] = self.frame[tcp + 8 : tcp + 12]
        frame[tcp + 8 : tcp + 12] = bytes(4)
        frame[tcp + 12], frame[tcp + 13] = 5 << 4, 0x04  # RST
        frame[ip + 2 : ip + 4] = (answer.end - ip).to_bytes(2, "big")
        frame[ip + 10 : ip + 12] = b"\0\0"
        head = bytes(frame[ip : self.tcp])
        total = sum(struct.unpack(f"!{len(head) // 2}H", head))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        frame[ip + 10 : ip + 12] = (~total & 0xFFFF).to_bytes(2, "big")
        answer._sum_up()
        return bytes(frame)


class Hop:
    """What becomes of frames. take() gives those for the other side, and those that go back."""

    def __init__(self, action: str) -> None:
        self._action = action
        self._seen = 0
        self._held: bytes | None = None
        self._lost: set[int] = set()

    def take(self, data: bytes) -> tuple[list[bytes], list[bytes]]:
        segment = Segment.of(data)
        if segment is None or not segment.has_data:
            return [data], []
        self._seen += 1
        act = getattr(self, f"_{self._action}")
        result: tuple[list[bytes], list[bytes]] = act(data, segment)
        return result

    def _pass(self, data: bytes, _: Segment) -> tuple[list[bytes], list[bytes]]:
        return [data], []

    def _lose(self, data: bytes, segment: Segment) -> tuple[list[bytes], list[bytes]]:
        if self._seen % 7 == 0 and segment.sequence not in self._lost:
            self._lost.add(segment.sequence)
            return [], []
        return [data], []

    def _reorder(self, data: bytes, _: Segment) -> tuple[list[bytes], list[bytes]]:
        held, self._held = self._held, None
        if held is not None:
            return [data, held], []
        if self._seen % 3 == 0:
            self._held = data
            return [], []
        return [data], []

    def idle(self) -> list[bytes]:
        """What was held back for a next one that does not come."""
        held, self._held = self._held, None
        return [] if held is None else [held]

    def _strip(self, _: bytes, segment: Segment) -> tuple[list[bytes], list[bytes]]:
        return [segment.strip()], []

    def _silence(self, data: bytes, segment: Segment) -> tuple[list[bytes], list[bytes]]:
        return ([], []) if segment.option() else ([data], [])

    def _reset(self, data: bytes, segment: Segment) -> tuple[list[bytes], list[bytes]]:
        return ([], [segment.reset()]) if segment.option() else ([data], [])


def forward(here: socket.socket, there: socket.socket, hop: Hop) -> None:
    """One frame that came from `here`."""
    data, address = here.recvfrom(1 << 16)
    if address[2] == _OUTGOING:
        return
    on, back = hop.take(data)
    for frame in on:
        there.send(frame)
    for frame in back:
        here.send(frame)


def main() -> None:
    if sys.argv[1] == "plain":
        make_plain(sys.argv[2])
        return
    ends = []
    for device in sys.argv[1:3]:
        end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        end.bind((device, 0))
        ends.append(end)
    hops = [Hop(sys.argv[3]), Hop(sys.argv[3])]
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select([*ends, sys.stdin], [], [], 0.02)
        if sys.stdin in readable:
            return
        for here, there, hop in zip(ends, reversed(ends), hops, strict=True):
            if here in readable:
                forward(here, there, hop)
            else:
                for frame in hop.idle():
                    there.send(frame)


if __name__ == "__main__":
    main()
