"""What a Go program is spared, and when it gets it back."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.probes.go.attach import PROCESSES, GoAttachment

TGID = 4121
ALWAYS, FOR_OTHERS = "go_round_trip", ["go_birth", "go_serve_http"]


@dataclass
class FakeMap:
    rows: dict[bytes, bytes] = field(default_factory=dict)

    def lookup(self, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def delete(self, key: bytes) -> bool:
        return self.rows.pop(key, None) is not None

    def items(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        return np.empty((0, 16), np.uint8), np.empty((0, 24), np.uint8)


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


def attachment(kernel: FakeKernel, *, is_guess: bool = False) -> GoAttachment:
    made = GoAttachment(kernel, TGID, 1, is_guess=is_guess)  # type: ignore[arg-type]
    for program in (ALWAYS, *FOR_OTHERS):
        made.hook(program, "/proc/4121/exe", 0)
    return made


def told(kernel: FakeKernel, **fields: int) -> None:
    row = np.zeros(1, layout.GO)
    row["epoch"] = 1
    for name, value in fields.items():
        row[name] = value
    kernel.map(PROCESSES).rows[TGID.to_bytes(4, "little")] = row.tobytes()


def test_a_program_that_needs_neither_contexts_nor_births_is_spared_them() -> None:
    """After so many requests; what its own calls need stays."""
    kernel = FakeKernel()
    made = attachment(kernel)
    told(kernel, served=19_999)
    assert made.look() is None
    assert sorted(kernel.attached) == sorted([ALWAYS, *FOR_OTHERS])
    told(kernel, served=20_000, unknown=3)
    assert made.look() is None
    assert kernel.attached == [ALWAYS]


def test_what_told_once_whose_a_call_was_stays() -> None:
    """However many requests follow."""
    kernel = FakeKernel()
    made = attachment(kernel)
    told(kernel, served=20_000, used=1)
    made.look()
    assert sorted(kernel.attached) == sorted([ALWAYS, *FOR_OTHERS])


def test_it_comes_back_when_somebody_unknown_calls() -> None:
    """And is not taken away again."""
    kernel = FakeKernel()
    made = attachment(kernel)
    for unknown in (3, 3, 4, 4):
        told(kernel, served=20_000, unknown=unknown)
        made.look()
    assert sorted(kernel.attached) == sorted([ALWAYS, *FOR_OTHERS])


def test_a_guess_that_disagrees_is_given_up() -> None:
    """With the reason; where the layout is known a disagreement ends nothing."""
    kernel = FakeKernel()
    told(kernel, disagrees=1)
    assert attachment(kernel).look() is None
    reason = attachment(kernel, is_guess=True).look()
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
