"""What a machine full of services and routes costs the exporters in memory."""

import json
import subprocess
import sys
from pathlib import Path

# Stated in docs/exporters.md. The queue's own bound is 32 MiB.
BOUND_BYTES = 96 << 20

# In a process of its own, for its peak of memory.
PROGRAM = """
import json, resource, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from unit.records import batch, record, resource_table
from waggle.exporter.otlp import OtlpExporter
from waggle.exporter.otlp_settings import OtlpSettings, queue_settings
from waggle.exporter.setup import encoder_for
from waggle.spans import SpanBatch

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

services, routes, spans = 1000, 100_000, 120_000
table = resource_table(*(f"service-{number}" for number in range(services)))
one = record(b"/route/000000/item", status=200)
settings = OtlpSettings.from_environment({}, "http://127.0.0.1:1")
exporter = OtlpExporter(settings, encoder_for(queue_settings({})))
before = peak()
at = one["head"][0].tobytes().index(b"000000")
digits = np.char.zfill(np.arange(routes).astype("S6"), 6).view(np.uint8).reshape(-1, 6)
for first in range(0, spans, 4000):
    rows = np.repeat(one, 4000)
    numbers = np.arange(first, first + 4000)
    rows["head"][:, at : at + 6] = digits[numbers % routes]
    rows["status"] = 200 + numbers % 300
    rows["span_id"] = numbers.astype("<u8").view(np.uint8).reshape(-1, 8)
    exporter.export(SpanBatch(rows, (numbers * 7919 % services).astype(np.intp), table, 0))
stats = exporter.stats()
exporter.close(0)
print(json.dumps({"grown": peak() - before, "queued": stats.queued, "lost": stats.lost}))
"""


def test_a_thousand_services_and_a_hundred_thousand_routes_stay_within_the_bound() -> None:
    """With 1,000 services, 100,000 routes, 300 statuses and no receiver, memory grows by no more
    than the docs say, and what the queue could not hold is counted."""
    tests = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tests)], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert told["grown"] < BOUND_BYTES, told
    assert told["queued"] + sum(told["lost"].values()) == 120_000
    assert set(told["lost"]) == {"queue_full"}
    assert told["queued"] > 50_000
