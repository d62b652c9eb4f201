"""Serialized trace requests turned into OTLP's JSON form.

The columnar encoder makes protobuf bytes only; who wants JSON (http/json, files) has those bytes
translated, on the sender's thread. OTLP's JSON differs from protobuf's own: ids are in hex, enums
are integers, 64-bit integers are strings.
https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding

Of a span only the fields every span has are read from the wire here; attributes, which repeat from
span to span, are parsed by the library once and remembered by their bytes. On 5,000 spans of one
shape that takes a quarter of the time of walking message objects.
"""

import base64
import json
import math
from collections.abc import Callable, Iterable, Iterator
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

Json = dict[str, Any]

_MOST_REMEMBERED = 4096  # fragments, of some 100 bytes each
_VARINT, _BYTES = 0, 2
_FIXED_SIZES = {1: 8, 5: 4}  # bytes, by kind of field
_VARINT_LIMIT = 10  # bytes
_STRING_VALUE = b"\x0a"  # the tag of AnyValue's first field


class _RequestJson:
    """Translates requests one after the other; not for use by two threads at once.

    Spans are written before their resource: the Collector's file readers tell files from each
    other by their first 1,000 bytes, and resources are longer and the same in every file.
    """

    _resources_name, _scopes_name, _items_name = "", "", ""

    def __init__(self) -> None:
        self._pairs = _Memory(_key_value_text)
        self._resources = _Memory(_resource_text)
        self._scopes = _Memory(_scope_text)

    def translate(self, payload: bytes) -> bytes:
        """A serialized request (or the same as *Data) as JSON on one line, in ASCII.

        ASCII because some readers of lines take U+2028 and its like for an end. Raises
        DecodeError for bytes that are no such message.
        """
        frames = [
            self._resource(value)
            for number, value in wire_fields(payload)
            if number == 1 and isinstance(value, bytes)
        ]
        return f'{{"{self._resources_name}":[{",".join(frames)}]}}'.encode("ascii")

    def _resource(self, data: bytes) -> str:
        resource, scopes, url = "", [], ""
        for number, value in wire_fields(data):
            if not isinstance(value, bytes):
                continue
            if number == 1:
                resource = f',"resource":{self._resources[value]}'
            elif number == 2:
                scopes.append(self._scope(value))
            elif number == 3:
                url = _schema_url(value)
        return f'{{"{self._scopes_name}":[{",".join(scopes)}]{resource}{url}}}'

    def _scope(self, data: bytes) -> str:
        scope, items, url = "", [], ""
        for number, value in wire_fields(data):
            if not isinstance(value, bytes):
                continue
            if number == 1:
                scope = f',"scope":{self._scopes[value]}'
            elif number == 2:
                items.append(self._item(value))
            elif number == 3:
                url = _schema_url(value)
        return f'{{"{self._items_name}":[{",".join(items)}]{scope}{url}}}'

    def _item(self, data: bytes) -> str:
        raise NotImplementedError


class TracesJson(_RequestJson):
    """Trace requests."""

    _resources_name, _scopes_name, _items_name = "resourceSpans", "scopeSpans", "spans"

    def _item(self, data: bytes) -> str:
        parts: list[str] = []
        pairs: list[str] = []
        lists: dict[str, list[str]] = {"attributes": pairs}
        for number, value in wire_fields(data):
            if number == 9 and isinstance(value, bytes):
                pairs.append(self._pairs[value])
            elif write := _SPAN_FIELDS.get(number):
                parts.append(write(value))
            elif number in _SPAN_LISTS and isinstance(value, bytes):
                name, read = _SPAN_LISTS[number]
                lists.setdefault(name, []).append(read(value))
        parts += [f'"{name}":[{",".join(members)}]' for name, members in lists.items() if members]
        return f"{{{','.join(parts)}}}"


class LogsJson(_RequestJson):
    """Log requests."""

    _resources_name, _scopes_name, _items_name = "resourceLogs", "scopeLogs", "logRecords"

    def _item(self, data: bytes) -> str:
        parts: list[str] = []
        pairs: list[str] = []
        for number, value in wire_fields(data):
            if number == 6 and isinstance(value, bytes):
                pairs.append(self._pairs[value])
            elif write := _LOG_FIELDS.get(number):
                parts.append(write(value))
        if pairs:
            parts.append(f'"attributes":[{",".join(pairs)}]')
        return f"{{{','.join(parts)}}}"


class _Memory(dict[bytes, str]):
    """Translated messages by their bytes, bounded: when it is full it begins anew."""

    def __init__(self, translate: Callable[[bytes], str]) -> None:
        super().__init__()
        self._translate = translate

    def __missing__(self, data: bytes) -> str:
        if len(self) >= _MOST_REMEMBERED:
            self.clear()
        text = self[data] = self._translate(data)
        return text


def wire_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a serialized message: bytes, or an unsigned number.

    Raises DecodeError where the bytes are no message.
    """
    at, size = 0, len(data)
    try:
        while at < size:
            # Most numbers have one byte: a call for each would take as long as all the rest.
            tag, at = (data[at], at + 1) if data[at] < 0x80 else _varint(data, at)
            kind = tag & 7
            if kind == _BYTES:
                length, at = (data[at], at + 1) if data[at] < 0x80 else _varint(data, at)
                end = at + length
                if end > size:
                    raise DecodeError("a message that is cut short")
                yield tag >> 3, data[at:end]
                at = end
            elif kind == _VARINT:
                number, at = (data[at], at + 1) if data[at] < 0x80 else _varint(data, at)
                yield tag >> 3, number
            else:
                end = at + _FIXED_SIZES[kind]
                if end > size:
                    raise DecodeError("a message that is cut short")
                yield tag >> 3, int.from_bytes(data[at:end], "little")
                at = end
    except IndexError:
        raise DecodeError("a message that is cut short") from None
    except KeyError as error:
        raise DecodeError(f"a field of the unknown kind {error}") from None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, padded or not, and where it ends."""
    number = 0
    for shift, byte in enumerate(data[at : at + _VARINT_LIMIT]):
        number |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return number, at + shift + 1
    raise DecodeError("a number that does not end")


def _hex(name: str) -> Callable[[Any], str]:
    return lambda value: f'"{name}":"{value.hex()}"'


def _text(name: str) -> Callable[[Any], str]:
    return lambda value: f'"{name}":{quoted(value.decode("utf-8", "replace"))}'


def _number(name: str) -> Callable[[Any], str]:
    return lambda value: f'"{name}":{value}'


def _long(name: str) -> Callable[[Any], str]:
    return lambda value: f'"{name}":"{value}"'


def _body(data: bytes) -> str:
    """An AnyValue that is nothing but a text, as nearly all bodies are; or any other."""
    if data[:1] == _STRING_VALUE:
        length, at = _varint(data, 1)
        if at + length == len(data):
            return f'{{"stringValue":{quoted(data[at:].decode("utf-8", "replace"))}}}'
    return _dumped(any_value(common_pb2.AnyValue.FromString(data)))


def _status_text(data: bytes) -> str:
    status = trace_pb2.Status.FromString(data)
    return f'"status":{_dumped(_present(message=status.message, code=status.code))}'


# By their numbers in opentelemetry/proto/trace/v1/trace.proto.
_SPAN_FIELDS: dict[int, Callable[[Any], str]] = {
    1: _hex("traceId"),
    2: _hex("spanId"),
    3: _text("traceState"),
    4: _hex("parentSpanId"),
    5: _text("name"),
    6: _number("kind"),
    7: _long("startTimeUnixNano"),
    8: _long("endTimeUnixNano"),
    10: _number("droppedAttributesCount"),
    12: _number("droppedEventsCount"),
    14: _number("droppedLinksCount"),
    15: _status_text,
    16: _number("flags"),
}
# By their numbers in opentelemetry/proto/logs/v1/logs.proto.
_LOG_FIELDS: dict[int, Callable[[Any], str]] = {
    1: _long("timeUnixNano"),
    2: _number("severityNumber"),
    3: _text("severityText"),
    5: lambda data: f'"body":{_body(data)}',
    7: _number("droppedAttributesCount"),
    8: _number("flags"),
    9: _hex("traceId"),
    10: _hex("spanId"),
    11: _long("observedTimeUnixNano"),
    12: _text("eventName"),
}
_SPAN_LISTS: dict[int, tuple[str, Callable[[bytes], str]]] = {
    11: ("events", lambda data: _dumped(_event(trace_pb2.Span.Event.FromString(data)))),
    13: ("links", lambda data: _dumped(_link(trace_pb2.Span.Link.FromString(data)))),
}


def _schema_url(url: bytes) -> str:
    return f',"schemaUrl":{quoted(url.decode("utf-8", "replace"))}'


def _key_value_text(data: bytes) -> str:
    return _dumped(_key_value(common_pb2.KeyValue.FromString(data)))


def _resource_text(data: bytes) -> str:
    resource = resource_pb2.Resource.FromString(data)
    return _dumped(
        _present(
            attributes=_key_values(resource.attributes),
            droppedAttributesCount=resource.dropped_attributes_count,
        )
    )


def _scope_text(data: bytes) -> str:
    scope = common_pb2.InstrumentationScope.FromString(data)
    return _dumped(
        _present(
            name=scope.name,
            version=scope.version,
            attributes=_key_values(scope.attributes),
            droppedAttributesCount=scope.dropped_attributes_count,
        )
    )


def _dumped(value: Json) -> str:
    return json.dumps(value, separators=(",", ":"))


def _event(event: trace_pb2.Span.Event) -> Json:
    return _present(
        timeUnixNano=str(event.time_unix_nano),
        name=event.name,
        attributes=_key_values(event.attributes),
        droppedAttributesCount=event.dropped_attributes_count,
    )


def _link(link: trace_pb2.Span.Link) -> Json:
    return _present(
        traceId=link.trace_id.hex(),
        spanId=link.span_id.hex(),
        traceState=link.trace_state,
        attributes=_key_values(link.attributes),
        droppedAttributesCount=link.dropped_attributes_count,
        flags=link.flags,
    )


def _present(**fields: Any) -> Json:
    """The fields that are not their type's default, which protobuf's JSON leaves out."""
    return {name: value for name, value in fields.items() if value}


def _key_values(pairs: Iterable[common_pb2.KeyValue]) -> list[Json]:
    return [_key_value(pair) for pair in pairs]


def _key_value(pair: common_pb2.KeyValue) -> Json:
    return {"key": pair.key, "value": any_value(pair.value)}


def any_value(value: common_pb2.AnyValue) -> Json:
    """An AnyValue in JSON: {} for one that holds nothing."""
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return {"stringValue": value.string_value}
    if kind == "int_value":
        return {"intValue": str(value.int_value)}
    return _rare_value(kind, value)


def _rare_value(kind: str | None, value: common_pb2.AnyValue) -> Json:
    if kind == "bool_value":
        return {"boolValue": value.bool_value}
    if kind == "double_value":
        return {"doubleValue": _double(value.double_value)}
    if kind == "array_value":
        return {"arrayValue": {"values": [any_value(item) for item in value.array_value.values]}}
    if kind == "kvlist_value":
        return {"kvlistValue": {"values": _key_values(value.kvlist_value.values)}}
    if kind == "bytes_value":
        return {"bytesValue": base64.b64encode(value.bytes_value).decode("ascii")}
    return {}


def _double(value: float) -> float | str:
    """What JSON has no number for is a word."""
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
