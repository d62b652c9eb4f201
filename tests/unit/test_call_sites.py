"""The stage that makes lines of code of the kernel's numbers, and what spans say of them."""

from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.trace.v1 import trace_pb2

from waggle import callsites, layout
from waggle.callsites import SITES, Site, SiteTable
from waggle.exporter.encoding import OtlpEncoder
from waggle.layout import CodeEventKind, CodeKind, Kept, Role
from waggle.probes.python import call_sites
from waggle.probes.python.call_sites import CallSites
from waggle.spans import Records, decode_span

from .otlp_messages import expected as expected_spans
from .otlp_messages import received
from .records import batch, record

LINES = bytes([0x80 | 13 << 3 | 1, 0, 0x80 | 13 << 3 | 1, 2 << 1, 0x80 | 15 << 3])
"""Two instructions of the first line, two of the second line after, one of none."""
TEXT = 40  # of a str of 3.12


class Ring:
    """A ring that is a list of events."""

    def __init__(self) -> None:
        self.events: list[Records] = []

    def pending(self) -> int:
        return len(self.events)

    def read(self, max_records: int = 100) -> Records:
        events, self.events = self.events, []
        return np.concatenate(events)


class Kernel:
    """What the kernel side shares, and events as it makes them."""

    def __init__(self) -> None:
        self.ring = Ring()
        self.kinds = np.zeros(64, np.uint64)
        self.told = np.zeros(64, np.uint64)
        self.table = SiteTable()
        self.stage = CallSites(self.ring, self.kinds, self.told, self.table)

    def tells_code(self, number: int, file: str, function: str = "f", **fields: Any) -> None:
        event = np.zeros(1, layout.CODE_EVENT)
        values = {
            "id": number,
            "kind": CodeEventKind.OBJECT,
            "text": TEXT,
            "first_line": 10,
            "table_size": len(LINES),
            "length": len(LINES),
            "line_table": LINES,
            **fields,
        }
        for name, text in (("file_name", file), ("function", function)):
            values[name] = str_bytes(text)
            values[name + "_size"] = len(values[name])
        fill(event, values)
        self.ring.events.append(event)

    def tells_site(self, number: int, *frames: tuple[int, int]) -> None:
        event = np.zeros(1, layout.CODE_EVENT)
        fill(event, {"id": number, "kind": CodeEventKind.SITE, "frames": len(frames)})
        for i, (code, offset) in enumerate(frames):
            event["codes"][0, i], event["offsets"][0, i] = code, offset
        self.ring.events.append(event)

    def site_of(self, number: int) -> Site | None:
        """What a call's number comes to."""
        [records] = self.stage.process(call(number))
        end = int(records["target_len"][0]) + int(records["kept_len"][0])
        index = int.from_bytes(records["head"][0, end - 8 : end].tobytes(), "little")
        return self.table.at(index)


def fill(event: Records, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, bytes):
            event[name][0, : len(value)] = np.frombuffer(value, np.uint8)
        else:
            event[name][0] = value


def str_bytes(text: str) -> bytes:
    """A str of 3.12 from its length on."""
    state = 1 << 2 | 1 << 5 | 1 << 6
    return len(text).to_bytes(8, "little") + bytes(8) + state.to_bytes(8, "little") + text.encode()


def call(number: int, role: Role = Role.CLIENT) -> Records:
    kept = {Kept.HOST: b"stock:9000", Kept.CALL_SITE: number.to_bytes(8, "little")}
    return record(b"/stock/7", kept, role=role)


APP, LIB, LOOP = 0x1001, 0x2001, 0x3001
STD = "/usr/lib/python3.12"


@pytest.fixture
def kernel() -> Kernel:
    kernel = Kernel()
    kernel.tells_code(APP, "/srv/shop.py", "checkout")
    kernel.tells_code(LIB, f"{STD}/http/client.py")
    kernel.tells_code(LOOP, f"{STD}/asyncio/events.py", "Handle._run")
    return kernel


def test_a_line_is_found(kernel: Kernel) -> None:
    """The first frame of the application, at the line of its instruction."""
    kernel.tells_site(5, (LIB, 2), (APP, 4), (LOOP, 0))
    assert kernel.site_of(5) == Site("/srv/shop.py", "checkout", 12)
    assert kernel.stage.stats.places == 1


def test_nobody_outside_of_a_loop_called(kernel: Kernel) -> None:
    """What an event loop writes is not the line's that runs the loop."""
    kernel.tells_site(5, (LIB, 2), (LOOP, 0), (APP, 4))
    assert kernel.site_of(5) is None


def test_only_libraries(kernel: Kernel) -> None:
    """Where no frame is the application's there is no line."""
    kernel.tells_site(5, (LIB, 2))
    assert kernel.site_of(5) is None


def test_an_instruction_without_a_line(kernel: Kernel) -> None:
    """File and function are known where the line is not."""
    kernel.tells_site(5, (APP, 8))
    assert kernel.site_of(5) == Site("/srv/shop.py", "checkout", 0)


def test_a_place_in_unknown_code_is_asked_for_again(kernel: Kernel) -> None:
    """Code whose event was lost: no line, and the kernel is to tell the place again."""
    number = 7 << 40 | 5
    kernel.told[7 & 62] = kernel.told[(7 & 62) + 1] = number
    kernel.tells_site(number, (0x9001, 0), (APP, 4))
    assert kernel.site_of(number) is None
    assert not kernel.told.any()
    assert kernel.stage.stats.unresolved == 1


def test_an_unknown_number_is_no_line(kernel: Kernel) -> None:
    """A number that was never told, whose place may be an index of the table: no line."""
    kernel.tells_site(5, (APP, 4))
    assert kernel.site_of(5) is not None
    assert kernel.site_of(1) is None


def test_only_calls_are_touched(kernel: Kernel) -> None:
    """A server's record is left as it is, whatever its last kept field holds."""
    kernel.tells_site(5, (APP, 4))
    before = call(5, Role.SERVER)
    [after] = kernel.stage.process(before.copy())
    assert after.tobytes() == before.tobytes()


def test_many_rows_at_once(kernel: Kernel) -> None:
    """Each row of a batch gets its own line, those without a number none."""
    kernel.tells_site(5, (APP, 0))
    kernel.tells_site(6, (APP, 4))
    plain = record(b"/", {Kept.HOST: b"a-host-that-is-long-enough"}, role=Role.CLIENT)
    rows = [call(5), plain, call(6), call(5), call(7)]
    [records] = kernel.stage.process(np.concatenate(rows))
    ends = records["target_len"].astype(int) + records["kept_len"]
    indexes = [
        int.from_bytes(row[end - 8 : end].tobytes(), "little")
        for row, end in zip(records["head"], ends.tolist(), strict=True)
    ]
    assert [indexes[0], indexes[2], indexes[3], indexes[4]] == [1, 2, 1, 0]
    assert records[1].tobytes() == plain[0].tobytes()


def test_a_line_table_in_pieces(kernel: Kernel) -> None:
    """A long table comes in pieces; until the last one the line is not known."""
    long = LINES[:2] * 504 + LINES[2:]
    first, rest = long[:1008], long[1008:]
    kernel.tells_code(0x41, "/a.py", table_size=len(long), line_table=first, length=1008)
    kernel.tells_code(
        0x41, "/a.py", table_size=len(long), line_table=rest, length=len(rest), offset=1008
    )
    kernel.tells_site(5, (0x41, 4 * 504))
    assert kernel.site_of(5) == Site("/a.py", "f", 12)


def test_a_table_that_never_comes_whole(kernel: Kernel) -> None:
    """File and function of a code object whose table is too long, without a line."""
    kernel.tells_code(0x41, "/a.py", table_size=99_999, line_table=LINES[:2] * 504, length=1008)
    kernel.tells_site(5, (0x41, 4))
    assert kernel.site_of(5) == Site("/a.py", "f", 0)


def test_the_kernel_is_told_whose_code_it_is(kernel: Kernel) -> None:
    """Under its id always; under the short key only what is a library's for good."""
    ids = [n << 40 | 0x51 for n in (2, 4, 6)]
    keys = [n << 40 | 0x50 for n in (8, 10, 12)]
    for number, key, file in zip(
        ids, keys, [f"{STD}/ssl.py", "/srv/app.py", "<string>"], strict=True
    ):
        kernel.tells_code(number, file, kind_key=key)
    kernel.stage.poll()
    said = {int(slot) & ~3: int(slot) & 3 for slot in kernel.kinds if slot}
    kinds = [CodeKind.LIBRARY, CodeKind.APPLICATION, CodeKind.LIBRARY]
    assert [said[number & ~3] for number in ids] == kinds
    assert [said.get(key) for key in keys] == [CodeKind.LIBRARY, None, None]


def test_three_in_two_slots() -> None:
    """Where more fall together than there is room for, the latest are kept, each once."""
    kernel = Kernel()
    for number in (0x101, 0x201, 0x301, 0x301):
        kernel.tells_code(number, "/srv/app.py")
    kernel.stage.poll()
    kept = sorted(int(slot) & ~3 for slot in kernel.kinds if slot)
    assert len(kept) == 2
    assert 0x300 in kept


def test_nothing_grows_without_bound(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the bound everything is forgotten, and the kernel told so; then all goes on."""
    monkeypatch.setattr(call_sites, "MAX_PLACES", 10)
    kernel.told[:] = 1
    for number in range(5, 15):
        kernel.tells_site(number, (APP, 4))
    kernel.stage.poll()
    assert kernel.stage.stats.forgotten == 0
    kernel.tells_code(APP, "/srv/shop.py", "checkout")
    kernel.tells_site(99, (APP, 4))
    assert kernel.site_of(99) == Site("/srv/shop.py", "checkout", 12)
    assert kernel.stage.stats.forgotten == 1
    assert not kernel.told.any()


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places beyond the bound are none, and counted; those before stay true."""
    monkeypatch.setattr(callsites, "MAX_SITES", 2)
    table = SiteTable()
    sites = [Site("/a.py", "f", line) for line in (1, 2, 3)]
    assert [table.add(site) for site in [*sites, *sites]] == [1, 2, 0, 1, 2, 0]
    assert table.refused == 2
    assert [table.at(index) for index in (0, 1, 2, 3)] == [None, *sites[:2], None]


def test_what_a_span_says() -> None:
    """The attributes of the conventions, by either way of encoding."""
    index = SITES.add(Site("/srv/shop.py", "Shop.checkout", 41))
    nowhere = SITES.add(Site("/srv/shop.py", "Shop.checkout", 0))
    rows = [call(index)] * 40 + [call(nowhere)] * 40 + [call(0)] * 40
    spans = batch(rows)
    expected = {
        0: {
            "code.file.path": "/srv/shop.py",
            "code.function.name": "Shop.checkout",
            "code.line.number": 41,
        },
        40: {"code.file.path": "/srv/shop.py", "code.function.name": "Shop.checkout"},
        80: {},
    }
    for row, attributes in expected.items():
        found = decode_span(spans, row).attributes
        assert {k: v for k, v in found.items() if k.startswith("code.")} == attributes
    encoder = OtlpEncoder()
    messages = [trace_pb2.TracesData.FromString(r.payload) for r in encoder.encode(spans)]
    assert received(messages) == expected_spans(spans)
    assert encoder.stats().hits == len(rows)
