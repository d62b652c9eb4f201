"""Code objects of CPython: line tables, texts, and whose they are.

golden/code_objects.json: code objects of 3.11, 3.12 and 3.13 as those hold them, with what
they say of their own lines.
"""

import itertools
import json
import re
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.layout import CodeKind
from waggle.probes.python.line_table import MalformedError, parse
from waggle.probes.python.owners import is_made_up, judge
from waggle.probes.python.table import OFFSETS
from waggle.probes.python.text import read_str

GOLDEN: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "golden" / "code_objects.json").read_text()
)
CODES = [
    pytest.param(code, id=f"{one['version']}-{code['function']}")
    for one in GOLDEN
    for code in one["codes"]
]


@pytest.mark.parametrize("code", CODES)
def test_lines_of_each_version(code: dict[str, Any]) -> None:
    """Every instruction has the line that its interpreter gives it."""
    table = parse(bytes.fromhex(code["table"]), code["first_line"])
    begin = 0
    for end, line in code["lines"]:
        assert {table.line_at(at) for at in range(begin, end, 2)} == {line}
        begin = end
    assert table.line_at(begin) == 0


def code_objects(module: Path) -> list[CodeType]:
    found = [compile(module.read_text(), str(module), "exec")]
    for code in found:
        found += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    return found


@pytest.mark.parametrize("module", ["test_code_objects", "test_pipeline", "test_http2_frames"])
def test_lines_of_real_modules(module: str) -> None:
    """The same for every function of a module, by the interpreter that runs the tests."""
    for code in code_objects(Path(__file__).with_name(module + ".py")):
        table = parse(code.co_linetable, code.co_firstlineno)
        for begin, end, line in code.co_lines():
            assert {table.line_at(at) for at in range(begin, end, 2)} == {line or 0}


@given(st.binary(max_size=64), st.integers(0, 1 << 31))
def test_no_bytes_are_too_strange(table: bytes, first_line: int) -> None:
    """Whatever the bytes are, they are a table or malformed, and no line is below zero."""
    try:
        lines = parse(table, first_line)
    except MalformedError:
        return
    assert all(lines.line_at(at) >= 0 for at in range(-2, 2100, 2))


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_texts_of_each_version(version: str) -> None:
    """A str is read from its bytes in memory: ASCII, Latin-1, two and four bytes a character."""
    [golden] = [one for one in GOLDEN if one["version"] == version]
    text = OFFSETS[version, False]["text"]
    for row in golden["strings"]:
        assert read_str(bytes.fromhex(row["raw"]), text) == row["text"]


def test_a_text_that_is_cut_is_none() -> None:
    """A str of which bytes are missing is not read in part."""
    [row] = [row for row in GOLDEN[0]["strings"] if row["text"] == "/app/shop.py"]
    raw = bytes.fromhex(row["raw"])
    length = 48 - 16 + len("/app/shop.py")
    assert read_str(raw[:length], 48) == "/app/shop.py"
    assert all(read_str(raw[:size], 48) is None for size in range(length))


SITE = "/srv/venv/lib/python3.11/site-packages"
STD = "/usr/lib/python3.11"


@pytest.mark.parametrize(
    ("file", "function", "kind"),
    [
        ("/srv/shop/app.py", "checkout", CodeKind.APPLICATION),
        ("app.py", "<module>", CodeKind.APPLICATION),
        ("/srv/shop/asyncio/events.py", "Handle._run", CodeKind.APPLICATION),
        ("/srv/bin/tool.py", "main", CodeKind.APPLICATION),
        (f"{SITE}/requests/api.py", "get", CodeKind.LIBRARY),
        ("/usr/lib/python3/dist-packages/requests/api.py", "get", CodeKind.LIBRARY),
        ("/root/.local/lib/python3.13t/http/client.py", "send", CodeKind.LIBRARY),
        (f"{STD}/http/client.py", "HTTPConnection.send", CodeKind.LIBRARY),
        ("/usr/lib/python311.zip/http/client.py", "HTTPConnection.send", CodeKind.LIBRARY),
        ("/srv/venv/bin/gunicorn", "<module>", CodeKind.LIBRARY),
        ("<string>", "<module>", CodeKind.LIBRARY),
        ("<frozen runpy>", "_run_code", CodeKind.LIBRARY),
        ("", "", CodeKind.LIBRARY),
        (f"{STD}/asyncio/selector_events.py", "_SelectorSocketTransport.write", CodeKind.LIBRARY),
        (f"{STD}/asyncio/base_events.py", "BaseEventLoop.sock_connect", CodeKind.LIBRARY),
        (f"{STD}/asyncio/base_events.py", "BaseEventLoop._run_once", CodeKind.LOOP),
        (f"{STD}/asyncio/events.py", "Handle._run", CodeKind.LOOP),
        (f"{STD}/asyncio/runners.py", "Runner.run", CodeKind.LOOP),
        (f"{STD}/concurrent/futures/thread.py", "_WorkItem.run", CodeKind.LOOP),
        (f"{STD}/socketserver.py", "BaseServer.serve_forever", CodeKind.LOOP),
        (f"{SITE}/uvicorn/server.py", "Server.run", CodeKind.LOOP),
        (f"{SITE}/tornado/ioloop.py", "IOLoop.start", CodeKind.LOOP),
        (f"{SITE}/tornado/iostream.py", "IOStream.write", CodeKind.LIBRARY),
        (f"{SITE}/twisted/internet/epollreactor.py", "doPoll", CodeKind.LOOP),
    ],
)
def test_whose_code_it_is(file: str, function: str, kind: CodeKind) -> None:
    """The application's code is what is no library's; loops are known by what they are."""
    assert judge(file, function, runs_loop=False) == kind


def test_who_starts_a_loop_is_one() -> None:
    """Code that names what starts an event loop may be what a loop written in C stands on."""
    assert judge("/srv/shop/main.py", "main", runs_loop=True) == CodeKind.LOOP


def test_what_is_made_up() -> None:
    """Code without a file is compiled as needed, but for what the interpreter brings along."""
    files = ["<string>", "<frozen runpy>", "<interpreter trampoline>", "/srv/app.py"]
    assert list(itertools.compress(files, map(is_made_up, files))) == ["<string>"]


def test_what_is_read_of_a_frame() -> None:
    """The words that bpf/code_walk.h reads of each frame hold what a walk needs of all of them."""
    header = (Path(__file__).parents[2] / "bpf" / "code_walk.h").read_text()
    read = re.search(r"#define FRAME_WORDS_READ (\d+)", header)
    assert read
    needed = ("frame_code", "frame_globals", "frame_locals", "frame_previous")
    rows = [row for row in OFFSETS.values() if "frame" in row]
    assert len(rows) >= 5
    assert max(row[name] for row in rows for name in needed) < 8 * int(read[1])
