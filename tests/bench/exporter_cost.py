"""The way out alone: spans to the socket, beside OpenTelemetry's own exporter on the same spans."""

import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tests.peers.toolchain import ensure_venv

from waggle import layout
from waggle.exporter.encoding import OtlpEncoder
from waggle.exporter.otlp import OtlpExporter
from waggle.exporter.otlp_settings import OtlpSettings
from waggle.pipeline import Pipeline, WallClock
from waggle.ring import HEADER_SIZE, RingMemory
from waggle.spans import Attributes, Records, Resource, ResourceTable, SpanBatch

from .paths import PROGRAMS
from .python_cost import REQUIREMENTS, VENV
from .report import Table, middle, spread
from .targets import Sink, sink

BATCH = 5000
SDK_SIZES = (512, BATCH)  # what a BatchSpanProcessor sends by itself, and what we do
_BATCHES = 8  # different ones in the ring
_ROUTES = 20
_KEPT = ((layout.Kept.HOST, b"shop.test:8080"), (layout.Kept.USER_AGENT, b"wrk/4.1.0"))


def bench(rounds: int, batches: int = 20) -> Table:
    """Ours and the SDK's, round after round, each to the same receiver."""
    ensure_venv(VENV, REQUIREMENTS)
    ours: list[float] = []
    theirs: dict[int, list[float]] = {size: [] for size in SDK_SIZES}
    records = _records(_BATCHES * BATCH)
    with sink() as receiver, tempfile.TemporaryDirectory() as folder:
        spans = Path(folder) / "spans"
        spans.write_bytes(_as_traces(records[:BATCH]))
        for _ in range(rounds):
            ours.append(_ours(records, receiver, batches))
            for size, costs in _theirs(spans, receiver).items():
                theirs[size] += costs
    rows = [["Waggle, from the ring", f"{BATCH:,}", *_shown(ours)]]
    rows += [
        ["OTLPSpanExporter of the Python SDK, from ReadableSpan objects", f"{size:,}", *_shown(us)]
        for size, us in theirs.items()
    ]
    columns = ["exporter", "spans a request", "us of CPU a span"]
    notes = [
        "Protobuf over HTTP to a receiver on the loopback, all threads' CPU. The spans are the "
        f"same: server spans of {_ROUTES} routes, each with ids and a query of its own and about a "
        "dozen attributes. Ours begins at the ring, which lies in memory here; what it takes to "
        "make the SDK's span objects is not in its figures.",
    ]
    return Table("exporter", "The way out, alone", columns, rows, notes)


def _shown(costs: list[float]) -> list[str]:
    return [f"{middle(costs)} ({spread(costs)})"]


def _records(count: int) -> Records:
    """What a busy server leaves in the ring."""
    random = np.random.default_rng(7)
    records = np.zeros(count, layout.EXCHANGE)
    kept = b"".join(
        bytes((tag, 0)) + len(value).to_bytes(2, "little") + value for tag, value in _KEPT
    )
    for row in range(count):
        head = b"/n/route-%02d?id=%04d" % (row % _ROUTES, row % 10_000)
        records["target_len"][row] = records["target_full_len"][row] = len(head)
        records["head"][row, : len(head) + len(kept)] = np.frombuffer(head + kept, np.uint8)
    records["kept_len"] = len(kept)
    records["shape"] = 7
    for name in ("trace_id", "span_id", "parent_id"):
        records[name] = random.integers(0, 256, records[name].shape, np.uint8)
    records["start_ns"] = time.monotonic_ns() - random.integers(0, 10**9, count, np.uint64)
    records["end_ns"] = records["start_ns"] + random.integers(10**5, 10**8, count, np.uint64)
    records["local_addr"][:, 10:] = records["peer_addr"][:, 10:] = (255, 255, 127, 0, 0, 1)
    records["local_port"] = 8080
    records["peer_port"] = random.integers(32_768, 61_000, count, np.uint16)
    records["status"] = np.where(random.random(count) < 0.02, 503, 200)
    records["response_body"] = random.integers(0, 5000, count)
    records["flags"] = layout.Flag.RESPONSE_BODY | layout.Flag.REMOTE_PARENT
    records["family"], records["role"] = 2, layout.Role.SERVER
    records["link"], records["end"] = layout.Link.SOCKET, layout.End.DONE
    records["method"], records["version"] = layout.Method.GET, 11
    records["protocol"], records["trace_flags"] = layout.Protocol.HTTP1, 1
    return records


def _table() -> ResourceTable:
    attributes: Attributes = {"service.name": "shop", "host.name": "bench", "process.pid": 4121}
    return ResourceTable([Resource(attributes)])


def _as_traces(records: Records) -> bytes:
    batch = SpanBatch(records, np.zeros(len(records), np.intp), _table(), WallClock()())
    return b"".join(request.payload for request in OtlpEncoder(max_spans=BATCH).encode(batch))


class _Filled(RingMemory):
    """A ring in memory of ours: what is read is what a producer would have left. It is as large
    as a few batches, so that none lies in a processor's cache still when it is read."""

    def __init__(self, records: Records) -> None:
        self._produced = np.zeros(1, np.uint64)
        slots = records.copy()
        slots["ring_length"] = slots.itemsize - HEADER_SIZE
        in_use = ("target_len", "kept_len", "http2_len")  # as Capture has it
        read = np.zeros(1, np.uint64)
        super().__init__(read, self._produced, slots.view(np.uint8), slots.dtype, in_use)

    def fileno(self) -> int:
        return -1

    def produce(self) -> None:
        self._produced[0] += np.uint64(BATCH * self.record.itemsize)


class _OneProcess:
    def __init__(self) -> None:
        self.table = _table()

    def accept(self, records: Records) -> npt.NDArray[np.bool_]:
        return np.ones(len(records), np.bool_)

    def resources_of(self, records: Records) -> npt.NDArray[np.intp]:
        return np.zeros(len(records), np.intp)


def _ours(records: Records, receiver: Sink, batches: int) -> float:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.base_url}
    settings = OtlpSettings.from_environment(environment)
    exporter = OtlpExporter(settings, OtlpEncoder(max_spans=BATCH))
    ring = _Filled(records)
    _run(ring, _BATCHES, exporter)  # templates and the connection
    before = receiver.taken().spans
    cpu_s = time.process_time()
    _run(ring, batches, exporter)
    cpu_s = time.process_time() - cpu_s
    sent = batches * BATCH
    assert receiver.taken().spans - before == sent, "what did not arrive cost nothing"
    exporter.close(10)
    return cpu_s / sent * 1e6


def _run(ring: _Filled, batches: int, exporter: OtlpExporter) -> None:
    pipeline = Pipeline([], _OneProcess(), [exporter], WallClock())
    for _ in range(batches):
        ring.produce()
        pipeline._move(ring)
        exporter.flush(30)


def _theirs(spans: Path, receiver: Sink) -> dict[int, list[float]]:
    program = [VENV / "bin" / "python", PROGRAMS / "sdk_exporter.py", spans]
    command = [*program, f"{receiver.base_url}/v1/traces", *SDK_SIZES]
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert told["spans"] == BATCH
    return {int(size): costs for size, costs in told["us"].items()}
