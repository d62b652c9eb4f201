"""Whether a trace is recorded: decided in the kernel where it begins, told to whoever follows.

The thresholds are changed while the programs run, as the limit does.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hpack import Encoder
from hyperframe.frame import HeadersFrame

from kernel.capturing import (
    THREADED,
    TRACED,
    Connection,
    Recording,
    Seen,
    capture_fixture,
    connected,
    open_connection,
    recording,
    request,
    response,
)
from kernel.streams import Stream, Talk, talking
from kernel.test_parents import System, read, respond
from waggle.capture import Capture
from waggle.discovery import Decision
from waggle.layout import Counter, Flag, Link, Role
from waggle.layout import Sampling as State
from waggle.procfs import ProcFs
from waggle.sampling import NEVER, Rule, Sampling, threshold_of
from waggle.spans import SAMPLING_SHIFT, THRESHOLD_MASK

HALF = threshold_of(0.5)
RULES = (Rule(0, path=b"/health"), Rule(0, path=b"/exact", exact=True), Rule(0, "never*"))
# What one process of service "never" may be under.
OF_NEVER = Sampling(rules=RULES).rules_for("never")

by_parent = capture_fixture(Sampling(0.5, rules=RULES))
by_itself = capture_fixture(Sampling(0.5, independent=True))
off = capture_fixture()


def set_threshold(capture: Capture, threshold: int) -> None:
    capture.sample_rules["threshold"][0] = threshold


@pytest.fixture(autouse=True)
def half(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test begins, and ends, with a sampler that keeps half."""
    names = [name for name in ("by_parent", "by_itself") if name in request.fixturenames]
    for name in names:
        set_threshold(request.getfixturevalue(name), HALF)
    yield


def random_of(one: Seen) -> int:
    return int.from_bytes(one.span.trace_id, "big") & THRESHOLD_MASK


def state_of(one: Seen) -> int:
    return one.facts.sampling >> SAMPLING_SHIFT & 0xF


def rule_of(one: Seen) -> int:
    return one.facts.sampling >> SAMPLING_SHIFT + 4


def is_kept(one: Seen) -> bool:
    """Flag and trace flags, which must say the same."""
    kept = not one.facts.flags & Flag.UNSAMPLED
    assert bool(one.facts.trace_flags & 1) == kept, str(one)
    return kept


def many(pair: Connection, count: int, target: str = "") -> list[Seen]:
    """So many exchanges, 50 at a time on the connection; the records of both sides."""
    recorded = pair.recorded
    for _ in range(0, count, 50):
        numbers = [recorded.number() for _ in range(50)]
        pair.ask(b"".join(request(n, target=f"{target}/n/{n}" if target else "") for n in numbers))
        pair.answer(response() * 50)
    seen = recorded.wait(2 * count)
    assert len(seen) == 2 * count, str(recorded)
    return seen


def headers(trace_id: bytes, sampled: bool, *fields: str) -> Sequence[str]:
    return (f"traceparent: 00-{trace_id.hex()}-{'cd' * 8}-0{int(sampled)}", *fields)


def one_exchange(recorded: Recording, *fields: str) -> Seen:
    """The server's record of a request whose client nobody traces."""
    server, client = recorded.actor(), recorded.actor(traced=False)
    open_connection(server, client, recorded).exchange(request(1, *fields), response())
    (seen,) = recorded.finish(1)
    return seen


@pytest.mark.parametrize("family", ["ipv4", "unix"])
def test_a_trace_is_kept_by_its_id_on_both_sides(by_parent: Capture, family: str) -> None:
    """Every trace: kept exactly when the last 56 bits of its id reach the threshold, on the
    client's side, where it begins, and by hand-off on the server's; about as many as asked."""
    with connected(by_parent, family) as pair:
        seen = many(pair, 500)
        for one in seen:
            assert is_kept(one) == (random_of(one) >= HALF), str(one)
            known = State.KNOWN if is_kept(one) else 0
            assert state_of(one) == State.HERE | known
            assert one.span.trace_state == ("ot=th:8" if is_kept(one) else "")
            assert one.facts.trace_flags & 2, "the id is random"
        assert not pair.recorded.losses()
        clients = [one for one in seen if one.role == Role.CLIENT]
        kept = sum(map(is_kept, clients))
        assert abs(kept - 250) < 6 * math.sqrt(500 / 4)
        if family == "ipv4":  # a reader that was quicker than the sender's hook began one too
            assert pair.recorded.counted(Counter.TRACES_SAMPLED) == kept
            assert pair.recorded.counted(Counter.TRACES_UNSAMPLED) == 500 - kept


def test_a_threshold_may_change_at_any_time(by_parent: Capture) -> None:
    """None, all, a few: each holds from the next trace on, and each span says which it was."""
    with connected(by_parent) as pair:
        for threshold, text in ((NEVER, None), (0, "ot=th:0"), (threshold_of(0.1), "ot=th:e666")):
            set_threshold(by_parent, threshold)
            pair.recorded.seen.clear()
            states = {one.span.trace_state for one in many(pair, 100) if is_kept(one)}
            assert states == ({text} if text else set())


@pytest.mark.parametrize(
    ("target", "rule"),
    [
        *(("/health", 1), ("/healthz?a=1", 1), ("/health/x", 1), ("/healt", 0), ("/Health", 0)),
        *(("/exact", 2), ("/exact?q", 2), ("/exact/", 0), ("/exactly", 0), ("/a/health", 0)),
    ],
)
def test_rules_of_paths(by_parent: Capture, target: str, rule: int) -> None:
    """The first rule that fits decides; what fits none is the sampler's."""
    set_threshold(by_parent, 0)
    with connected(by_parent) as pair:
        pair.exchange(request(1, target=target), response())
        for one in pair.recorded.wait(2):
            assert is_kept(one) == (rule == 0)
            assert rule_of(one) == rule


def test_rules_of_services(by_parent: Capture) -> None:
    """A rule for a service decides about traces that begin in its processes, and no others."""
    set_threshold(by_parent, 0)
    with recording(by_parent) as recorded:
        server, client = recorded.actor(), recorded.actor()
        facts = ProcFs().facts(client.pid)
        assert facts
        by_parent.decide(Decision(client.pid, facts.start_ns, TRACED, "a test"), OF_NEVER)
        open_connection(server, client, recorded).exchange(request(1), response())
        assert [(is_kept(one), rule_of(one)) for one in recorded.finish(2)] == [(False, 3)] * 2
        by_parent.decide(Decision(client.pid, facts.start_ns, TRACED, "a test"), 0)


@pytest.mark.parametrize("sampled", [True, False])
def test_parent_based_samplers_do_as_the_caller_says(by_parent: Capture, sampled: bool) -> None:
    """Sampled or not, by the header, down to the last service: request, call, request."""
    set_threshold(by_parent, NEVER if sampled else 0)
    trace_id = b"\xee" * 16
    with recording(by_parent, THREADED) as recorded:
        system = System(recorded)
        recorded.trace(system.client.pid, 2)  # excluded
        system.arrive("a")
        read(system, 1, "a", fields=headers(trace_id, sampled, "tracestate: a=1,ot=th:c"))
        system.call(1, "up")
        respond(system, "a")
        seen = recorded.finish(3)
    assert [one.link for one in seen] == [Link.SOCKET, Link.THREAD, Link.TRACEPARENT]
    for one in seen:
        assert one.span.trace_id == trace_id
        assert is_kept(one) == sampled
        assert not state_of(one) & State.HERE
    # Not sampled, and yet the threshold says that it would have been: that is not passed on.
    assert bool(state_of(seen[-1]) & State.EDIT) == (not sampled)
    states = [one.span.trace_state for one in seen[:2]]
    assert states == (["ot=th:c"] * 2 if sampled else [""] * 2)


@pytest.mark.parametrize("passed_on", [True, False])
def test_a_tracestate_that_is_passed_on(by_parent: Capture, passed_on: bool) -> None:
    """A program that copies the headers it got onto its call says the same again: no span has two
    members `ot`; where it says another threshold, that is marked as untrue."""
    mine, theirs = "tracestate: a=1,ot=th:c", "tracestate: ot=th:8"
    fields = headers(b"\xee" * 16, True, mine)
    copied = headers(b"\xee" * 16, True, mine if passed_on else theirs)
    with recording(by_parent, THREADED) as recorded:
        system = System(recorded)
        recorded.trace(system.client.pid, 2)  # excluded
        system.arrive("a")
        read(system, 1, "a", fields=fields)
        system.call(1, "up", fields=copied)
        respond(system, "a")
        seen = recorded.finish(3)
    assert [one.link for one in seen] == [Link.SOCKET, Link.THREAD, Link.TRACEPARENT]
    for one in seen[:2]:
        assert bool(state_of(one) & State.EDIT) == (not passed_on)
        assert one.facts.sampling & THRESHOLD_MASK == 0xC << 52
        if passed_on:
            assert one.span.trace_state == "a=1,ot=th:c"


@pytest.mark.parametrize("threshold", [0, NEVER])
@pytest.mark.parametrize("sampled", [True, False])
def test_independent_samplers_decide_for_themselves(
    by_itself: Capture, sampled: bool, threshold: int
) -> None:
    """always_on and always_off, whatever the caller says."""
    set_threshold(by_itself, threshold)
    with recording(by_itself) as recorded:
        one = one_exchange(recorded, *headers(b"\xab" * 16, sampled))
    assert is_kept(one) == (threshold == 0)
    assert one.link == Link.TRACEPARENT


def test_a_ratio_is_consistent_with_the_caller_s(by_itself: Capture) -> None:
    """Of traces that a caller kept with a greater probability, those that pass here are kept: the
    same that any other participant with this probability keeps."""
    random = np.random.default_rng(1)
    with recording(by_itself) as recorded:
        server, client = recorded.actor(), recorded.actor(traced=False)
        pair = open_connection(server, client, recorded)
        ids = [random.bytes(16) for _ in range(40)]
        for number, trace_id in enumerate(ids):
            fields = headers(trace_id, True, "tracestate: ot=th:0")
            pair.exchange(request(number, *fields), response())
        for one in recorded.finish(40):
            assert is_kept(one) == (random_of(one) >= HALF)
            assert state_of(one) & State.EDIT, "it says th:0"


@pytest.mark.parametrize("kept", [True, False])
def test_explicit_randomness(by_itself: Capture, kept: bool) -> None:
    """Where the tracestate brings a number, that decides and not the trace id."""
    trace_id, number = (bytes(15) + b"\x01", "f" * 14) if kept else (b"\xff" * 16, "0" * 14)
    with recording(by_itself) as recorded:
        one = one_exchange(recorded, *headers(trace_id, True, f"tracestate: ot=rv:{number}"))
    assert is_kept(one) == kept
    assert not state_of(one) & State.KNOWN


def test_calls_follow_their_request(by_itself: Capture) -> None:
    """Independent as it is, a service decides once for a request and all that it calls."""
    with recording(by_itself, THREADED) as recorded:
        system = System(recorded)
        system.arrive("a")
        for number in range(1, 21):
            read(system, number, "a")
            system.call(number, f"up{number}")
            respond(system, "a")
        traces: dict[bytes, list[Seen]] = {}
        for one in recorded.finish(80):
            traces.setdefault(one.span.trace_id, []).append(one)
    assert [len(ones) for ones in traces.values()] == [4] * 20
    for ones in traces.values():
        assert {is_kept(one) for one in ones} == {random_of(ones[0]) >= HALF}


def ask_streams(talk: Talk, blocks: Sequence[bytes]) -> list[Stream]:
    """One stream for each header block, answered at once; the records of both sides."""
    for n, block in enumerate(blocks):
        frame = HeadersFrame(2 * n + 1, block, flags=["END_HEADERS", "END_STREAM"])
        talk.raw("client", frame.serialize())
        talk.server.receive_data(frame.serialize())
        talk.answer(2 * n + 1)
        talk.raw("server", talk.server.data_to_send())
    streams = talk.recorded.streams(2 * len(blocks))
    assert len(streams) == 2 * len(blocks)
    return streams


def fields_of(path: str) -> list[tuple[str, str]]:
    return [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "t")]


def test_streams(by_parent: Capture) -> None:
    """Traces of HTTP/2 begin as any other."""
    with talking(by_parent) as talk:
        encoder = Encoder()
        streams = ask_streams(talk, [encoder.encode(fields_of("/any")) for _ in range(40)])
    flags = set()
    for one in streams:
        kept = not one.row["flags"] & Flag.UNSAMPLED
        number = int(one.ids("trace_id"), 16) & THRESHOLD_MASK
        assert kept == (number >= HALF)
        flags.add(kept)
    assert flags == {True, False}


@pytest.mark.parametrize("coded", [True, False])
@pytest.mark.parametrize("family", ["ipv4", "unix"])
def test_rules_of_paths_on_streams(by_parent: Capture, coded: bool, family: str) -> None:
    """The path decides whether it is told as a string, in the Huffman code or plain, or repeated
    from the table, however many entries have come since."""
    set_threshold(by_parent, 0)
    expected = {"/health": 1, "/healthz?a=1": 1, "/healt": 0, "/exact": 2, "/exact?q": 2}
    expected |= {"/exactly": 0, "/": 0, "/index.html": 0, "/a/health": 0}
    paths = [path for path in expected for _ in range(3)] + list(expected)
    with talking(by_parent, family) as talk:
        encoder = Encoder()
        blocks = [encoder.encode(fields_of(path), huffman=coded) for path in paths]
        repeated = encoder.encode(fields_of("/health"), huffman=coded)
        assert b"health" not in repeated, "only indexes"
        assert len(repeated) < 8
        streams = ask_streams(talk, [*blocks, repeated])
    paths.append("/health")
    for one in streams:
        rule = int(one.row["sampling"]) >> SAMPLING_SHIFT + 4
        path = paths[one.stream // 2]
        assert rule == expected[path], f"{path}: {one}"
        assert bool(one.row["flags"] & Flag.UNSAMPLED) == (rule != 0)


def test_a_path_from_before_is_nobody_s(by_parent: Capture) -> None:
    """Where a stream repeats an entry that nobody saw, no rule of a path is for it: what is not
    known is the sampler's."""
    set_threshold(by_parent, 0)
    with talking(by_parent) as talk:
        encoder = Encoder()
        unseen = encoder.encode(fields_of("/health"))
        assert talk.server.decoder.decode(unseen), "so that its table has the entry"
        block = encoder.encode(fields_of("/health"))
        frame = HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"])
        talk.raw("client", frame.serialize())
        talk.server.receive_data(frame.serialize())
        talk.answer(1)
        talk.raw("server", talk.server.data_to_send())
        talk.recorded.wait_rows(2, 5.0)
        rows = [row for row, _ in talk.recorded.rows]
    assert [int(row["sampling"]) >> SAMPLING_SHIFT + 4 for row in rows] == [0, 0]


def test_without_a_sampler(off: Capture) -> None:
    """Nothing is decided, nothing is said, and the caller's word counts."""
    with connected(off) as pair:
        seen = many(pair, 50)
        assert {(is_kept(one), one.facts.sampling, one.span.trace_state) for one in seen} == {
            (True, 0, "")
        }
        assert pair.recorded.counted(Counter.TRACES_SAMPLED) == 0
    with recording(off) as recorded:
        fields = headers(b"\xab" * 16, False, "tracestate: ot=th:c")
        one = one_exchange(recorded, *fields)
        assert not is_kept(one)
        assert (one.facts.sampling, one.span.trace_state) == (0, "ot=th:c")
