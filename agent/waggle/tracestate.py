"""The member `ot` of a tracestate: OpenTelemetry's own, in which the sampling threshold stands.

https://opentelemetry.io/docs/specs/otel/trace/tracestate-handling/
"""

import numpy as np

from waggle.layout import Kept, Sampling
from waggle.sampling import threshold_text
from waggle.spans import SAMPLING_SHIFT, THRESHOLD_MASK, Records, kept_fields

_KEY = b"ot="
_THRESHOLD = b"th:"
_BLANKS = b" \t"
_LONGEST_MEMBER = 256  # bytes of the value of `ot`


def with_threshold(text: bytes, threshold: int | None) -> bytes:
    """A tracestate in which `ot` says this threshold, or none; it comes first if it is changed.

    Whatever else is in it stays, in its order. A second `ot` is no member and goes.
    """
    members = [member.strip(_BLANKS) for member in text.split(b",")]
    own = next((member for member in members if member.startswith(_KEY)), _KEY)
    others = [member for member in members if member and not member.startswith(_KEY)]
    said = own[len(_KEY) :].split(b";")
    keys = [key for key in said if key.strip(_BLANKS) and not key.startswith(_THRESHOLD)]
    if threshold is not None:
        keys.insert(0, _THRESHOLD + threshold_text(threshold).encode())
    value = b";".join(keys)
    if len(value) > _LONGEST_MEMBER:
        value = b";".join(keys[1:])
    value = value.rstrip(_BLANKS)  # what stood before one that went
    return b",".join([_KEY + value, *others] if value else others)


def edit(records: Records, row: int) -> None:
    """Make the tracestate of a record say what holds (Sampling.EDIT), in place.

    Where that is longer and has no room, the threshold goes: better none than a wrong one.
    """
    record = records[row]
    sampling = int(record["sampling"])
    start, length = int(record["target_len"]), int(record["kept_len"])
    fields = list(kept_fields(record["head"].tobytes(), start, start + length))
    values = [value for tag, value in fields if tag == Kept.TRACESTATE]
    known = bool(sampling >> SAMPLING_SHIFT & Sampling.KNOWN)
    text = with_threshold(b",".join(values), sampling & THRESHOLD_MASK if known else None)
    kept = _kept(fields, text)
    if start + len(kept) > len(record["head"]):
        known, kept = False, _kept(fields, with_threshold(b",".join(values), None))
    records["head"][row, start : start + len(kept)] = np.frombuffer(kept, np.uint8)
    records["kept_len"][row] = len(kept)
    state = sampling >> SAMPLING_SHIFT & ~(Sampling.EDIT | (0 if known else Sampling.KNOWN))
    threshold = sampling & THRESHOLD_MASK if known else 0
    records["sampling"][row] = (state | Sampling.SAID) << SAMPLING_SHIFT | threshold


def _kept(fields: list[tuple[int, bytes]], text: bytes) -> bytes:
    """Kept fields as records have them, with one tracestate."""
    others = [field for field in fields if field[0] != Kept.TRACESTATE]
    shown = [(int(Kept.TRACESTATE), text)] if text else []
    return b"".join(
        bytes((tag, 0)) + len(value).to_bytes(2, "little") + value
        for tag, value in [*others, *shown]
    )
