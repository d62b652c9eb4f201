"""Compiled objects, from their file to what is attached."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from waggle.closing import Closing
from waggle.libbpf.btf import ReadOnlyData
from waggle.libbpf.calls import Log, captured_log, check, fail, library, silence
from waggle.libbpf.failures import LoadError
from waggle.libbpf.links import Link, MapLink, UprobeOptions, attach_uprobe_multi
from waggle.libbpf.maps import Map
from waggle.libbpf.programs import Program

if TYPE_CHECKING:  # what loading need not wait for
    from concurrent.futures import Future, ThreadPoolExecutor

_AT_ONCE = 16  # links that are detached at the same time,
_APART_S = 0.006
_MAX_LEAVING = 64  # and calls of detach_soon() that may wait for it


class Object(Closing):
    """A compiled BPF object: open, set what must be set before, load, attach, close.

    Links made through it are detached by close(), in the reverse order.
    """

    def __init__(self, pointer: int, path: Path) -> None:
        self._pointer: int | None = pointer
        self.path = path
        self.rodata = ReadOnlyData(pointer, path.name)
        self.programs: dict[str, Program] = {p.name: p for p in self._all_programs(pointer)}
        self.maps: dict[str, Map] = {m.name: m for m in self._all_maps(pointer)}
        self._links: list[Link] = []
        self._detaching: ThreadPoolExecutor | None = None
        self._leaving: deque[Future[None]] = deque()

    @classmethod
    def open(cls, path: str | Path) -> Object:
        """Parse an object file; the kernel is not asked yet."""
        path = Path(path)
        if not path.is_file():
            raise LoadError(f"no BPF object at {path}: run make build")
        with captured_log() as log:
            pointer = library().bpf_object__open_file(str(path).encode(), None)
            if not pointer:
                fail(f"open {path.name}", ctypes.get_errno(), log)
        return cls(pointer, path)

    def program(self, name: str) -> Program:
        """A program by the name of its function."""
        if name not in self.programs:
            raise LoadError(f"{self.path.name}: no program {name}: run make build")
        return self.programs[name]

    def map(self, name: str) -> Map:
        """A map by its name in the source."""
        if name not in self.maps:
            raise LoadError(f"{self.path.name}: no map {name}: run make build")
        return self.maps[name]

    def load_only(self, *names: str) -> None:
        """Let load() load these programs and no other."""
        wanted = {self.program(name).name for name in names}
        for program in self.programs.values():
            program.autoload = program.name in wanted

    def load(self, *, silent: bool = False) -> None:
        """Create the maps and have the programs verified.

        silent: libbpf, which otherwise calls Python more than a thousand times, says
        nothing meanwhile, nor does an error say more than its number.
        """
        with silence() if silent else nullcontext(), captured_log() as log:
            result = library().bpf_object__load(self._open_pointer())
            check(result, f"load {self.path.name}", log)
        self.rodata.seal()

    def attach(self, program: str | Program) -> Link:
        """Attach by the program's section name (tp_btf/..., raw_tp/..., iter/tcp, ...)."""
        p = self._resolve(program)
        with captured_log() as log:
            pointer = library().bpf_program__attach(p.pointer)
            return self._own(pointer, p, f"attach {p.name} ({p.section})", log)

    def attach_cgroup(self, program: str | Program, cgroup: str | Path) -> Link:
        """Attach to a directory of the cgroup v2 tree."""
        p = self._resolve(program)
        fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with captured_log() as log:
                pointer = library().bpf_program__attach_cgroup(p.pointer, fd)
                return self._own(pointer, p, f"attach {p.name} to {cgroup}", log)
        finally:
            os.close(fd)

    def attach_to_map(self, program: str | Program, target: Map) -> Link:
        """Attach an sk_msg program to a map of sockets; it runs for those that are in it."""
        p = self._resolve(program)
        link = MapLink(p, target)
        self._links.append(link)
        return link

    def attach_uprobe(
        self,
        program: str | Program,
        binary: str | Path,
        *,
        offset: int,
        pid: int = -1,
        cookie: int = 0,
        retprobe: bool = False,
    ) -> Link:
        """Attach at a file offset of a binary, in one process or (-1) in all."""
        p = self._resolve(program)
        options = UprobeOptions(ctypes.sizeof(UprobeOptions), 0, cookie, retprobe, None)
        with captured_log() as log:
            pointer = library().bpf_program__attach_uprobe_opts(
                p.pointer, pid, os.fsencode(binary), offset, ctypes.byref(options)
            )
            return self._own(pointer, p, f"attach {p.name} to {binary}+{offset:#x}", log)

    def attach_uprobe_multi(
        self,
        program: str | Program,
        binary: str | Path,
        *,
        offset: int,
        pid: int,
        cookie: int = 0,
        retprobe: bool = False,
    ) -> Link:
        """As attach_uprobe, for a program of the section uprobe.multi; needs Linux 6.6.

        The program must have been told by `as_uprobe_multi` before it was loaded.
        """
        link = attach_uprobe_multi(
            self._resolve(program), binary, offset=offset, pid=pid, cookie=cookie, retprobe=retprobe
        )
        self._links.append(link)
        return link

    def attach_in_process(
        self,
        program: str | Program,
        binary: str | Path,
        *,
        offset: int,
        pid: int,
        cookie: int = 0,
        retprobe: bool = False,
    ) -> Link:
        """Attach at a file offset of a binary, in one process, the way this kernel allows it."""
        try:
            return self.attach_uprobe_multi(
                program, binary, offset=offset, pid=pid, cookie=cookie, retprobe=retprobe
            )
        except LoadError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
        return self.attach_uprobe(
            program, binary, offset=offset, pid=pid, cookie=cookie, retprobe=retprobe
        )

    def detach(self, link: Link) -> None:
        """Detach one link before the rest."""
        if link in self._links:
            self._links.remove(link)
        link.close()

    def detach_soon(self, links: Iterable[Link]) -> Future[None]:
        """The same in a thread of its own; done when all are detached. The kernel waits until
        nobody can be in a probe any more: some tens of milliseconds, in which nobody else would be
        attached to. Who comes faster than it lets go waits as well."""
        from concurrent.futures import ThreadPoolExecutor, wait

        if self._detaching is None:
            self._detaching = ThreadPoolExecutor(1, "waggle-detacher")
        while self._leaving and (self._leaving[0].done() or len(self._leaving) >= _MAX_LEAVING):
            wait([self._leaving.popleft()])
        leaving = self._detaching.submit(self._detach_all, list(links))
        self._leaving.append(leaving)
        return leaving

    def _detach_all(self, links: list[Link]) -> None:
        """One does not wait for the other: the kernel waits as long for several as for one.

        They begin one after the other. Who attaches a uprobe waits until every CPU has passed a
        quiet moment, 10 ms and more, but nobody does who comes soon behind another, be that to
        attach or to detach. So while one program is let go of, the next is attached to at once.
        """
        _side_by_side(self.detach, links, _APART_S)

    def close(self) -> None:
        """Detach what is attached and give programs and maps up. Further calls do nothing."""
        if self._detaching is not None:
            self._detaching.shutdown()
        self._detach_rest()
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            library().bpf_object__close(pointer)

    def _detach_rest(self) -> None:
        """Several at the same time where there are many: the kernel waits for each uprobe."""
        links, self._links = self._links, []
        if len(links) > _AT_ONCE:
            _side_by_side(lambda link: link.close(), links)
            return
        for link in reversed(links):
            link.close()

    def _open_pointer(self) -> int:
        if self._pointer is None:
            raise LoadError(f"{self.path.name} is closed")
        return self._pointer

    def _resolve(self, program: str | Program) -> Program:
        self._open_pointer()
        return self.program(program) if isinstance(program, str) else program

    def _own(self, pointer: int | None, program: Program, what: str, log: Log) -> Link:
        if not pointer:
            fail(what, ctypes.get_errno(), log)
        link = Link(pointer, program.name)
        self._links.append(link)
        return link

    @staticmethod
    def _all_programs(pointer: int) -> Iterator[Program]:
        at = library().bpf_object__next_program(pointer, None)
        while at:
            yield Program(at)
            at = library().bpf_object__next_program(pointer, at)

    @staticmethod
    def _all_maps(pointer: int) -> Iterator[Map]:
        at = library().bpf_object__next_map(pointer, None)
        while at:
            yield Map(at)
            at = library().bpf_object__next_map(pointer, at)


def _side_by_side(
    detach: Callable[[Link], None], links: Iterable[Link], apart_s: float = 0.0
) -> None:
    """Detach several at the same time, beginning one after the other. Raises what the first of
    them raises, when all have ended."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_AT_ONCE, "waggle-detachers") as several:
        begun = []
        for link in links:
            begun.append(several.submit(detach, link))
            time.sleep(apart_s)
    for each in begun:
        each.result()
