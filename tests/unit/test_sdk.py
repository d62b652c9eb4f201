"""Processes that export spans themselves: recognised, told of, and not doubled."""

from collections.abc import Sequence

import numpy as np
import pytest

from unit.records import record
from waggle.layout import Flag, Method, ProcessMode, Role
from waggle.procfs import ProcessFacts
from waggle.sdk import SdkPolicy, SdkStage, exporting, launcher
from waggle.spans import Records

INSTRUMENTED = {"PYTHONPATH": "/v/opentelemetry/instrumentation/auto_instrumentation:/app"}


class Told:
    """What the kernel was told."""

    def __init__(self) -> None:
        self.modes: dict[int, int] = {}

    def add_mode(self, tgid: int, bits: int) -> None:
        self.modes[tgid] = bits


class Next:
    """The stage behind."""

    def __init__(self) -> None:
        self.polled = 0
        self.rows = 0

    def poll(self) -> None:
        self.polled += 1

    def process(self, records: Records) -> Sequence[Records]:
        self.rows += len(records)
        return [records]


def process(environ: dict[str, str], *cmdline: str) -> ProcessFacts:
    return ProcessFacts(41, 0, cmdline=cmdline, environ=environ)


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (process(INSTRUMENTED, "python", "app.py"), "opentelemetry-instrument"),
        (process({}, "java", "-javaagent:/o/opentelemetry-javaagent.jar"), "the Java agent"),
        (
            process({"JAVA_TOOL_OPTIONS": "-javaagent:opentelemetry-javaagent.jar"}),
            "the Java agent",
        ),
        (
            process({}, "node", "--require", "@opentelemetry/auto-instrumentations-node/register"),
            "auto-instrumentations-node",
        ),
        (process({**INSTRUMENTED, "OTEL_TRACES_EXPORTER": "otlp"}), "opentelemetry-instrument"),
        (process({**INSTRUMENTED, "OTEL_TRACES_EXPORTER": "none"}), ""),
        (process({**INSTRUMENTED, "OTEL_SDK_DISABLED": "true"}), ""),
        (process({"OTEL_TRACES_EXPORTER": "otlp"}, "python", "app.py"), ""),
    ],
)
def test_launchers(facts: ProcessFacts, name: str) -> None:
    """What was put into a process shows in how it was started; that it might export does not."""
    assert launcher(facts) == name


def call(target: bytes, tgid: int = 41, **more: object) -> Records:
    columns = {"role": Role.CLIENT, "method": Method.POST, "tgid": tgid, **more}
    return record(target, **columns)  # type: ignore[arg-type]


def test_exporting_shows_on_the_wire() -> None:
    """Who posts to an endpoint for traces, with success, exports; nobody else does."""
    grpc = b"/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    records = np.concatenate(
        [
            call(b"/v1/traces", 1),
            call(b"/otlp/v1/traces", 2),
            call(grpc, 3),
            call(b"/v1/metrics", 4),
            call(b"/v1/traces/more", 5),
            call(b"/v1/traces", 6, status=503),
            call(b"/v1/traces", 7, method=Method.GET),
            call(b"/v1/traces", 8, role=Role.SERVER),
            call(b"/", 9),
        ]
    )
    assert exporting(records) == [1, 2, 3]
    assert exporting(records[:0]) == []


@pytest.mark.parametrize(
    ("use", "bits"),
    [
        ("defer", ProcessMode.SDK | ProcessMode.SDK_SERVER),
        ("both", 0),
        ("ignore", ProcessMode.EXCLUDED),
    ],
)
def test_a_launched_sdk_is_told_of_once(use: str, bits: int) -> None:
    """A process with an SDK is treated as WAGGLE_SDK says from its start, and said aloud once."""
    said: list[str] = []
    told = Told()
    policy = SdkPolicy(use, said.append, told)  # type: ignore[arg-type]
    for _ in range(2):
        assert policy.bits_for(41, process(INSTRUMENTED)) == bits
    assert policy.bits_for(42, process({})) == 0
    policy.exports(41)
    assert len(said) == 1
    assert "41" in said[0]
    assert told.modes == {}


def test_who_is_seen_to_export() -> None:
    """A process that is seen to export is told of once; what it covers of what comes in shows
    later. After its end the number is another process's."""
    said: list[str] = []
    told = Told()
    policy = SdkPolicy("defer", said.append, told)
    stage = SdkStage(policy, Next())
    stage.process(call(b"/v1/traces"))
    stage.process(call(b"/v1/traces"))
    assert told.modes == {41: ProcessMode.SDK}
    assert len(said) == 1
    assert policy.bits_for(41, process({})) == ProcessMode.SDK
    policy.forget(41)
    assert policy.bits_for(41, process({})) == 0


def test_what_an_sdk_covers_is_left_out() -> None:
    """Records of what an SDK makes a span of go no further; all others do."""
    behind = Next()
    stage = SdkStage(SdkPolicy("defer", pytest.fail, Told()), behind)
    covered = call(b"/n/1", flags=Flag.SDK | Flag.HAD_TRACEPARENT)
    kept = stage.process(np.concatenate([covered, call(b"/n/2"), covered]))
    assert sum(map(len, kept)) == 1
    assert stage.process(covered) == []
    assert (stage.left_out, behind.rows) == (3, 1)
    stage.poll()
    assert behind.polled == 1
