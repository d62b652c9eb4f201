"""Attaches to a running Node.js: turns of its loop have ends that no socket shows.

What a socket's read wakes runs at once, so it is part of that turn. Timers, immediates and
what comes back from other threads run later, in nobody's turn. All of that is behind three
functions: node::Environment::CheckImmediate, exported, which libuv calls after each poll,
before immediates; Environment::RunTimers, exported too; and uv__async_io of libuv, which takes
work back from other threads in the midst of a poll. The latter has a name only in the table
of symbols that stripped programs lack. Without it such work goes on in the turn before; the
answers then tell, and the rule ends.

Whose an immediate is shows by its number (bpf/node_turns.h). Where Node.js keeps those is read
from two of its functions: AsyncHooksGetExecutionAsyncId, exported, loads a pointer to them from
the Environment, and CheckImmediate finds the Environment from the handle that libuv gives it.

Until the first of them has run on a thread the kernel believes no turn there, so a Node.js
that cannot be looked into has no parents by this rule. Of the thread that it began with, which
runs its loop, it is enough that they are attached: an idle one reads before it ends a turn.
"""

import mmap
import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from waggle import layout
from waggle.attach import MapEntry, NotYetError, RefusedError, Target
from waggle.elf import Image, read_image
from waggle.libbpf import Link
from waggle.probes.python.attach import Kernel
from waggle.process_memory import file_mappings
from waggle.runtimes import NODEJS

TURN_OVER = "node_turn_over"
ROUND_OVER = "node_round_over"
MACHINES = "node_machines"
AFTER_POLL = "_ZN4node11Environment14CheckImmediateEP10uv_check_s"
TIMERS = "_ZN4node11Environment9RunTimersEP10uv_timer_s"
NUMBER = "_ZN4node29AsyncHooksGetExecutionAsyncIdEPN2v87IsolateE"
FROM_THREADS = b"uv__async_io"

_CODE = 64  # bytes of a function that are looked at
_NUMBER_CODE = 256  # of one that reads a number: V8 is asked first
_MAX_TABLE = 64 << 20


class NodeProbe:
    """Ends of turns, for rule `turn` in Node.js."""

    name = "node"

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def wants(self, target: Target) -> bool:
        return target.runtime.name == NODEJS

    def attach(self, target: Target) -> "NodeAttachment":
        """Raises NotYetError while the program starts, RefusedError where it cannot be hooked."""
        path, image = find_node(target.tgid)
        places = [(ROUND_OVER, _place(path, image, image.symbols[AFTER_POLL], with_arguments=True))]
        ends = [image.symbols.get(TIMERS), find_symbol(path, FROM_THREADS)]
        places += [(TURN_OVER, _place(path, image, end)) for end in ends if end is not None]
        links = [
            self._kernel.attach_in_process(
                name, path, offset=place, pid=target.tgid, retprobe=False
            )
            for name, place in places
        ]
        entry = self._numbers(target.tgid, path, image)
        return NodeAttachment(self._kernel, target.tgid, links, entry)

    def _numbers(self, tgid: int, path: str, image: Image) -> MapEntry | None:
        at = find_numbers(path, image)
        if at is None:
            return None
        return MapEntry(self._kernel.map(MACHINES), tgid, at.to_bytes(8, "little", signed=True))


class NodeAttachment:
    """One Node.js that is looked into, until it has refuted the rule."""

    def __init__(
        self, kernel: Kernel, tgid: int, links: list[Link], entry: MapEntry | None
    ) -> None:
        self._kernel = kernel
        self._tgid = tgid
        self._links = links
        self._entry = entry

    def look(self) -> str | None:
        found = self._kernel.map("processes").lookup(self._tgid.to_bytes(4, "little"))
        if found is not None and np.frombuffer(found, layout.PROCESS)["turn_contradicts"][0]:
            return (
                "answers one request while it works on another, as with a queue for connections: "
                "its calls have no parents from now on"
            )
        return None

    def close(self) -> None:
        links, self._links = self._links, []
        for link in links:
            self._kernel.detach(link)
        entry, self._entry = self._entry, None
        if entry is not None:
            entry.close()


def find_node(tgid: int) -> tuple[str, Image]:
    """The image that holds Node.js: the executable itself or a libnode. As (path to open from
    here, image). Raises NotYetError when none is mapped yet."""
    for path in _candidates(tgid):
        try:
            image = read_image(path, (AFTER_POLL, TIMERS, NUMBER))
        except OSError:
            continue
        if image is not None and AFTER_POLL in image.symbols:
            return path, image
    raise NotYetError("nothing that is mapped exports node::Environment::CheckImmediate")


def _candidates(tgid: int) -> Iterator[str]:
    yield f"/proc/{tgid}/exe"
    for path in dict.fromkeys(mapping.path for mapping in file_mappings(tgid)):
        if "/libnode.so" in path:
            yield f"/proc/{tgid}/root{path}"


def _place(path: str, image: Image, address: int, *, with_arguments: bool = False) -> int:
    """Offset in the file of the first instruction there that the kernel emulates."""
    # What it needs is large, and many runs meet no Node.js.
    from waggle.probes.go.instructions import Code, NoInstructionError, at_entry, first_emulated

    offset = image.file_offset(address)
    if offset is None:
        raise RefusedError(f"{path}: {address:#x} lies outside of the file")
    try:
        code = Code(_code(path, offset, _CODE), address)
        found = at_entry(code) if with_arguments else first_emulated(code)
        return offset + found - address
    except NoInstructionError as error:
        raise RefusedError(f"{path}: {error}: the parents of its calls are not found") from error


def find_numbers(path: str, image: Image) -> int | None:
    """Where a pointer to the numbers of what runs is, in bytes from the handle that libuv gives
    to CheckImmediate; None where its code looks otherwise, or ends of immediates are not told."""
    from waggle.probes.node.numbers import environment_before, numbers_in

    if not {TIMERS, NUMBER} <= image.symbols.keys() or platform.machine() != "x86_64":
        return None
    code = []
    for name, size in ((AFTER_POLL, _CODE), (NUMBER, _NUMBER_CODE)):
        offset = image.file_offset(image.symbols[name])
        if offset is None:
            return None
        code.append(_code(path, offset, size))
    before, at = environment_before(code[0]), numbers_in(code[1])
    return None if before is None or at is None else at - before


def _code(path: str, offset: int, size: int) -> bytes:
    with Path(path).open("rb") as file:
        file.seek(offset)
        return file.read(size)


def find_symbol(path: str, name: bytes) -> int | None:
    """Address of a function in the full table of symbols, None where a program has none.

    That table is large (3 MB, with 7 MB of names): it is mapped, and neither copied nor kept.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with Path(path).open("rb") as stream:
            elf = ELFFile(stream)
            table = elf.get_section_by_name(".symtab")
            names = elf.get_section_by_name(".strtab")
            if table is None or names is None or table["sh_size"] > _MAX_TABLE:
                return None
            at, size = table["sh_offset"], table["sh_size"] // 24 * 24
            with mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as memory:
                begin, end = names["sh_offset"], names["sh_offset"] + names["sh_size"]
                wanted = memory.find(b"\0" + name + b"\0", begin, end)
                if wanted < 0:
                    return None
                rows = np.frombuffer(memory[at : at + size], _SYMBOL)
        found = rows[(rows["name"] == wanted + 1 - begin) & (rows["value"] != 0)]
        return int(found["value"][0]) if len(found) else None
    except (OSError, ELFError, ValueError, KeyError):
        return None


_SYMBOL = np.dtype(
    [
        *(("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2")),
        *(("value", "<u8"), ("size", "<u8")),
    ]
)
