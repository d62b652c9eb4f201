"""Synthetic exchange records, as the kernel would write them, for tests that have no kernel."""

import hashlib
import ipaddress
import socket
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from waggle import layout
from waggle.layout import End, Flag, Kept, Link, Method, Protocol, Role
from waggle.spans import Records, Resource, ResourceTable, SpanBatch

CLOCK_OFFSET_NS = 1_700_000_000_000_000_000
SECOND = 1_000_000_000

TRACE_ID = bytes(range(1, 17))
SPAN_ID = bytes(range(0x21, 0x29))
PARENT_ID = bytes(range(0x41, 0x49))
NO_PARENT = bytes(8)

KeptFields = Mapping[Kept, bytes] | Sequence[tuple[Kept, bytes]]


def address(text: str) -> bytes:
    """An address as records hold it: IPv6, or IPv4 mapped into it."""
    parsed = ipaddress.ip_address(text)
    if isinstance(parsed, ipaddress.IPv4Address):
        return bytes(10) + b"\xff\xff" + parsed.packed
    return parsed.packed


def kept_bytes(kept: KeptFields) -> bytes:
    """Kept fields as they follow the target in a record's head."""
    pairs = kept.items() if isinstance(kept, Mapping) else kept
    return b"".join(
        bytes([tag, 0]) + len(value).to_bytes(2, "little") + value for tag, value in pairs
    )


def shape_of(kept: bytes) -> int:
    """What the kernel's seeded hash is to the user side: equal for equal kept fields."""
    return int.from_bytes(hashlib.blake2b(kept, digest_size=8).digest(), "little")


def record(
    target: bytes = b"/",
    kept: KeptFields = ((Kept.HOST, b"shop.test:8080"),),
    *,
    large: bool = False,
    **columns: object,
) -> Records:
    """One record (an array of length 1): a good GET a server answered, unless told otherwise.

    columns: fields of layout.EXCHANGE by name; `local` and `peer` are addresses as text.
    Raises ValueError when target and kept fields do not fit the head.
    """
    made = np.zeros(1, layout.LARGE_EXCHANGE if large else layout.EXCHANGE)
    fields = kept_bytes(kept)
    head = target + fields
    if len(head) > made["head"].shape[1]:
        raise ValueError(f"{len(head)} bytes do not fit a head of {made['head'].shape[1]}")
    values = {
        **_DEFAULTS,
        "shape": shape_of(fields),
        "target_len": len(target),
        "target_full_len": len(target),
        "kept_len": len(fields),
        "head": head,
    }
    for name, value in {**values, **_with_addresses(columns)}.items():
        field = made[name]
        if isinstance(value, bytes):
            field[0, : len(value)] = np.frombuffer(value, np.uint8)
        else:
            field[0] = value
    return made


def batch(
    records: Iterable[Records],
    resources: Sequence[int] | None = None,
    table: ResourceTable | None = None,
    clock_offset_ns: int = CLOCK_OFFSET_NS,
) -> SpanBatch:
    """A batch of records of one size; all of the first resource, unless told otherwise."""
    rows = list(records)
    joined = np.concatenate(rows) if rows else np.zeros(0, layout.EXCHANGE)
    indices = np.array(resources if resources is not None else [0] * len(joined), np.intp)
    return SpanBatch(joined, indices, table or resource_table(), clock_offset_ns)


def resource_table(*names: str) -> ResourceTable:
    """A table with a resource for each service name."""
    table = ResourceTable()
    for number, name in enumerate(names or ("shop", "stock", "pay"), start=1):
        table.add(Resource({"service.name": name, "process.pid": 4000 + number}))
    return table


def _with_addresses(columns: Mapping[str, object]) -> dict[str, object]:
    out = dict(columns)
    for short, name in (("local", "local_addr"), ("peer", "peer_addr")):
        if short in out:
            out[name] = address(str(out.pop(short)))
    return out


_DEFAULTS: dict[str, object] = {
    "ring_length": layout.EXCHANGE.itemsize - 8,
    "start_ns": 5 * SECOND,
    "response_ns": 5 * SECOND + 1_000_000,
    "end_ns": 5 * SECOND + 2_000_000,
    "trace_id": TRACE_ID,
    "span_id": SPAN_ID,
    "parent_id": PARENT_ID,
    "tgid": 4121,
    "tid": 4122,
    "local_addr": address("10.0.0.1"),
    "peer_addr": address("10.0.0.2"),
    "local_port": 8080,
    "peer_port": 41234,
    "status": 200,
    "flags": Flag.REMOTE_PARENT,
    "family": socket.AF_INET,
    "role": Role.SERVER,
    "link": Link.SOCKET,
    "end": End.DONE,
    "method": Method.GET,
    "version": 11,
    "protocol": Protocol.HTTP1,
    "trace_flags": 1,
}
