"""What a Go program is spared, and when it gets it back."""

import struct
import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest

from waggle import layout
from waggle.layout import GoLimit, GoVerdict
from waggle.probes.go.attach import FUNCTIONS, POOLS, PROCESSES, GoAttachment, Hook

TGID, EPOCH = 4121, 1
CALL, BIRTH, INTRODUCTION = "go_round_trip", "go_birth", "go_serve_http"
ALL = sorted([CALL, BIRTH, INTRODUCTION])
ROUTE, TIMEOUT = "go_route_servemux", "go_timeout"


@dataclass
class FakeMap:
    rows: dict[bytes, bytes] = field(default_factory=dict)
    key_size: int = layout.GO_FUNCTION_KEY.itemsize
    value_size: int = layout.GO_FUNCTION.itemsize

    def lookup(self, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def delete(self, key: bytes) -> bool:
        return self.rows.pop(key, None) is not None

    def items(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        def joined(several: list[bytes], size: int) -> npt.NDArray[np.uint8]:
            return np.frombuffer(b"".join(several), np.uint8).reshape(len(several), size)

        keys = joined(list(self.rows), self.key_size)
        return keys, joined(list(self.rows.values()), self.value_size)


@dataclass
class FakeKernel:
    """What is attached, by name."""

    maps: dict[str, FakeMap] = field(default_factory=dict)
    attached: list[str] = field(default_factory=list)

    def map(self, name: str) -> FakeMap:
        return self.maps.setdefault(name, FakeMap())

    def attach_in_process(self, program: str, binary: str, *, offset: int, pid: int) -> str:
        self.attached.append(program)
        return program

    def detach(self, link: str) -> None:
        self.attached.remove(link)

    def detach_soon(self, links: Iterable[str]) -> Future[None]:
        for link in links:
            self.detach(link)
        done: Future[None] = Future()
        done.set_result(None)
        return done


def attachment(kernel: FakeKernel, *, is_guess: bool = False) -> GoAttachment:
    hooks = [Hook(program, "/proc/4121/exe", 0) for program in ALL]
    made = GoAttachment(kernel, TGID, EPOCH, hooks, is_guess=is_guess)  # type: ignore[arg-type]
    made.attach()
    return made


def looked(kernel: FakeKernel, made: GoAttachment, **fields: int) -> list[str]:
    """What is attached after a look at such a row."""
    told(kernel, **fields)
    assert made.look() is None
    return sorted(kernel.attached)


def told(kernel: FakeKernel, **fields: int) -> None:
    row = np.zeros(1, layout.GO)
    row["epoch"] = EPOCH
    for name, value in fields.items():
        row[name] = value
    kernel.map(PROCESSES).rows[TGID.to_bytes(4, "little")] = row.tobytes()


def called(kernel: FakeKernel, *, epoch: int = EPOCH, **fields: int) -> None:
    """A function of which a goroutine has called, with nothing known of it."""
    key, row = np.zeros(1, layout.GO_FUNCTION_KEY), np.zeros(1, layout.GO_FUNCTION)
    key["address"], key["epoch"] = 0x401000, epoch
    row["caller"], row["caller_ns"] = 7, time.monotonic_ns()
    for name, value in fields.items():
        row[name] = value
    kernel.map(FUNCTIONS).rows = {key.tobytes(): row.tobytes()}


ENOUGH = int(GoLimit.SERVED)


def test_a_program_that_needs_neither_introductions_nor_births_is_spared_them() -> None:
    """After so many requests; what its own calls need stays."""
    kernel = FakeKernel()
    made = attachment(kernel)
    assert looked(kernel, made) == ALL
    assert looked(kernel, made, served=ENOUGH - 1) == sorted([CALL, BIRTH])
    assert looked(kernel, made, served=ENOUGH) == [CALL]


def test_births_that_told_once_whose_a_call_was_stay() -> None:
    """However many requests follow."""
    kernel = FakeKernel()
    made = attachment(kernel)
    assert BIRTH in looked(kernel, made, served=ENOUGH, used=1)
    assert BIRTH in looked(kernel, made, served=ENOUGH, used=1)


def test_births_come_back_when_somebody_unknown_calls() -> None:
    """And stay for good once they have told."""
    kernel = FakeKernel()
    made = attachment(kernel)
    assert looked(kernel, made, served=ENOUGH, wanted=3) == [CALL]
    assert looked(kernel, made, served=ENOUGH, wanted=3) == [CALL]
    called(kernel)
    assert BIRTH in looked(kernel, made, served=ENOUGH, wanted=4)
    assert BIRTH in looked(kernel, made, served=ENOUGH, wanted=4)
    assert BIRTH in looked(kernel, made, served=ENOUGH, wanted=4, used=1)
    called(kernel, told=1)
    assert BIRTH in looked(kernel, made, served=ENOUGH, wanted=4, used=1)


@pytest.mark.parametrize(
    "fields",
    [
        {"in_vain": int(GoLimit.IN_VAIN)},
        {"verdict": int(GoVerdict.WORKS_ON)},
        {"verdict": int(GoVerdict.PUMP)},
        {"caller_ns": 1},
        {"epoch": EPOCH + 1},
    ],
)
def test_births_go_again_where_they_cannot_tell(fields: dict[str, int]) -> None:
    """A function that called in vain often enough, works for others, calls once in a long while,
    or is another process's."""
    kernel = FakeKernel()
    made = attachment(kernel)
    looked(kernel, made, served=ENOUGH)
    called(kernel)
    assert BIRTH in looked(kernel, made, served=ENOUGH, wanted=1)
    called(kernel, **fields)
    assert looked(kernel, made, served=ENOUGH, wanted=1) == [CALL]


def test_a_guess_keeps_births_until_one_agrees() -> None:
    """They are what verifies a layout."""
    kernel = FakeKernel()
    made = attachment(kernel, is_guess=True)
    assert BIRTH in looked(kernel, made, served=ENOUGH - 1, must_agree=1)
    assert looked(kernel, made, served=ENOUGH, must_agree=1, agrees=1) == [CALL]


def test_introductions_come_back_for_connections_that_nobody_knows() -> None:
    """And go when all are known."""
    kernel = FakeKernel()
    made = attachment(kernel)
    assert INTRODUCTION in looked(kernel, made, served=1, strangers=1)
    assert INTRODUCTION not in looked(kernel, made, served=2, strangers=1)
    assert INTRODUCTION in looked(kernel, made, served=2, strangers=2)
    assert INTRODUCTION not in looked(kernel, made, served=2, strangers=2)


def test_connections_that_nothing_introduces_are_left_alone_in_the_end() -> None:
    """A server of another kind than net/http's reads requests for ever."""
    kernel = FakeKernel()
    made = attachment(kernel)
    states = [INTRODUCTION in looked(kernel, made, served=2, strangers=n) for n in range(1, 99)]
    assert states[0]
    assert not any(states[40:])


def routed(kernel: FakeKernel) -> GoAttachment:
    hooks = [Hook(program, "/proc/4121/exe", 0) for program in (CALL, ROUTE, TIMEOUT)]
    made = GoAttachment(kernel, TGID, EPOCH, hooks, is_guess=False)  # type: ignore[arg-type]
    made.attach()
    return made


def test_routes_that_memory_tells_cost_no_stop() -> None:
    """The mux is left alone when it has told nothing that could not be read."""
    kernel = FakeKernel()
    made = routed(kernel)
    assert ROUTE in looked(kernel, made, served=ENOUGH - 1)
    assert looked(kernel, made, served=ENOUGH) == [CALL, TIMEOUT]
    assert looked(kernel, made, served=ENOUGH, servemux_told=0) == [CALL, TIMEOUT]


def test_a_mux_that_tells_what_memory_does_not_is_kept() -> None:
    """And what told that it is wanted is not asked any more."""
    kernel = FakeKernel()
    made = routed(kernel)
    for _ in range(99):
        assert looked(kernel, made, served=ENOUGH, servemux_told=1) == [CALL, ROUTE]


def test_a_mux_is_asked_again_when_an_answer_has_no_route() -> None:
    """Ever more rarely, where it tells nothing."""
    kernel = FakeKernel()
    made = routed(kernel)
    looked(kernel, made, served=ENOUGH)
    states = [
        ROUTE in looked(kernel, made, served=ENOUGH, unrouted_ns=look) for look in range(1, 4000)
    ]
    assert states[:5].count(True) == 3
    assert 0 < sum(states[2000:]) < 40
    while ROUTE not in looked(kernel, made, served=ENOUGH, unrouted_ns=len(states) + 1):
        states.append(False)
    assert looked(kernel, made, served=ENOUGH, servemux_told=1) == [CALL, ROUTE]


def test_a_guess_that_disagrees_is_given_up() -> None:
    """With the reason; where the layout is known a disagreement ends nothing."""
    kernel = FakeKernel()
    told(kernel, disagrees=1)
    assert attachment(kernel).look() is None
    reason = attachment(kernel, is_guess=True).look()
    assert reason is not None
    assert "make go-offsets" in reason


def test_a_guess_that_nothing_proves_is_given_up() -> None:
    """After so many requests births must have agreed: it is said, not only left without parents."""
    kernel = FakeKernel()
    told(kernel, served=ENOUGH - 1)
    made = attachment(kernel, is_guess=True)
    assert made.look() is None
    told(kernel, served=ENOUGH)
    reason = made.look()
    assert reason is not None
    assert "make go-offsets" in reason


def test_closing_detaches_all() -> None:
    """And forgets the process, if the entry is still ours."""
    kernel = FakeKernel()
    made = attachment(kernel)
    told(kernel)
    made.close()
    assert kernel.attached == []
    assert not kernel.map(PROCESSES).rows


def test_calls_are_named_while_there_are_old_connections() -> None:
    """In a program older than the agent from the beginning, in another once it is asked for; and
    no longer when nobody has called on such a connection for a while."""
    for is_old in (True, False):
        kernel = FakeKernel()
        hooks = [Hook("go_http2_call", "/proc/4121/exe", 0)]
        made = GoAttachment(
            kernel,  # type: ignore[arg-type]
            *(TGID, EPOCH, hooks),
            is_guess=False,
            is_old=is_old,
        )
        made.attach()
        assert kernel.attached == (["go_http2_call"] if is_old else [])
        row = np.zeros(1, layout.GO)
        row["epoch"] = EPOCH
        rows = kernel.map(PROCESSES).rows
        for calls in (1, 2):
            row["old_calls"] = calls
            rows[TGID.to_bytes(4, "little")] = row.tobytes()
            made.look()
            assert kernel.attached == ["go_http2_call"]
            for _ in range(40):
                made.look()
            assert kernel.attached == []


def test_what_was_learned_of_a_program_goes_with_it() -> None:
    """Its functions and its pools of workers, and nobody else's: there is room for the next one."""
    kernel = FakeKernel()
    made = attachment(kernel)
    told(kernel)
    called(kernel)
    mine, others = (struct.pack("<QQII", 0x401000, 0x500000, epoch, 0) for epoch in (EPOCH, 7))
    kernel.maps[POOLS] = FakeMap({mine: bytes(8), others: bytes(8)}, len(mine), 8)
    made.close()
    assert kernel.attached == []
    assert kernel.map(PROCESSES).rows == kernel.map(FUNCTIONS).rows == {}
    assert list(kernel.map(POOLS).rows) == [others]
