"""Where TLS libraries will be, told before a program has loaded them; and how long probes stay."""

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest

from waggle.attach import Target
from waggle.libbpf import Link, LoadError, Map, Program
from waggle.probes.tls import attach
from waggle.probes.tls.attach import TlsProbe
from waggle.probes.tls.places import Habits, needed_by
from waggle.procfs import ProcessFacts, ProcFs
from waggle.runtimes import OTHER, Runtime

from .test_tls_library import library


def compiler() -> str:
    found = shutil.which("clang-14") or shutil.which("cc")
    if found is None:
        pytest.skip("no C compiler is installed")
    return found


def made(path: Path, *flags: str, main: bool = False) -> Path:
    """A program, or a library, that does nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = path.with_suffix(".c")
    source.write_text("int main(void) { return 0; }" if main else "int nothing;")
    kind = [] if main else ["-fPIC", "-shared", f"-Wl,-soname,{path.name}"]
    subprocess.run([compiler(), *kind, "-o", path, source, *flags], check=True)
    return path


def linked_to(folder: Path, *names: str) -> list[str]:
    return ["-Wl,--no-as-needed", f"-L{folder}", *(f"-l:{name}" for name in names)]


def test_needed_through_a_library_of_its_own(tmp_path: Path) -> None:
    """What a program's library needs is found in the folder that this names, from where it is."""
    tls = made(tmp_path / "lib" / "deep" / "libssl.so.3")
    client = made(
        tmp_path / "lib" / "libclient.so",
        *linked_to(tls.parent, tls.name),
        "-Wl,-rpath,$ORIGIN/deep",
    )
    flags = [*linked_to(client.parent, client.name), "-Wl,-rpath,$ORIGIN/../lib"]
    flags.append(f"-Wl,-rpath-link,{tls.parent}")
    program = made(tmp_path / "bin" / "program", *flags, main=True)
    assert needed_by(str(program), {}) == [str(program), str(tls)]


def test_needed_from_the_environment(tmp_path: Path) -> None:
    """LD_LIBRARY_PATH is asked before the system; a library of the usual names counts there even
    if only something that is loaded later will need it."""
    program = made(tmp_path / "program", main=True)
    assert needed_by(str(program), {}) == [str(program)]
    tls = made(tmp_path / "own" / "libgnutls.so.30")
    found = needed_by(str(program), {"LD_LIBRARY_PATH": f"relative:{tls.parent}"})
    assert found == [str(program), str(tls)]


def test_needs_are_bounded(tmp_path: Path) -> None:
    """Of a program with more libraries than are read, the rest is left out."""
    names = [made(tmp_path / f"libtls{n}.so").name for n in range(70)]
    deep = [made(tmp_path / f"libtls_last{n}.so").name for n in range(2)]
    for n in range(70):  # each needs one that only it needs
        made(tmp_path / f"libtls{n}.so", *linked_to(tmp_path, deep[n % 2]))
    flags = [*linked_to(tmp_path, *names), f"-Wl,-rpath,{tmp_path}"]
    program = made(tmp_path / "program", *flags, main=True)
    assert len(needed_by(str(program), {})) <= 1 + 70 + 2


def test_what_is_no_program_needs_nothing(tmp_path: Path) -> None:
    """A script, or a file that is gone, has only itself."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    assert needed_by(str(script), {}) == [str(script)]
    assert needed_by(str(tmp_path / "none"), {}) == [str(tmp_path / "none")]


@contextmanager
def sleeping(program: str | Path = "sleep") -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([shutil.which(program) or program, "60"])
    try:  # it has executed it by now
        yield process
    finally:
        process.kill()
        process.wait()


def test_habits_are_of_an_executable() -> None:
    """What one process mapped is expected of the next that runs the same file, as it sees it."""
    habits = Habits()
    with sleeping() as first, sleeping() as second:
        habits.learn(first.pid, [f"/proc/{first.pid}/root/opt/libssl.so.3", "/elsewhere"])
        assert list(habits.of(second.pid)) == [f"/proc/{second.pid}/root/opt/libssl.so.3"]
        assert list(habits.of(os.getpid())) == []
        habits.learn(second.pid, [f"/proc/{second.pid}/root/opt/{n}" for n in range(10)])
        assert len(list(habits.of(first.pid))) == 8


def test_habits_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The executable that ran longest ago is forgotten."""
    monkeypatch.setattr("waggle.probes.tls.places._HABITS_KEPT", 2)
    habits = Habits()
    for n in range(3):
        shutil.copy(shutil.which("sleep") or "", tmp_path / f"sleep{n}")
        with sleeping(tmp_path / f"sleep{n}") as process:
            habits.learn(process.pid, [f"/proc/{process.pid}/root/opt/libssl.so.3"])
            assert list(habits.of(process.pid))
    with sleeping(tmp_path / "sleep0") as process:
        assert not list(habits.of(process.pid))


class FakeMap:
    def update(self, key: bytes, value: bytes) -> None:
        pass


class FakeKernel:
    """Notes which processes have probes."""

    def __init__(self) -> None:
        self.attached: list[tuple[int, str]] = []
        self.left: list[Link] = []
        self.room = 1000

    def map(self, name: str) -> Map:
        return FakeMap()  # type: ignore[return-value]

    def attach_in_process(
        self,
        program: str | Program,
        binary: str,
        *,
        offset: int,
        pid: int,
        cookie: int,
        retprobe: bool,
    ) -> Link:
        if len(self.attached) >= self.room:
            raise LoadError("the process has ended")
        self.attached.append((pid, binary))
        return Link(0, str(program))

    def detach(self, link: Link) -> None:
        self.left.append(link)

    def detach_soon(self, links: Iterable[Link]) -> "Future[None]":
        self.left += links
        done: Future[None] = Future()
        done.set_result(None)
        return done


def target_of(pid: int) -> Target:
    facts = ProcFs().facts(pid)
    assert isinstance(facts, ProcessFacts)
    return Target(pid, facts.start_ns, Runtime(OTHER), facts)


@pytest.fixture
def own_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A TLS library, the only one there is."""
    monkeypatch.setattr("waggle.probes.tls.places._USUAL", ())
    folder = tmp_path / "own"
    folder.mkdir()
    return library(folder).rename(folder / "libssl.so.3")


def test_probes_of_what_will_be_executed(own_library: Path) -> None:
    """What a process will need has its probes before it executes it, and keeps them then."""
    kernel = FakeKernel()
    probe = TlsProbe(kernel, environ={"LD_LIBRARY_PATH": str(own_library.parent)})
    with sleeping() as process:
        probe.expect(process.pid, shutil.which("sleep") or "")
        assert set(kernel.attached) == {(process.pid, str(own_library))}
        before = len(kernel.attached)
        probe.attach(target_of(process.pid)).look()
        assert (len(kernel.attached), kernel.left) == (before, [])


def test_probes_stay_only_where_a_program_runs(own_library: Path) -> None:
    """A process that executes something else keeps its probes for a while, one that has ended does
    not; and of those that are kept the oldest go when there are too many."""
    kernel = FakeKernel()
    probe = TlsProbe(kernel, environ={"LD_LIBRARY_PATH": str(own_library.parent)})
    with sleeping() as process:
        probe.expect(process.pid, shutil.which("sleep") or "")
        attachment = probe.attach(target_of(process.pid))
        attachment.close()
        assert kernel.left == []
        assert probe.attach(target_of(process.pid)) is attachment
    attachment.close()
    assert len(kernel.left) == len(kernel.attached)


def test_all_probes_of_a_library_or_none(own_library: Path) -> None:
    """Where a process ends while its probes are attached, none of them stays, and a command that
    was prepared in vain is attached to again when it runs."""
    kernel = FakeKernel()
    kernel.room = 2
    probe = TlsProbe(kernel, environ={"LD_LIBRARY_PATH": str(own_library.parent)})
    with sleeping() as process:
        probe.expect(process.pid, shutil.which("sleep") or "")
        assert len(kernel.left) == len(kernel.attached) == 2
        probe.habits.learn(process.pid, [f"/proc/{process.pid}/root{own_library}"])
        with pytest.raises(LoadError):
            probe.attach(target_of(process.pid))
        kernel.room = 1000
        probe.attach(target_of(process.pid))
        assert len(kernel.attached) > 2


def test_kept_probes_are_bounded(own_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When more processes than that have just executed something else, the oldest lets go."""
    monkeypatch.setattr(attach, "_MAX_PARKED", 1)
    kernel = FakeKernel()
    probe = TlsProbe(kernel, environ={"LD_LIBRARY_PATH": str(own_library.parent)})
    with sleeping() as first, sleeping() as second:
        for process in (first, second):
            probe.expect(process.pid, shutil.which("sleep") or "")
            probe.attach(target_of(process.pid)).close()
        each = len(kernel.attached) // 2
        assert each > 0
        assert len(kernel.left) == each
