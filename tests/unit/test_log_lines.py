"""Writes become records: lines, joined and cut, with the ids of one request or with none."""

import random

import pytest

from unit.log_writes import Write, records_of
from waggle.probes.logs.lines import MAX_CARRIED, OPEN_NS, PARTIAL_NS, Assembler

SOON = 2_000
PYTHON = b"""Traceback (most recent call last):
  File "app.py", line 3, in pay
    charge()
ValueError: no such card

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "app.py", line 5, in pay
    raise Declined("card") from None
shop.Declined: card
"""
JAVA = b"""java.lang.IllegalStateException: no such card
\tat shop.Pay.charge(Pay.java:31)
\tat shop.Pay.main(Pay.java:7)
Caused by: java.io.IOException: reset
\tat shop.Card.read(Card.java:9)
\t... 2 more
"""


def assembled(
    *writes: Write, assembler: Assembler | None = None, now_ns: int = SOON, last: bool = True
) -> list[tuple[bytes, int]]:
    """Text and request of each record."""
    entries = (assembler or Assembler()).add(records_of(writes), now_ns, last=last)
    return [
        (entries.one(row), int.from_bytes(entries.facts["parent_id"][row].tobytes(), "big"))
        for row in range(len(entries))
    ]


def by_lines(text: bytes, request: int) -> list[Write]:
    return [Write(line, request) for line in text.splitlines(keepends=True)]


def test_a_write_is_a_record() -> None:
    """A line that one write brings is one record, with the ids of the write's request."""
    assert assembled(Write(b"one\n", 1), Write(b"two\r\n", 2), Write(b"three", 3)) == [
        (b"one", 1),
        (b"two", 2),
        (b"three", 3),
    ]


def test_a_line_cut_over_writes() -> None:
    """A line that a thread writes in parts is one record, whatever others write meanwhile."""
    writes = [Write(b"one ", 1), Write(b"other\n", 2, tid=8), Write(b"and a half", 1)]
    assert assembled(*writes, Write(b"\n", 1)) == [(b"one and a half", 1), (b"other", 2)]


def test_a_line_of_two_requests() -> None:
    """A line whose parts were written for different requests has the ids of neither."""
    assert assembled(Write(b"one ", 1), Write(b"line\n", 2)) == [(b"one line", 0)]


def test_several_records_in_a_write() -> None:
    """Of a write with several records nobody knows when each was made: they have no ids."""
    assert assembled(Write(b"a\nb\n", 1), Write(b"c\n", 1)) == [(b"a", 0), (b"b", 0), (b"c", 1)]


def test_a_block_that_ends_within_a_line() -> None:
    """Blocks of a buffer cut lines anywhere: whole lines come out, without ids."""
    writes = [Write(b"a\nb\nc", 1), Write(b"c\nd\n", 2)]
    assert assembled(*writes) == [(b"a", 0), (b"b", 0), (b"cc", 0), (b"d", 0)]


def test_a_head_and_what_follows_it_in_its_write() -> None:
    """Lines without a level or a time belong to the line before them that has one, within a
    write."""
    text = b"2024-05-01 12:00:00,123 ERROR shop first\n[SQL: select 1]\n\nmore\n"
    assert assembled(Write(text, 1), Write(b"next\n", 1)) == [(text[:-1], 1), (b"next", 1)]


@pytest.mark.parametrize("text", [PYTHON, JAVA, b"ERROR:root:failed\n" + PYTHON])
def test_a_traceback_is_one_record(text: bytes) -> None:
    """A traceback is one record, written at once."""
    assert assembled(Write(text, 1), Write(b"next\n", 2)) == [(text[:-1], 1), (b"next", 2)]


@pytest.mark.parametrize("text", [PYTHON, JAVA])
def test_a_traceback_written_by_lines(text: bytes) -> None:
    """A traceback is one record, written line by line, and what follows it is none of it."""
    writes = [Write(b"before\n", 1), *by_lines(text, 1), Write(b"behind\n", 1)]
    assert assembled(*writes) == [(b"before", 1), (text[:-1], 1), (b"behind", 1)]


@pytest.mark.parametrize("text", [PYTHON, JAVA])
def test_a_traceback_over_batches(text: bytes) -> None:
    """However a traceback is cut into batches, it is one record and nothing comes twice."""
    writes = [Write(b"before\n", 1), *by_lines(text, 1), Write(b"behind\n", 1)]
    for cut in range(1, len(writes)):
        assembler = Assembler()
        found = assembled(*writes[:cut], assembler=assembler, last=False)
        found += assembled(*writes[cut:], assembler=assembler)
        assert found == [(b"before", 1), (text[:-1], 1), (b"behind", 1)], cut


def test_a_panic_of_go() -> None:
    """What the runtime of Go prints when it gives up is one record, in however many writes."""
    text = (
        b"panic: assignment to entry in nil map\n\ngoroutine 1 [running]:\n"
        b"main.main()\n\t/src/main.go:5 +0x2e\nexit status 2\n"
    )
    writes = [Write(bytes([byte])) for byte in text]
    assert assembled(*writes) == [(text[:-1], 0)]


def test_a_long_write_in_pieces() -> None:
    """A write of several pieces is one record; beyond the bound it is cut and counted."""
    assembler = Assembler(max_line=10_000)
    assert assembled(Write(b"x" * 9_000 + b"\n", 1), assembler=assembler) == [(b"x" * 9_000, 1)]
    assert assembled(Write(b"y" * 12_000 + b"\n", 1), assembler=assembler) == [(b"y" * 10_000, 1)]
    assert (assembler.stats.records, assembler.stats.cut) == (2, 1)


def test_what_the_kernel_did_not_keep() -> None:
    """A write of which the kernel kept only the beginning ends there, cut."""
    assembler = Assembler()
    writes = [Write(b"z" * 100, 1, written=200), Write(b"next\n", 1)]
    assert assembled(*writes, assembler=assembler) == [(b"z" * 100, 1), (b"next", 1)]
    assert (assembler.stats.cut, assembler.stats.broken) == (1, 1)


def test_a_write_that_was_lost() -> None:
    """Where a write is missing nothing is joined over the hole."""
    assert assembled(Write(b"half a", 1), Write(b"line\n", 1, lost=1)) == [
        (b"half a", 1),
        (b"line", 1),
    ]


def test_binary_is_left_out() -> None:
    """What is no text is no record, and is counted."""
    assembler = Assembler()
    writes = [Write(b"\x00\x01\x02\n", 1), Write("größe\x1b[0m\n".encode(), 1)]
    assert assembled(*writes, assembler=assembler) == [("größe\x1b[0m".encode(), 1)]
    assert assembler.stats.binary == 1


def test_empty_lines_are_none() -> None:
    """Lines without a byte make no record."""
    assert assembled(Write(b"\n\na\n\n", 1)) == [(b"a", 1)]


def test_half_a_line_waits() -> None:
    """A line without its end waits for it, for a bounded time and in bounded memory."""
    assembler = Assembler()
    assert assembled(Write(b"half"), assembler=assembler, last=False) == []
    assert assembler.waits()
    assert assembled(assembler=assembler, now_ns=PARTIAL_NS // 2, last=False) == []
    late = SOON + PARTIAL_NS + 1
    assert assembled(assembler=assembler, now_ns=late, last=False) == [(b"half", 0)]
    assert not assembler.waits()
    long = Write(b"l" * (MAX_CARRIED + 1))
    assert len(assembled(long, assembler=assembler, last=False)) == 1


def test_an_open_traceback_waits_shortly() -> None:
    """What might be the first line of a traceback does not wait for long."""
    assembler = Assembler()
    line = b"java.lang.Error: x"
    assert assembled(Write(line + b"\n"), assembler=assembler, last=False) == []
    late = SOON + OPEN_NS + 1
    assert assembled(assembler=assembler, now_ns=late, last=False) == [(line, 0)]


def test_any_cuts_give_the_same_text() -> None:
    """However writes cut a text, and batches the writes, its lines come out once and in order,
    and none has the ids of another request."""
    chance = random.Random(9)  # noqa: S311
    for _ in range(200):
        requests = chance.choices([1, 2], k=30)
        lines = [b"request %d %s\n" % (r, b"x" * chance.randrange(1500)) for r in requests]
        writes = []
        for request, line in zip(requests, lines, strict=True):
            cut = chance.randrange(len(line))
            parts = [line] if chance.random() < 0.5 else [line[:cut], line[cut:]]
            writes += [Write(part, request) for part in parts if part]
        assembler = Assembler()
        middle = chance.randrange(len(writes))
        found = assembled(*writes[:middle], assembler=assembler, last=False)
        found += assembled(*writes[middle:], assembler=assembler)
        assert [text + b"\n" for text, _ in found] == lines
        assert [request for _, request in found] == requests
