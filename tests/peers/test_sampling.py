"""Sampling, the whole way: real services, the agent, and what the real Collector got, exactly."""

import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from waggle.sampling import threshold_of
from waggle.spans import THRESHOLD_MASK

from .agent import Ended, started_agent
from .collector import Collector, started_collector
from .harness import Server, ensure_built
from .test_end_to_end import PLACES, Arrived, Chain, arrived_at, chained, started_chain, values_of

HALF, QUARTER = threshold_of(0.5), threshold_of(0.25)
_UNSAMPLED = re.compile(r"^  unsampled  ([\d,]+) spans? \(([^)]*)\)", re.MULTILINE)


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_built()


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with started_chain() as started:
        yield started


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    with started_collector(tmp_path) as started:
        yield started


@contextmanager
def sampling(
    servers: list[Server], collector: Collector, *flags: str, **environment: str
) -> Iterator[Callable[[], Ended]]:
    """An agent that samples so; gives what ends it."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint, **environment}
    pids = [server.pid for server in servers]
    with started_agent(*flags, pids=pids, env=env, json_lines=False) as agent:
        yield agent.stop


def servers_of(chain: Chain) -> list[Server]:
    return [chain.front, chain.middle, chain.back]


def ask(server: Server, path: str, headers: Mapping[str, str] | None = None) -> int:
    """One request of a client that nobody traces; the status."""
    connection = server.connection()
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def call(chain: Chain, number: int, leaf: str = "/n/{}", **headers: str) -> None:
    """A request through all three services, its number in every path."""
    url = f"{chain.back.base_url}{leaf.format(number)}".replace("?", "%3F").replace("=", "%3D")
    ask(chain.front, f"/call/{number}?url={url}", headers)


def traceparent(trace_id: bytes, sampled: bool) -> str:
    return f"00-{trace_id.hex()}-{'cd' * 8}-0{int(sampled)}"


def random_of(trace_id: bytes) -> int:
    return int.from_bytes(trace_id, "big") & THRESHOLD_MASK


def by_number(arrived: list[Arrived]) -> dict[int, list[Arrived]]:
    found: dict[int, list[Arrived]] = {}
    for one in arrived:
        found.setdefault(one.number, []).append(one)
    return found


def is_whole(spans: list[Arrived], *, remote: bool = False) -> bool:
    """One span of each place, in one trace, in one line."""
    roots = [one.span for one in spans]
    if remote:  # the first one's parent is nobody's that we know
        roots = [Span.FromString(span.SerializeToString()) for span in roots]
        for span in roots:
            if span.parent_span_id == b"\xcd" * 8:
                span.parent_span_id = b""
    places = sorted(one.place for one in spans) == sorted(PLACES)
    return places and len({span.trace_id for span in roots}) == 1 and chained(roots)


def unsampled(ended: Ended) -> tuple[int, str]:
    """What the summary says was left out, and why."""
    found = _UNSAMPLED.search(ended.stderr)
    assert found, ended.stderr
    return int(found[1].replace(",", "")), found[2]


def test_half_of_the_traces_arrive_and_each_of_them_whole(
    chain: Chain, collector: Collector
) -> None:
    """Decided at nginx, handed on to Flask and Go: a trace is there with all of its spans, each
    of which says ot=th:8 and the sampled flag, or with none; the summary counts the others."""
    environment = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}
    environment["OTEL_TRACES_SAMPLER_ARG"] = "0.5"
    with sampling(servers_of(chain), collector, **environment) as stop:
        for number in range(1, 201):
            call(chain, number)
        ended = stop()
    arrived = arrived_at(collector)
    assert (ended.code, ended.lost) == (0, [])
    traces = by_number(arrived)
    assert 55 < len(traces) < 145
    for spans in traces.values():
        assert is_whole(spans)
        for one in spans:
            assert random_of(one.span.trace_id) >= HALF
            assert one.span.trace_state == "ot=th:8"
            assert one.span.flags & 0x3 == 0x3
    left_out = len(PLACES) * (200 - len(traces))
    assert unsampled(ended) == (left_out, f"sampler {left_out}")


def test_rules_by_path_and_service(chain: Chain, collector: Collector) -> None:
    """No trace of what a rule says no to; all of the others. A rule for a service is for traces
    that begin in it: what nginx began is nginx's, whoever else takes part."""
    rules = ["--sample=service=stock:0", "--sample=service=ngi*,path=/call/1*:0"]
    with sampling(servers_of(chain), collector, *rules) as stop:
        for number in range(1, 41):
            call(chain, number)
        for number in range(101, 111):
            assert ask(chain.back, f"/n/{number}") == 200
        ended = stop()
    traces = by_number(arrived_at(collector))
    assert sorted(traces) == [n for n in range(1, 41) if not str(n).startswith("1")]
    assert all(is_whole(spans) for spans in traces.values())
    left_out = 11 * len(PLACES) + 10
    assert unsampled(ended) == (left_out, f"rule {left_out}")


def test_the_caller_s_decision_is_honoured(chain: Chain, collector: Collector) -> None:
    """parentbased_always_off: exactly those whose traceparent says sampled, with its threshold on
    every span, as the caller's tracestate has it; nothing of the others, nor of new traces."""
    wanted = {}
    environment = {"OTEL_TRACES_SAMPLER": "parentbased_always_off"}
    with sampling(servers_of(chain), collector, **environment) as stop:
        for number in range(1, 91):
            trace_id = secrets.token_bytes(9) + b"\xf0" + secrets.token_bytes(6)
            if number % 3 == 0:
                call(chain, number)
                continue
            sampled = number % 3 == 1
            state = "a=1,ot=th:c" if sampled else "a=1"
            call(chain, number, traceparent=traceparent(trace_id, sampled), tracestate=state)
            if sampled:
                wanted[number] = trace_id
        ended = stop()
    traces = by_number(arrived_at(collector))
    assert sorted(traces) == sorted(wanted)
    for number, spans in traces.items():
        assert is_whole(spans, remote=True)
        for one in spans:
            assert one.span.trace_id == wanted[number]
            assert "ot=th:c" in one.span.trace_state.split(",")
            assert one.span.trace_state.count("ot=") == 1
            assert one.span.flags & 1
    total, why = unsampled(ended)
    assert (total, why) == (60 * len(PLACES), "parent 150, sampler 150")


def test_two_services_with_samplers_of_their_own_are_consistent(
    chain: Chain, tmp_path: Path
) -> None:
    """Two agents, each with a ratio of its own for one of two services that pass a traceparent on:
    both keep exactly what the last 56 bits of the ids say, so that whatever the one with the
    smaller ratio has, the other has too; each span says the threshold of its own agent."""
    ids = {number: secrets.token_bytes(16) for number in range(1, 101)}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ratio = {"OTEL_TRACES_SAMPLER": "traceidratio"}
    with (
        started_collector(tmp_path / "a") as first,
        started_collector(tmp_path / "b") as second,
        sampling([chain.front], first, **ratio, OTEL_TRACES_SAMPLER_ARG="0.5") as stop_first,
        sampling([chain.middle], second, **ratio, OTEL_TRACES_SAMPLER_ARG="0.25") as stop_second,
    ):
        for number, trace_id in ids.items():
            headers = {"traceparent": traceparent(trace_id, sampled=True)}
            ask(chain.front, f"/n/{number}", {**headers, "tracestate": "ot=th:0;x:y,b=2"})
        stop_first()
        stop_second()
        front, middle = arrived_at(first), arrived_at(second)
    for arrived, threshold, text, each in ((front, HALF, "8", 2), (middle, QUARTER, "c", 1)):
        wanted = {n for n, trace_id in ids.items() if random_of(trace_id) >= threshold}
        assert wanted
        traces = by_number(arrived)
        assert traces.keys() == wanted
        for spans in traces.values():
            assert len(spans) == each
            for one in spans:
                assert f"ot=th:{text}" in one.span.trace_state.replace(";", ",").split(",")
    kept_by_both = {one.span.trace_id for one in front}
    assert {one.span.trace_id for one in middle} <= kept_by_both


def test_the_tail_keeps_what_failed_or_was_slow(chain: Chain, collector: Collector) -> None:
    """Nothing is sampled, and yet there is exactly every trace with an error or a slow span, whole
    and with the reason on each span; nobody claims a probability for it."""
    flags = ["--sample=0", "--tail=error,slow=400ms"]
    failed, slow = set(range(10, 61, 10)), set(range(5, 61, 10))
    with sampling(servers_of(chain), collector, *flags) as stop:
        for number in range(1, 61):
            leaf = "/status/503/{}" if number in failed else "/n/{}"
            call(chain, number, "/slow/{}?ms=500" if number in slow else leaf)
        ended = stop()
    traces = by_number(arrived_at(collector))
    assert sorted(traces) == sorted(failed | slow)
    for number, spans in traces.items():
        assert is_whole(spans)
        for one in spans:
            attributes = values_of(one.span.attributes)
            reason = "error" if number in failed else "slow"
            assert attributes["waggle.sampling.tail"] == reason
            assert one.span.trace_state == ""
            assert not one.span.flags & 1
    assert (ended.code, ended.lost) == (0, [])
    assert "60 of them kept by the tail (error 30, slow 30)" in ended.stderr


def test_a_limit_of_traces_a_second(chain: Chain, collector: Collector) -> None:
    """Once it has looked, no more than about so many traces are there for each second, and every
    span of them says by what chance."""
    with sampling([chain.back], collector, "--sample-limit=20") as stop:
        for number in range(1, 4001):
            assert ask(chain.back, f"/n/{number}") == 200
        ended = stop()
    arrived = arrived_at(collector)
    begun = [one.span.start_time_unix_nano for one in arrived]
    lasted_s = (max(begun) - min(begun)) / 1e9
    late = [at for at in begun if at > min(begun) + 2e9]
    assert len(late) < 2.5 * 20 * max(lasted_s - 2, 1)
    assert len(arrived) > 20
    states = {one.span.trace_state for one in arrived}
    assert len(states) > 1, "from everything to less"
    assert all(state.startswith("ot=th:") for state in states)
    # Each span stands for as many as its threshold says: together for all there were.
    stand_for = sum(weight_of(state) for state in (one.span.trace_state for one in arrived))
    assert 0.5 * 4000 < stand_for < 1.7 * 4000
    assert "limit" in unsampled(ended)[1]


def weight_of(state: str) -> float:
    threshold = int(state.removeprefix("ot=th:").ljust(14, "0"), 16)
    return (1 << 56) / ((1 << 56) - threshold)
