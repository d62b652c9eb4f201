"""Serialized metrics requests turned into OTLP's JSON form.

Metrics go out once in a while, so the library does the work; only where OTLP's JSON differs from
protobuf's own is it mended: ids are in hex, enums are integers.
https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
"""

import base64
import json
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)


def translate(payload: bytes) -> bytes:
    """A serialized ExportMetricsServiceRequest (or MetricsData) as JSON on one line, in ASCII.

    Raises DecodeError for bytes that are no such message.
    """
    request = ExportMetricsServiceRequest.FromString(payload)
    data = json_format.MessageToDict(request, use_integers_for_enums=True)
    for exemplar in _exemplars(data):
        for name in ("traceId", "spanId"):
            if name in exemplar:
                exemplar[name] = base64.b64decode(exemplar[name]).hex()
    return json.dumps(data, separators=(",", ":")).encode("ascii")


def _exemplars(data: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        exemplar
        for resource in data.get("resourceMetrics", ())
        for scope in resource.get("scopeMetrics", ())
        for metric in scope.get("metrics", ())
        for content in metric.values()
        if isinstance(content, dict)
        for point in content.get("dataPoints", ())
        for exemplar in point.get("exemplars", ())
    ]
