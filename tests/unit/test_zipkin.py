"""Spans as Zipkin wants them, by OpenTelemetry's mapping."""

import json
from typing import Any

import pytest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status, TracesData

from unit.otlp_receivers import HttpAnswer, http_receiver
from unit.records import batch, record
from waggle.errors import UsageError
from waggle.exporter.encoding import OtlpEncoder
from waggle.exporter.otlp_settings import zipkin_settings
from waggle.exporter.zipkin import ZipkinExporter, zipkin_json
from waggle.layout import Role

Attributes = dict[str, Any]


def value_of(value: Any) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(array_value=ArrayValue(values=[value_of(item) for item in value]))


def translated(
    attributes: Attributes | None = None, resource: Attributes | None = None, **fields: Any
) -> dict[str, Any]:
    """One span through the translation."""
    message = TracesData()
    frame = message.resource_spans.add()
    for key, value in (resource or {}).items():
        frame.resource.attributes.add(key=key, value=value_of(value))
    scope = frame.scope_spans.add()
    scope.scope.name = "waggle"
    given: dict[str, Any] = {
        "trace_id": bytes(range(16)),
        "span_id": bytes(range(8)),
        "name": "GET",
        "start_time_unix_nano": 1_000_000_000,
        "end_time_unix_nano": 1_000_005_999,
    }
    span = scope.spans.add(**(given | fields))
    for key, value in (attributes or {}).items():
        span.attributes.add(key=key, value=value_of(value))
    (made,) = json.loads(zipkin_json(message.SerializeToString()))
    assert isinstance(made, dict)
    return made


def test_ids_times_and_service() -> None:
    """Ids are hex, times whole microseconds, and the service is the local endpoint."""
    made = translated(
        resource={"service.name": "shop", "service.namespace": "eu"},
        parent_span_id=bytes(range(8, 16)),
    )
    assert made["traceId"] == bytes(range(16)).hex()
    assert (made["id"], made["parentId"]) == ("0001020304050607", "08090a0b0c0d0e0f")
    assert (made["timestamp"], made["duration"]) == (1_000_000, 5)
    assert made["localEndpoint"] == {"serviceName": "shop"}
    assert made["tags"] == {"service.namespace": "eu", "otel.scope.name": "waggle"}


def test_what_is_empty_is_left_out() -> None:
    """No parent, no events, no kind: no fields. A service without a name has the default one."""
    made = translated()
    assert {"parentId", "annotations", "kind", "remoteEndpoint"} & made.keys() == set()
    assert made["localEndpoint"] == {"serviceName": "unknown_service"}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Span.SPAN_KIND_SERVER, "SERVER"),
        (Span.SPAN_KIND_CLIENT, "CLIENT"),
        (Span.SPAN_KIND_PRODUCER, "PRODUCER"),
        (Span.SPAN_KIND_CONSUMER, "CONSUMER"),
        (Span.SPAN_KIND_INTERNAL, None),
        (Span.SPAN_KIND_UNSPECIFIED, None),
    ],
)
def test_kinds(kind: int, expected: str | None) -> None:
    """Four kinds have a name, the others none."""
    assert translated(kind=kind).get("kind") == expected


def test_attributes_are_text() -> None:
    """Numbers, booleans and lists become text as the mapping has it."""
    made = translated({"n": 7, "yes": True, "no": False, "half": 0.5, "list": ["a", 1]})
    tags = made["tags"]
    assert [tags[key] for key in ("n", "yes", "no", "half")] == ["7", "true", "false", "0.5"]
    assert tags["list"] == '["a", 1]'


def test_a_failed_span_has_an_error_tag() -> None:
    """An error has its description as `error`, empty if there is none; other spans have none."""
    failed = translated(status=Status(code=Status.STATUS_CODE_ERROR, message="no"))["tags"]
    silent = translated(status=Status(code=Status.STATUS_CODE_ERROR))["tags"]
    good = translated({"error": False}, status=Status(code=Status.STATUS_CODE_OK))["tags"]
    unset = translated()["tags"]
    assert (failed["otel.status_code"], failed["error"]) == ("ERROR", "no")
    assert (silent["otel.status_code"], silent["error"]) == ("ERROR", "")
    assert good["otel.status_code"] == "OK"
    assert "error" not in good
    assert "otel.status_code" not in unset


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (
            {
                "server.address": "stock",
                "network.peer.address": "10.0.0.2",
                "network.peer.port": 80,
            },
            {"serviceName": "stock", "ipv4": "10.0.0.2", "port": 80},
        ),
        ({"peer.service": "a", "server.address": "b"}, {"serviceName": "a"}),
        ({"network.peer.address": "::1"}, {"ipv6": "::1"}),
        ({"network.peer.address": "/run/socket"}, None),
        ({}, None),
    ],
)
def test_a_call_names_its_other_end(attributes: Attributes, expected: object) -> None:
    """A client's span has a remote endpoint, best name first; a server's has none."""
    assert translated(attributes, kind=Span.SPAN_KIND_CLIENT).get("remoteEndpoint") == expected
    assert "remoteEndpoint" not in translated(attributes, kind=Span.SPAN_KIND_SERVER)


def test_events_and_counts() -> None:
    """Events are annotations with their attributes; what was dropped is a tag."""
    plain = Span.Event(time_unix_nano=2_000_000_500, name="start")
    full = Span.Event(time_unix_nano=3_000_000_000, name="exception")
    full.attributes.add(key="exception.type", value=value_of("OSError"))
    made = translated(
        events=[plain, full],
        dropped_attributes_count=1,
        dropped_events_count=2,
        dropped_links_count=3,
    )
    assert made["annotations"] == [
        {"timestamp": 2_000_000, "value": "start"},
        {"timestamp": 3_000_000, "value": '"exception": {"exception.type": "OSError"}'},
    ]
    counts = {key: value for key, value in made["tags"].items() if "dropped" in key}
    assert list(counts.values()) == ["1", "2", "3"]


def test_what_the_encoder_makes_is_read() -> None:
    """The columnar encoder's requests become one Zipkin span each, with kind and service."""
    exchanges = batch([record(role=role) for role in (Role.SERVER, Role.CLIENT)] * 10)
    (request,) = OtlpEncoder(min_rows=1).encode(exchanges)
    spans = json.loads(zipkin_json(request.payload))
    assert sorted(span["kind"] for span in spans) == ["CLIENT"] * 10 + ["SERVER"] * 10
    assert {span["localEndpoint"]["serviceName"] for span in spans} == {"shop"}
    assert all(span["tags"]["http.request.method"] == "GET" for span in spans)


def test_variables() -> None:
    """OTEL_EXPORTER_ZIPKIN_ENDPOINT is used as it is, _TIMEOUT is in milliseconds."""
    default = zipkin_settings({})
    assert (default.host, default.port, default.path) == ("localhost", 9411, "/api/v2/spans")
    assert default.timeout_s == 10
    given = zipkin_settings(
        {
            "OTEL_EXPORTER_ZIPKIN_ENDPOINT": "https://z.test/mine",
            "OTEL_EXPORTER_ZIPKIN_TIMEOUT": "250",
            "OTEL_BSP_MAX_QUEUE_SIZE": "77",
        }
    )
    assert (given.scheme, given.path, given.timeout_s) == ("https", "/mine", 0.25)
    assert given.queue.max_spans == 77
    with pytest.raises(UsageError, match="OTEL_EXPORTER_ZIPKIN_TIMEOUT=soon"):
        zipkin_settings({"OTEL_EXPORTER_ZIPKIN_TIMEOUT": "soon"})


@pytest.mark.parametrize("path", ["", "/", "/api/v2/spans"])
def test_the_flag_may_leave_the_path_out(path: str) -> None:
    """`--zipkin http://host:9411` posts JSON to Zipkin's own path; 202 means taken."""
    with http_receiver(HttpAnswer(202)) as receiver:
        url = f"http://127.0.0.1:{receiver.port}{path}"
        exporter = ZipkinExporter({}, url, OtlpEncoder(), lambda _: None)
        exporter.export(batch([record()]))
        exporter.close(10)
        (request,) = receiver.requests
    assert (request.path, request.headers["content-type"]) == ("/api/v2/spans", "application/json")
    assert exporter.stats().exported == 1
    assert len(json.loads(request.body)) == 1
