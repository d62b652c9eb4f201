"""Where a running CPython keeps its threads' state: found without knowing the C library."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from waggle.elf import read_image
from waggle.probes.python import make_table
from waggle.probes.python.attach import (
    Slot,
    find_destructor,
    find_interpreter,
    find_slot,
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


@contextmanager
def running(python: str) -> Iterator[int]:
    """An interpreter with some threads; its process id."""
    with subprocess.Popen(
        [python, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE
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
        offsets = OFFSETS[interpreter.version, False]
        with Memory(tgid) as memory:
            assert len(list(threads(memory, interpreter, offsets))) == THREADS + 1
            slot = find_slot(memory, interpreter, offsets)
            destructor = find_destructor(memory, interpreter)
    assert slot.offset > 0
    assert slot == Slot(slot.offset)
    assert interpreter.image.file_offset(destructor) is not None


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
