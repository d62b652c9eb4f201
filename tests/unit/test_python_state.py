"""Where a running CPython keeps its threads' state: found without knowing the C library."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from waggle.attach import NotYetError, RefusedError
from waggle.elf import Image, Segment, read_image
from waggle.probes.python import make_table
from waggle.probes.python.attach import (
    RUNTIME,
    Interpreter,
    Slot,
    find_copying,
    find_destructor,
    find_interpreter,
    find_offsets,
    find_slot,
    self_description,
    threads,
)
from waggle.probes.python.table import OFFSETS
from waggle.process_memory import Memory

PYTHONS = sorted(
    {
        str(path.resolve())
        for pattern in ("3.[789].*", "3.1?.*")
        for path in Path.home().glob(f".pyenv/versions/{pattern}/bin/python3")
    }
    | {str(Path(sys.executable).resolve())}
)
THREADS = 3
PROGRAM = f"""
import threading, sys
hold = threading.Event()
for _ in range({THREADS}):
    threading.Thread(target=hold.wait, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


INSIDE = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
import sys
inside = "import sys; print('ready', flush=True); sys.stdin.read()"
interpreters.run_string(interpreters.create(), inside)
"""


@contextmanager
def running(python: str, program: str = PROGRAM) -> Iterator[int]:
    """An interpreter with some threads; its process id."""
    with subprocess.Popen(
        [python, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.stdin.close()


@pytest.mark.parametrize("python", PYTHONS)
def test_every_interpreter_of_this_machine(python: str) -> None:
    """The walk finds every thread, and one slot that holds the state of each."""
    with running(python) as tgid:
        interpreter = find_interpreter(tgid)
        with Memory(tgid) as memory:
            offsets = find_offsets(memory, interpreter)
            assert len(list(threads(memory, interpreter, offsets))) == THREADS + 1
            slot = find_slot(memory, interpreter, offsets)
            destructor = find_destructor(memory, interpreter)
    assert slot.offset > 0
    assert slot == Slot(slot.offset)
    assert interpreter.image.file_offset(destructor) is not None


@pytest.mark.parametrize("python", [path for path in PYTHONS if "/3.7." not in path])
def test_a_thread_that_works_for_another_interpreter(python: str) -> None:
    """Its slot is found where the thread has a state for each of two interpreters."""
    with running(python, INSIDE) as tgid:
        interpreter = find_interpreter(tgid)
        with Memory(tgid) as memory:
            offsets = find_offsets(memory, interpreter)
            found = list(threads(memory, interpreter, offsets))
            slot = find_slot(memory, interpreter, offsets)
            held = memory.word(found[0][0] + slot.offset)
    assert len({pointer for pointer, _ in found}) == 1
    assert len(found) == 2
    assert held in {state for _, state in found}


class Words:
    """The memory of a process that is not there: words by address."""

    def __init__(self, words: dict[int, int]) -> None:
        self._words = words

    def words(self, address: int, count: int) -> npt.NDArray[np.uint64]:
        found: list[int] = []
        while address in self._words and len(found) < count:
            found.append(self._words[address])
            address += 8
        return np.array(found, np.uint64)

    def word(self, address: int) -> int | None:
        return self._words.get(address)


def made_up(version: str) -> Interpreter:
    return Interpreter("python", Image((), {RUNTIME: 0x1000}), 0, version)


def description(is_free: int) -> list[int]:
    cookie = int.from_bytes(b"xdebugpy", "little")
    return [cookie, 0x30D00F0, is_free, 4096, 600, 40, 2048, 7264, 24, 32]


def test_what_an_interpreter_says_of_itself() -> None:
    """Of _Py_DebugOffsets is taken where interpreters and threads are; nothing without it."""
    said = self_description(np.array(description(0), np.uint64))
    assert said == {"is_free": 0, "interpreters": 40, "next": 24, "threads": 32}
    assert self_description(np.array([0, *description(0)[1:]], np.uint64)) == {}
    assert self_description(np.array(description(0)[:4], np.uint64)) == {}


def test_what_is_not_supported_is_refused() -> None:
    """A build without a GIL, and a version that nobody has measured."""
    words = {0x1000 + 8 * i: word for i, word in enumerate(description(1))}
    with pytest.raises(RefusedError, match="without a GIL"):
        find_offsets(Words(words), made_up("3.13"))  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match="make python-offsets"):
        find_offsets(Words({}), made_up("3.99"))  # type: ignore[arg-type]


POINTER, STATE = 0x700000, 0x5000
TABLE = {"interpreters": 8, "threads": 8, "thread_id": 16, "next": 0}
ONE_THREAD = {
    0x1008: 0x4000,  # the interpreter
    0x4000: 0,
    0x4008: STATE,
    STATE + 8: 0,
    STATE + 16: POINTER,
    POINTER: POINTER,
}


def around(words: dict[int, int]) -> Words:
    """A thread's own memory, zero but for the words given, and the state of the thread."""
    zeros = {POINTER + 8 * i: 0 for i in range(-512, 300)}
    return Words({**zeros, **ONE_THREAD, **words})


def test_a_state_in_a_variable_of_the_thread() -> None:
    """It is found below the thread's pointer, where one only holds it."""
    memory = around({POINTER - 40: STATE})
    assert find_slot(memory, made_up("3.15"), TABLE) == Slot(-40)  # type: ignore[arg-type]
    memory = around({POINTER - 40: STATE, POINTER - 48: STATE})
    with pytest.raises(NotYetError, match="more than one variable"):
        find_slot(memory, made_up("3.15"), TABLE)  # type: ignore[arg-type]


def test_a_slot_is_better_than_a_variable() -> None:
    """A variable may be empty while a thread waits; the C library's slot is not."""
    memory = around({POINTER - 40: STATE, POINTER + 784: STATE})
    assert find_slot(memory, made_up("3.12"), TABLE) == Slot(784)  # type: ignore[arg-type]


def test_a_mark_for_indirect_branches_is_passed_over(tmp_path: Path) -> None:
    """The instruction that is hooked is the first that does anything."""
    code = tmp_path / "code"
    code.write_bytes(bytes.fromhex("f30f1efa 53 90 90 90  53 90 90 90"))
    for symbol, begins in ((0, 4), (8, 8)):
        image = Image((Segment(0, 0, 12),), {"PyContext_CopyCurrent": symbol})
        assert find_copying(Interpreter(str(code), image, 0, "3.13")) == begins


@pytest.mark.parametrize("python", PYTHONS)
def test_the_table_is_what_interpreters_say(python: str) -> None:
    """Each interpreter at hand measures itself to be as the table has it."""
    version, row = make_table.measure(python)
    assert OFFSETS[version] == row


def test_the_table_is_written_as_it_is_read() -> None:
    """make_table renders Python that gives the same table, oldest version first."""
    names: dict[str, object] = {}
    exec(make_table.render(OFFSETS), names)  # noqa: S102
    assert names["OFFSETS"] == OFFSETS
    versions = [[int(part) for part in version.split(".")] for version, _ in OFFSETS]
    assert versions == sorted(versions)


def test_what_is_no_elf_file() -> None:
    """A text is no image, and no error."""
    assert read_image(__file__, ["main"]) is None


def test_symbols_that_are_not_there() -> None:
    """Of the symbols asked for, those that an image has are told."""
    image = read_image(sys.executable, ["PyContext_CopyCurrent", "no_such_symbol"])
    assert image is not None
    assert "no_such_symbol" not in image.symbols
