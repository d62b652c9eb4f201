"""Finished traces, live in the terminal.

    export()  a bounded queue, nothing else: it runs on the pipeline's thread
    thread    Selection, by columns -> decode -> TraceAssembler
                -> LiveView: which traces, and when -> waterfall -> Output

A terminal may be slow, or stopped with Ctrl-S: only the thread of this module ever
waits for it.
"""

import errno
import io
import os
import select
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TextIO

from waggle.exporter.base import ExporterStats
from waggle.exporter.selection import Selection, Skipped
from waggle.exporter.waterfall import ASCII, UNICODE, Look, Style, draw
from waggle.spans import SpanBatch, decode_batch
from waggle.traces import Trace, TraceAssembler

_SECOND = 1_000_000_000
_TICK_S = 0.1
_TICK_OF_FLOOD_S = 0.25  # nobody reads along then
_WIDTH_OF_NO_TERMINAL = 100
_MOST_ROWS = 200  # of one trace
_ROWS_PER_TRACE = 25  # on average, within a second
_SPANS_PER_SECOND = 2_000  # decoded at most
_MOST_QUEUED = 8 << 20  # bytes of records


class OutputClosedError(Exception):
    """Nothing can be written any more. Handled here; never reaches the pipeline."""


class Output:
    """Where the screen goes: a text stream, written to past its buffer.

    A buffer of Python's that still holds text when the reader has gone makes the
    interpreter complain at exit, so the file descriptor is used where there is one.
    """

    def __init__(self, stream: TextIO, environment: Mapping[str, str]) -> None:
        self._stream = stream
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._fd = _descriptor_of(stream)
        self._glyphs = UNICODE if _can_draw(self._encoding) else ASCII
        self._color = (
            stream.isatty()
            and environment.get("TERM", "") not in ("", "dumb")
            and not environment.get("NO_COLOR")
        )
        if self._fd is not None:
            stream.flush()

    def look(self) -> Look:
        """What the terminal is like now: it may have been resized."""
        return Look(self._width(), self._color, self._glyphs)

    def write(self, text: str) -> None:
        """Write all of it; raises OutputClosedError when the reader is gone, else OSError."""
        try:
            if self._fd is None:
                self._stream.write(text)
                self._stream.flush()
            else:
                _write_all(self._fd, text.encode(self._encoding, "replace"))
        except BrokenPipeError as error:
            raise OutputClosedError from error
        except ValueError as error:  # a stream that was closed
            raise OutputClosedError from error
        except OSError as error:
            # EIO: the terminal was hung up. EBADF: the descriptor was closed.
            if error.errno in (errno.EPIPE, errno.EIO, errno.EBADF):
                raise OutputClosedError from error
            raise

    def _width(self) -> int:
        if self._fd is None:
            return _WIDTH_OF_NO_TERMINAL
        try:
            return os.get_terminal_size(self._fd).columns or _WIDTH_OF_NO_TERMINAL
        except OSError:
            return _WIDTH_OF_NO_TERMINAL


def _descriptor_of(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, AttributeError, io.UnsupportedOperation):
        return None


def _can_draw(encoding: str) -> bool:
    try:
        "▕█▏├✗…".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # somebody who shares the terminal made it so
            select.select([], [fd], [])


@dataclass(frozen=True, slots=True)
class _Candidate:
    trace: Trace
    part: bool  # spans of it may have been left out before they were decoded

    def worth(self) -> tuple[bool, int]:
        return self.trace.error, self.trace.duration_ns


class LiveView:
    """Which finished traces are drawn, and when. Its caller tells it the time.

    A second's share is given out half at once and half as the second passes, to the
    failed first, then to the slowest. What is left when the second ends is one line.
    """

    def __init__(self, output: Output, *, traces_per_second: int, now_ns: int) -> None:
        self.drawn_spans = 0
        self.left_out_spans = 0  # of traces that were not drawn
        self.cut_spans = 0  # of traces that were drawn up to a row only
        self._output = output
        self._share = traces_per_second
        self._since_ns = now_ns
        self._drawn = 0
        self._rows = 0
        self._waiting: list[_Candidate] = []
        self._untold = Skipped()
        self._after = "nothing"  # what the screen ends with: "nothing", "line" or "tree"

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._untold.traces

    def offer(self, trace: Trace, *, part: bool = False) -> None:
        self._waiting.append(_Candidate(trace, part))

    def skip(self, skipped: Skipped) -> None:
        """Traces that were left out by others, for the line that tells how many."""
        self._untold.add(skipped.spans, skipped.traces, skipped.failed)
        self.left_out_spans += skipped.spans

    def leave_out(self, trace: Trace) -> None:
        """Count a trace that is not going to be drawn."""
        self.skip(Skipped(len(trace.rows), 1, int(trace.error)))

    def tick(self, now_ns: int) -> None:
        """Draw what the time allows. Raises what Output.write raises."""
        if now_ns - self._since_ns >= _SECOND:
            self._end_second(now_ns)
        self._draw_best(self._allowed(now_ns))
        self._forget_worst(2 * self._share)

    def finish(self) -> None:
        """Draw what the second's share still allows and tell the rest."""
        self._draw_best(self._share)
        self._forget_worst(0)
        self._tell()

    def _allowed(self, now_ns: int) -> int:
        passed = min((now_ns - self._since_ns) / _SECOND, 1.0)
        return -int(-self._share * (0.5 + 0.5 * passed) // 1)

    def _end_second(self, now_ns: int) -> None:
        self._draw_best(self._share)
        self._forget_worst(0)
        self._tell()
        self._since_ns = now_ns
        self._drawn = self._rows = 0

    def _draw_best(self, allowed: int) -> None:
        room = allowed - self._drawn
        if room <= 0 or not self._waiting:
            return
        self._waiting.sort(key=_Candidate.worth, reverse=True)
        best, self._waiting = self._waiting[:room], self._waiting[room:]
        best.sort(key=lambda candidate: candidate.trace.end_unix_ns)
        look = self._output.look()
        for candidate in best:
            self._draw(candidate, look)

    def _draw(self, candidate: _Candidate, look: Look) -> None:
        trace = candidate.trace
        most = min(_MOST_ROWS, max(self._share * _ROWS_PER_TRACE - self._rows, 1))
        notes = ("perhaps more: only a part of the traffic is looked at",) if candidate.part else ()
        self._write(draw(trace, look, max_rows=most, notes=notes))
        rows = min(len(trace.rows), most)
        self._drawn += 1
        self._rows += rows
        self.drawn_spans += rows
        self.cut_spans += len(trace.rows) - rows

    def _write(self, text: str) -> None:
        """Write one thing, an empty line around it if it is a tree and not just a line."""
        what = "line" if text.count("\n") == 1 else "tree"
        apart = self._after != "nothing" and "tree" in (what, self._after)
        self._output.write("\n" + text if apart else text)
        self._after = what

    def _forget_worst(self, keep: int) -> None:
        if len(self._waiting) <= keep:
            return
        self._waiting.sort(key=_Candidate.worth, reverse=True)
        for candidate in self._waiting[keep:]:
            self.leave_out(candidate.trace)
        del self._waiting[keep:]

    def _tell(self) -> None:
        untold, self._untold = self._untold, Skipped()
        if untold.traces:
            self._write(_more(untold, self._output.look()))


def _more(untold: Skipped, look: Look) -> str:
    traces = "trace" if untold.traces == 1 else "traces"
    failed = f" ({untold.failed:,} with errors)" if untold.failed else ""
    text = f"{look.glyphs.ellipsis} and {untold.traces:,} {traces} more{failed}"[: look.width]
    return f"\x1b[{Style.DIM}m{text}{Style.RESET}\n" if look.color else text + "\n"


class ConsoleExporter:
    """Exporter that draws finished traces on a terminal, or into a file.

    stats().lost, by reason:
        above_draw_rate  their trace was one of the many that were not drawn
        trace_too_large  the trace was drawn without them, and says how many
        too_many_traces, duplicate_span  see TraceAssembler
        screen_behind    the terminal takes what is written too slowly
        output_closed    the reader has gone: see `closed`
        output_failed    writing failed: see `failure`
        output_blocked   the terminal was still stopped when close() ran out of time
        closed           handed over after close()
    """

    name = "console"

    def __init__(
        self,
        stream: TextIO,
        *,
        traces_per_second: int = 20,
        environment: Mapping[str, str] = os.environ,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Start drawing to `stream`. now_ns is CLOCK_MONOTONIC, as in the records."""
        self.failure: OSError | None = None
        self._now_ns = now_ns
        now = now_ns()
        self._output = Output(stream, environment)
        self._view = LiveView(self._output, traces_per_second=traces_per_second, now_ns=now)
        self._assembler = TraceAssembler()
        # What failed or is slow comes on top: a quarter to a half of what can be drawn.
        self._selection = Selection(
            traces=max(traces_per_second * 3 // 4, 1), spans=_SPANS_PER_SECOND, now_ns=now
        )
        self._clock_offset_ns = 0
        self._changed = threading.Condition()
        # Guarded by _changed:
        self._queue: list[SpanBatch] = []
        self._queued_bytes = 0
        self._handed_over = 0
        self._behind = 0
        self._asked = 0  # flushes asked for
        self._flushed = 0  # and done
        self._closing = False
        self._ended: str | None = None  # why, as a reason in stats().lost
        self._thread = threading.Thread(target=self._run, name="waggle-console", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether nothing will be drawn any more; the agent has no reason to go on then."""
        return self._ended is not None

    def export(self, batch: SpanBatch) -> None:
        if not len(batch):
            return
        with self._changed:
            self._handed_over += len(batch)
            if self._ended or self._closing:
                return
            if self._queued_bytes + batch.records.nbytes > _MOST_QUEUED:
                self._behind += len(batch)
                return
            self._queue.append(batch)
            self._queued_bytes += batch.records.nbytes
            if len(self._queue) == 1:
                self._changed.notify_all()

    def flush(self, timeout_s: float) -> None:
        """Wait until what was exported has been decoded, and drawn where it is finished."""
        with self._changed:
            self._asked += 1
            wanted = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._flushed >= wanted or self.closed, timeout_s)

    def close(self, timeout_s: float) -> None:
        """Draw what is left, unfinished traces too."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        self._end("output_blocked")

    def stats(self) -> ExporterStats:
        with self._changed:
            stats = ExporterStats(exported=self._view.drawn_spans)
            for reason, spans in self._losses().items():
                if spans:
                    stats.lose(reason, spans)
            # Whatever is neither drawn nor lost is on its way, until the way ends.
            rest = max(self._handed_over - stats.exported - sum(stats.lost.values()), 0)
            if self._ended is None:
                stats.queued = rest
            elif rest:
                stats.lose(self._ended, rest)
            return stats

    def _losses(self) -> dict[str, int]:
        losses = self._assembler.lost.copy()
        losses["trace_too_large"] = losses.get("trace_too_large", 0) + self._view.cut_spans
        losses["above_draw_rate"] = self._view.left_out_spans
        losses["screen_behind"] = self._behind
        return losses

    def _run(self) -> None:
        try:
            while self._step():
                pass
            self._end("closed")
        except OutputClosedError:
            self._end("output_closed")
        except OSError as error:
            self.failure = error
            self._end("output_failed")
        finally:
            self._end("drawing_failed")

    def _end(self, reason: str) -> None:
        """Say why nothing is drawn any more. The first reason stays."""
        with self._changed:
            if self._ended is None:
                self._ended = reason
                self._queue.clear()
                self._queued_bytes = 0
            self._changed.notify_all()

    def _step(self) -> bool:
        """Wait for something to do and do it; False when it was the last time."""
        batches, asked, closing = self._next()
        now = self._now_ns()
        if batches:
            self._take(batches, now)
        for trace in self._assembler.drain() if closing else self._assembler.due(now):
            self._offer(trace)
        self._view.tick(now)
        if closing:
            self._view.finish()
        with self._changed:
            self._flushed = asked
            self._changed.notify_all()
            # Little and often is dear: let some more come together.
            if batches and not closing:
                pause_s = _TICK_S if self._selection.everything else _TICK_OF_FLOOD_S
                self._changed.wait_for(self._pressed, pause_s)
        return not closing

    def _pressed(self) -> bool:
        return self._closing or self._flushed != self._asked

    def _next(self) -> tuple[list[SpanBatch], int, bool]:
        with self._changed:
            if not self._queue and not self._pressed():
                idle = not self._assembler.spans and self._view.idle
                self._changed.wait(None if idle else _TICK_S)
            batches, self._queue = self._queue, []
            self._queued_bytes = 0
            return batches, self._asked, self._closing

    def _take(self, batches: list[SpanBatch], now_ns: int) -> None:
        skipped = Skipped()
        for batch in self._selection.choose(batches, skipped, now_ns):
            self._assembler.add(decode_batch(batch), batch.table, now_ns)
        self._view.skip(skipped)
        self._clock_offset_ns = batches[-1].clock_offset_ns

    def _offer(self, trace: Trace) -> None:
        start_ns = trace.start_unix_ns - self._clock_offset_ns
        whole = self._selection.whole(trace.trace_id, start_ns)
        if whole or self._selection.special(trace.trace_id):
            self._view.offer(trace, part=not whole)
        else:
            self._view.leave_out(trace)
