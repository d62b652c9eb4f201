"""What every exporter offers to the pipeline."""

from dataclasses import dataclass, field
from typing import Protocol

from waggle.spans import SpanBatch


@dataclass(slots=True)
class ExporterStats:
    """What an exporter has done so far. Every span handed over is in exactly one place.

    With a spool, spans of an earlier run count as handed over.
    """

    exported: int = 0
    queued: int = 0
    lost: dict[str, int] = field(default_factory=dict)  # reason -> spans
    kept: int = 0  # on disk after close(), for the next run

    def lose(self, reason: str, spans: int) -> None:
        self.lost[reason] = self.lost.get(reason, 0) + spans


class Exporter(Protocol):
    """Takes batches; never raises for a remote's fault and never blocks for long.

    close() may be called once; after it export() counts its spans as lost.
    """

    name: str

    def export(self, batch: SpanBatch) -> None: ...

    def flush(self, timeout_s: float) -> None: ...

    def close(self, timeout_s: float) -> None: ...

    def stats(self) -> ExporterStats: ...
