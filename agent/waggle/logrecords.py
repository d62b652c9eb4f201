"""Log records as the exporters see them: columns, and tables of what repeats."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from waggle.columns import Bytes, Positions
from waggle.spans import Attributes, ResourceTable


@dataclass(frozen=True, slots=True)
class LogShape:
    """What a record has in common with others.

    resource: a row of the table. severity: OpenTelemetry's SeverityNumber, 0 for none; text: the
    word the record itself has for it.
    """

    resource: int
    severity: int
    text: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class LogBatch:
    """Log records on their way to the exporters; all columns are of one length.

    text: the bodies of row i are text[starts[i]:][:lengths[i]], valid UTF-8. time_ns, observed_ns:
    Unix time, as said by the record and of the write. trace_ids (n, 16), span_ids (n, 8): all
    zero where a record belongs to no request. shape: indices into `shapes`.
    """

    text: Bytes
    starts: Positions
    lengths: Positions
    time_ns: npt.NDArray[np.uint64]
    observed_ns: npt.NDArray[np.uint64]
    trace_ids: npt.NDArray[np.uint8]
    span_ids: npt.NDArray[np.uint8]
    trace_flags: npt.NDArray[np.uint8]
    shape: Positions
    shapes: list[LogShape]
    table: ResourceTable
    extra: Mapping[int, Attributes] = field(default_factory=dict)  # of single rows

    def __len__(self) -> int:
        return len(self.starts)

    def body(self, row: int) -> str:
        start = int(self.starts[row])
        raw = self.text[start : start + int(self.lengths[row])].tobytes()
        return raw.decode("utf-8", "replace")
