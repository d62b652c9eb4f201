"""What a function that a router chose is called."""

import pytest

from waggle.probes.go import handlers
from waggle.probes.go.binary import NoGoProgramError
from waggle.probes.go.handlers import Handlers

BIAS = 0x55AA00000000
NAMES = {
    0x1000: "main.(*shop).items-fm",  # a method that is used as a function
    0x2000: "net/http.StripPrefix.func1",  # wraps what nobody sees
    0x3000: "",  # no function begins there
}


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The addresses that were looked up in the file, in their order."""
    asked: list[int] = []

    def name_at(path: str, address: int) -> str:
        asked.append(address)
        if path != "/proc/7/exe":
            raise NoGoProgramError("it has ended")
        return NAMES[address]

    monkeypatch.setattr(handlers, "name_at", name_at)
    return asked


def number(epoch: int, address: int) -> int:
    return epoch << 48 | (BIAS + address)


def test_a_handler_is_called_as_in_the_source(known: list[int]) -> None:
    """Methods without what the linker adds; what only wraps others has no name. Read once."""
    mine = Handlers()
    mine.add(1, "/proc/7/exe", BIAS)
    for _ in range(2):
        assert mine.name(number(1, 0x1000)) == "main.(*shop).items"
        assert mine.name(number(1, 0x2000)) == mine.name(number(1, 0x3000)) == ""
    assert known == [0x1000, 0x2000, 0x3000]


def test_a_program_that_is_not_known_has_no_names(known: list[int]) -> None:
    """Whatever it has at the address of another's function; nor has one that has ended."""
    mine = Handlers()
    mine.add(1, "/proc/7/exe", BIAS)
    mine.add(2, "/proc/8/exe", BIAS)
    assert mine.name(number(3, 0x1000)) == mine.name(number(2, 0x1000)) == ""
    assert known == [0x1000]
