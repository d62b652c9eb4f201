"""The peer addresses of a batch as text: a server may have a different client in every row."""

import socket

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.columns import Bytes, Positions, Slices, words
from waggle.spans import Records

Words = npt.NDArray[np.uint64]

_ADDRESS: int = layout.EXCHANGE.fields["peer_addr"][1]  # type: ignore[index]
_IPV4_WIDTH = 16  # of "255.255.255.255." with the full stop each octet is written with
_IPV6_WIDTH = 48  # the longest has 45 characters
_MAPPED = 0xFFFF0000  # what is before an IPv4 address, after eight zeros
_OCTETS = [f"{octet}." for octet in range(256)]
_OCTET_WORDS = np.array(
    [int.from_bytes(text.encode(), "little") for text in _OCTETS], dtype=np.uint32
)
_OCTET_SIZES = np.array([len(text) for text in _OCTETS], dtype=np.intp)


# So few addresses, with so many rows each, are rather parts of shapes than a column.
_FEW = 4
_ROWS_OF_ONE = 16


class PeerTexts:
    """The text of the peer's address in the rows where it is a column.

    lengths: one per record; 0 where the address is part of the row's shape: a client
    has few servers and may say their address in many ways, and a UNIX socket has none.
    Behind a proxy, or on this machine, a server has few clients too.
    """

    def __init__(self, records: Records) -> None:
        buffer: Bytes = records.view(np.uint8).reshape(-1)
        size = records.dtype.itemsize
        high, low = (
            np.ndarray((len(records),), "<u8", buffer, _ADDRESS + at, (size,)) for at in (0, 8)
        )
        self.lengths = np.zeros(len(records), np.intp)
        self._matrix: Bytes | None = None
        if _are_few(high, low):
            return
        rows = _have_peers(records) & ((high | low) != 0)
        is_ipv4 = (high == 0) & ((low & np.uint64(0xFFFFFFFF)) == _MAPPED)
        self._octets = np.ndarray((len(records), 4), "u1", buffer, _ADDRESS + 12, (size, 1))
        self._ipv4 = (rows & is_ipv4).nonzero()[0]
        self._ipv6 = (rows & ~is_ipv4).nonzero()[0]
        self._sizes = [_OCTET_SIZES[self._octets[self._ipv4, octet]] for octet in range(4)]
        self._ipv6_texts = _ipv6_texts(records["peer_addr"][self._ipv6])
        self.lengths[self._ipv4] = sum(self._sizes) - 1
        self.lengths[self._ipv6] = [len(text) for text in self._ipv6_texts]

    def slices(self, rows: Positions) -> Slices:
        """The texts of some rows."""
        if self._matrix is None:
            self._matrix = self._written()
        return Slices(self._matrix.reshape(-1), rows * self._matrix.shape[1], self.lengths[rows])

    def _written(self) -> Bytes:
        width = _IPV6_WIDTH if len(self._ipv6) else _IPV4_WIDTH
        matrix = np.empty((len(self.lengths), width), np.uint8)
        at = self._ipv4 * width
        anywhere = words(matrix.reshape(-1))
        for octet in range(4):  # what each writes too much, the next one writes over
            anywhere[at] = _OCTET_WORDS[self._octets[self._ipv4, octet]]
            at = at + self._sizes[octet]
        if len(self._ipv6):
            texts = np.array(self._ipv6_texts, f"S{width}")
            matrix[self._ipv6] = texts.view(np.uint8).reshape(-1, width)
        return matrix


def _are_few(high: Words, low: Words) -> bool:
    """Whether the addresses, given by their halves, are few for so many rows."""
    for _ in range(min(_FEW, len(low) // _ROWS_OF_ONE)):
        other = (high != high[0]) | (low != low[0])
        if not other.any():
            return True
        high, low = high[other], low[other]
    return False


def _have_peers(records: Records) -> npt.NDArray[np.bool_]:
    rows = records["role"] == layout.Role.SERVER
    rows &= records["family"] != socket.AF_UNIX
    rows &= (records["flags"] & layout.Flag.NO_POSITION) == 0
    return np.asarray(rows, np.bool_)


def _ipv6_texts(addresses: Bytes) -> list[str]:
    raw = addresses.tobytes()
    return [socket.inet_ntop(socket.AF_INET6, raw[at : at + 16]) for at in range(0, len(raw), 16)]
