"""Probes are attached when it is time, tried again while a program starts, and let go of."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from waggle.attach import PAUSES_S, Attacher, NotYetError, RefusedError, Target
from waggle.errors import WaggleError
from waggle.procfs import ProcessFacts
from waggle.runtimes import CPYTHON, GO, Runtime

START = 5_000_000_000


@dataclass
class Held:
    tgid: int
    complaint: str | None = None
    closed: bool = False
    error: WaggleError | None = None

    def look(self) -> str | None:
        if self.error is not None:
            raise self.error
        return self.complaint

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeProbe:
    """Wants Python; needs `tries` before it can attach."""

    name: str = "fake"
    tries: int = 0
    refusal: str = ""
    held: list[Held] = field(default_factory=list)

    def wants(self, target: Target) -> bool:
        return target.runtime.name == CPYTHON

    def attach(self, target: Target) -> Held:
        if self.refusal:
            raise RefusedError(self.refusal)
        if self.tries:
            self.tries -= 1
            raise NotYetError("still starting")
        self.held.append(Held(target.tgid))
        return self.held[-1]


@dataclass
class Source:
    """/proc of a few processes."""

    runtimes: dict[int, str]

    def process_ids(self) -> list[int]:
        return list(self.runtimes)

    def facts(self, tgid: int) -> ProcessFacts | None:
        return facts_of(tgid) if tgid in self.runtimes else None

    def leader(self, task: int) -> int | None:
        return task

    def listeners(self, ports: Iterable[int]) -> dict[int, set[int]]:
        return {}

    def runtime(self, facts: ProcessFacts) -> Runtime:
        return Runtime(self.runtimes[facts.tgid])

    def package_name(self, facts: ProcessFacts, directory: str) -> str | None:
        return None


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Ordered:
    """Notes when it is asked."""

    name: str
    asked: list[tuple[str, int]]

    def wants(self, target: Target) -> bool:
        self.asked.append((self.name, target.tgid))
        return False

    def attach(self, target: Target) -> Held:
        raise AssertionError


def facts_of(tgid: int, image: bytes = b"first") -> ProcessFacts:
    return ProcessFacts(tgid, START, image=image)


def attacher(probe: FakeProbe, **runtimes: str) -> tuple[Attacher, Clock, list[str]]:
    said: list[str] = []
    clock = Clock()
    source = Source({int(name[1:]): runtime for name, runtime in runtimes.items()})
    return Attacher([probe], source, said.append, clock), clock, said


def test_only_what_a_probe_wants() -> None:
    """Each process is offered, and only wanted ones are attached to."""
    probe = FakeProbe()
    all_, _, _ = attacher(probe, p1=CPYTHON, p2=GO)
    all_.consider(1, START, None)
    all_.consider(2, START, None)
    assert all_.work() is None
    assert [held.tgid for held in probe.held] == [1]
    assert all_.states() == {1: {"fake": "attached"}, 2: {}}


def test_a_program_that_is_starting_is_tried_again() -> None:
    """After a pause that is told, until it works."""
    probe = FakeProbe(tries=2)
    all_, clock, _ = attacher(probe, p1=CPYTHON)
    all_.consider(1, START, facts_of(1))
    assert all_.work() == pytest.approx(PAUSES_S[0])
    assert all_.work() == pytest.approx(PAUSES_S[0])  # not due yet: not tried
    clock.now += PAUSES_S[0]
    assert all_.work() == pytest.approx(PAUSES_S[1])
    clock.now += PAUSES_S[1]
    assert all_.work() is None
    assert len(probe.held) == 1


def test_tries_come_to_an_end() -> None:
    """A program that never comes so far is refused, with the reason, said once."""
    probe = FakeProbe(tries=1000)
    all_, clock, said = attacher(probe, p1=CPYTHON)
    all_.consider(1, START, facts_of(1))
    while (pause := all_.work()) is not None:
        clock.now += pause
    assert probe.tries == 1000 - len(PAUSES_S) - 1
    assert said == ["fake: process 1: still starting"]


def test_a_refusal_is_said_once() -> None:
    """The same reason of many processes is one message."""
    probe = FakeProbe(refusal="not this one")
    all_, _, said = attacher(probe, p1=CPYTHON, p2=CPYTHON)
    all_.consider(1, START, None)
    all_.consider(2, START, None)
    assert all_.work() is None
    assert said == ["fake: process 1: not this one"]
    assert all_.states()[2] == {"fake": "not this one"}


def test_another_program_in_the_same_process() -> None:
    """After an exec it is attached anew; a decision about the same program changes nothing."""
    probe = FakeProbe()
    all_, _, _ = attacher(probe, p1=CPYTHON)
    all_.consider(1, START, facts_of(1))
    all_.work()
    all_.consider(1, START, facts_of(1))
    all_.work()
    assert len(probe.held) == 1
    all_.consider(1, START, facts_of(1, image=b"second"))
    all_.work()
    assert [held.closed for held in probe.held] == [True, False]


def test_the_end_of_a_process() -> None:
    """What was held is closed, and nothing of it is left."""
    probe = FakeProbe()
    all_, _, _ = attacher(probe, p1=CPYTHON)
    all_.consider(1, START, None)
    all_.work()
    all_.forget(1)
    assert probe.held[0].closed
    assert all_.states() == {}


def test_what_goes_wrong_later_is_given_up() -> None:
    """An attachment that complains is closed, and the reason is said."""
    probe = FakeProbe()
    all_, clock, said = attacher(probe, p1=CPYTHON)
    all_.consider(1, START, None)
    all_.work()
    probe.held[0].complaint = "too much"
    clock.now += 10
    all_.work()
    assert probe.held[0].closed
    assert said == ["fake: process 1: too much"]


def test_what_fails_later_is_given_up() -> None:
    """A look that fails gives its own attachment up, with the reason; one whose process has ended
    is left for the end of that."""
    probe = FakeProbe()
    all_, clock, said = attacher(probe, p1=CPYTHON, p2=CPYTHON)
    for tgid in (1, 2):
        all_.consider(tgid, START, None)
    all_.work()
    probe.held[0].error = probe.held[1].error = WaggleError("no room")
    source = all_._source
    assert isinstance(source, Source)
    del source.runtimes[2]
    clock.now += 10
    all_.work()
    assert [held.closed for held in probe.held] == [True, False]
    assert said == ["fake: process 1: no room"]


def test_the_first_probe_comes_first() -> None:
    """In every process that is new, before any other probe is asked about any of them."""
    asked: list[tuple[str, int]] = []
    probes = [Ordered("first", asked), Ordered("second", asked)]
    all_ = Attacher(probes, Source({1: CPYTHON, 2: GO}))
    for tgid in (1, 2):
        all_.consider(tgid, START, None)
    all_.work()
    assert asked == [("first", 1), ("first", 2), ("second", 1), ("second", 2)]
