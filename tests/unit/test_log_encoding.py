"""Log records by columns are the messages that opentelemetry-proto makes of them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData

from waggle.exporter.log_encoding import LogEncoder, slow_message
from waggle.exporter.messages import resource_message
from waggle.exporter.otlp_json import LogsJson
from waggle.logrecords import LogBatch, LogShape
from waggle.spans import Attributes, Resource, ResourceTable

TABLE = ResourceTable([Resource({"service.name": "shop"}), Resource({"service.name": "stock"})])
SHAPES = [
    LogShape(0, 9, "INFO", {"log.iostream": "stdout"}),
    LogShape(1, 0, "", {"log.file.path": "/var/log/größe.log", "waggle.link.method": "thread"}),
    LogShape(0, 17, "error", {}),
]

ROW = st.tuples(
    st.text(max_size=300),
    st.integers(0, len(SHAPES) - 1),
    st.integers(0, 2**64 - 1),
    st.sampled_from([b"", b"\1" * 8, bytes(range(8))]),
    st.sampled_from([{}, {}, {"exception.type": "ValueError"}]),
)


def batch_of(rows: list[tuple[str, int, int, bytes, Attributes]]) -> LogBatch:
    bodies = [row[0].encode() for row in rows]
    lengths = np.array([len(body) for body in bodies], np.intp)
    spans = np.zeros((len(rows), 8), np.uint8)
    for number, row in enumerate(rows):
        spans[number, : len(row[3])] = np.frombuffer(row[3], np.uint8)
    times = np.array([row[2] for row in rows], np.uint64)
    return LogBatch(
        text=np.frombuffer(b"".join(bodies), np.uint8),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        time_ns=times,
        observed_ns=times[::-1].copy(),
        trace_ids=np.repeat(spans, 2, axis=1),
        span_ids=spans,
        trace_flags=np.full(len(rows), 1, np.uint8),
        shape=np.array([row[1] for row in rows], np.intp),
        shapes=SHAPES,
        table=TABLE,
        extra={number: row[4] for number, row in enumerate(rows) if row[4]},
    )


@given(st.lists(ROW, max_size=30), st.integers(300, 5000), st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_columns_make_the_same_messages(
    rows: list[tuple[str, int, int, bytes, Attributes]], max_bytes: int, max_records: int
) -> None:
    """Whatever the records, each comes out once, as its own message, under its resource, in
    requests within the bounds, and in JSON the same."""
    batch = batch_of(rows)
    wanted: dict[str, list[bytes]] = {"shop": [], "stock": []}
    for row in range(len(batch)):
        service = "stock" if batch.shapes[int(batch.shape[row])].resource else "shop"
        wanted[service].append(slow_message(batch, row).SerializeToString(deterministic=True))
    found: dict[str, list[bytes]] = {"shop": [], "stock": []}
    for request in LogEncoder(max_bytes, max_records).encode(batch):
        data = LogsData.FromString(request.payload)
        records = [r for one in data.resource_logs for s in one.scope_logs for r in s.log_records]
        assert len(records) == request.spans <= max_records
        assert len(request.payload) <= max_bytes or len(records) == 1
        assert LogsJson().translate(request.payload).startswith(b'{"resourceLogs":[{"scopeLogs":')
        for resource in data.resource_logs:
            name = resource.resource.attributes[0].value.string_value
            assert resource.resource in [resource_message(one) for one in TABLE.rows]
            for scope in resource.scope_logs:
                found[name] += [
                    record.SerializeToString(deterministic=True) for record in scope.log_records
                ]
    assert {name: sorted(texts) for name, texts in found.items()} == {
        name: sorted(texts) for name, texts in wanted.items()
    }
