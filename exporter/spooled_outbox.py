"""An outbox whose requests pass through a spool on disk: what OtlpExporter uses with --spool.

    put() -> Outbox (memory: gathers, joins) -> thread "waggle-spool" -> Spool (disk) -> take()

Everything passes the disk, not only what an outage leaves over: whenever the agent is killed, what
had left the outbox is there for its next run. What the disk does not take (full, failing, the
bound reached) goes from memory to the sender, and waits in the outbox within its bounds.
"""

import threading
import time
from collections.abc import Mapping

from waggle.exporter.base import ExporterStats
from waggle.exporter.otlp_settings import QueueSettings
from waggle.exporter.outbox import Encoded, Outbox, Parcel
from waggle.exporter.spool import Spool, Stored

# How often a disk that did not take a request is tried again.
_TRY_AGAIN_S = 1.0
# What abandon() grants the thread to bring to disk what is left in memory.
_LAST_WRITES_S = 5.0


class SpooledOutbox:
    """What Outbox offers, with a disk behind it. One sender, as there.

    Every span put in or recovered is in exactly one place: waiting (in memory or on disk),
    exported, lost by reason, or, after abandon(), kept on disk.
    """

    def __init__(self, settings: QueueSettings, spool: Spool) -> None:
        """No thread runs before the first take()."""
        self._memory = Outbox(settings)
        self._spool = spool
        self._changed = threading.Condition()
        self._sent = ExporterStats()  # of what the sender has finished
        self._moved = 0  # spans that the memory counts as exported, because they went to disk
        self._direct: Parcel | None = None  # what the disk did not take
        self._sending: Parcel | None = None
        self._stored: Stored | None = None  # where the parcel being sent lies on disk
        self._ended = False  # the thread has brought everything out of memory
        self._abandoned = False
        self._thread: threading.Thread | None = None

    def put(self, request: Encoded) -> None:
        """As Outbox.put(): never waits for the disk."""
        self._memory.put(request)

    def take(self) -> Parcel | None:
        """The oldest parcel; None when the outbox is closed and empty."""
        self._ensure_thread()
        with self._changed:
            while not self._abandoned:
                stored = self._spool.next()
                if stored is not None:
                    self._stored = stored
                    self._sending = Parcel(stored.payload, stored.spans, 0)
                    return self._sending
                if self._direct is not None:
                    self._stored, self._sending = None, self._direct
                    return self._direct
                if self._ended:
                    return None
                self._changed.wait()
            return None

    def keeps(self, parcel: Parcel) -> bool:
        """Whether the parcel is on disk, so that the end of the agent does not lose it."""
        return self._stored is not None and self._sending is parcel

    def postpone(self, parcel: Parcel) -> bool:
        """Send the others first: whether the parcel was put behind all that waits."""
        with self._changed:
            stored = self._stored
            if stored is None or self._abandoned:
                return False
            if not self._spool.append(parcel.payload, parcel.spans):
                return False
            self._spool.done(stored)
            self._sending = self._stored = None
            return True

    def finish(self, parcel: Parcel, lost: Mapping[str, int]) -> None:
        """As Outbox.finish()."""
        with self._changed:
            if self._sending is not parcel or self._abandoned:
                return
            if self._stored is None:
                self._direct = None
                self._memory.finish(parcel, lost)
            else:
                self._spool.done(self._stored)
                self._sent.exported += parcel.spans - sum(lost.values())
                for reason, spans in lost.items():
                    self._sent.lose(reason, spans)
            self._sending = self._stored = None
            self._changed.notify_all()

    def hurry(self, timeout_s: float) -> None:
        """As Outbox.hurry()."""
        deadline = time.monotonic() + timeout_s
        self._memory.hurry(timeout_s)
        with self._changed:
            through, _ = self._spool.progress()
            self._changed.wait_for(
                lambda: self._spool.progress()[1] >= through, max(deadline - time.monotonic(), 0.0)
            )

    def close(self) -> None:
        """Take nothing more in."""
        self._memory.close()
        self._ensure_thread()

    def abandon(self) -> int:
        """Leave what is on disk to the next run; what is in memory only is lost by shutdown.

        Returns how many spans were lost.
        """
        if self._thread is not None:
            self._thread.join(_LAST_WRITES_S if self._direct is None else 0.0)
        with self._changed:
            if not self._abandoned:
                self._abandoned = True
                kept = self._spool.waiting_spans()
                self._spool.close()
                self._sent.kept = kept
            self._changed.notify_all()
        return self._memory.abandon()

    def lost_so_far(self) -> int:
        return sum(self.stats().lost.values())

    def stats(self) -> ExporterStats:
        """A copy of the account. May wait for the disk, where that is slow."""
        with self._changed:
            memory = self._memory.stats()
            queued = 0 if self._abandoned else self._spool.waiting_spans()
            now = ExporterStats(
                memory.exported - self._moved + self._sent.exported,
                memory.queued + queued,
                memory.lost,
                kept=self._sent.kept,
            )
            for losses in (self._sent.lost, self._spool.lost()):
                for reason, spans in losses.items():
                    now.lose(reason, spans)
            return now

    def room(self) -> str:
        """How much is kept while there is no receiver, for messages."""
        return f"up to {self._spool.max_bytes >> 20} MiB are kept in {self._spool.folder} meanwhile"

    def _ensure_thread(self) -> None:
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._move, name="waggle-spool", daemon=True)
                self._thread.start()

    def _move(self) -> None:
        """From memory to disk, until the memory is closed and empty."""
        while (parcel := self._memory.take()) is not None:
            with self._changed:
                self._hand_over(parcel)
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _hand_over(self, parcel: Parcel) -> None:
        """To the disk, or, while that does not take it, to the sender."""
        while not self._abandoned:
            if self._sending is not parcel:
                if self._put_on_disk(parcel):
                    return
                self._direct = parcel
                self._changed.notify_all()
            self._changed.wait(_TRY_AGAIN_S)
            if self._direct is None:
                return

    def _put_on_disk(self, parcel: Parcel) -> bool:
        if not self._spool.append(parcel.payload, parcel.spans):
            return False
        self._direct = None
        self._moved += parcel.spans
        self._memory.finish(parcel, {})
        self._changed.notify_all()
        return True
