"""TLS libraries wherever they are: in other namespaces, replaced on disk, loaded late, on musl."""

import functools
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from .agent import SeenSpan, started_agent
from .harness import ensure_built, tool
from .processes import Program
from .test_tls import (
    COUNT,
    SYSTEM_PYTHON,
    check_joined,
    client_of_tls,
    complete,
    curl,
    of,
    of_kind,
    paths,
)
from .tls_programs import HERE, leased_port, make_certificate, python_server, started
from .toolchain import ensure_musl

SYSTEM_LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
HALVES = ("libssl.so.3", "libcrypto.so.3")


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_built()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield make_certificate(tmp_path_factory.mktemp("tls"))


def own_copy(folder: Path) -> Path:
    """Files of the same content as the system's OpenSSL, but not the same files."""
    folder.mkdir()
    for name in HALVES:
        shutil.copy(SYSTEM_LIBRARIES / name, folder)
    return folder


def served_by_copy(certificate: Path, copy: Path) -> AbstractContextManager[tuple[Program, int]]:
    """A server that has its OpenSSL from there, and its port."""
    env = {"LD_LIBRARY_PATH": str(copy)}
    return python_server("threads.py", certificate, python=SYSTEM_PYTHON, env=env)


def replace_halves(copy: Path) -> None:
    """By other files of the same content, as an upgrade does: what is mapped is deleted then."""
    for name in HALVES:
        shutil.copy(SYSTEM_LIBRARIES / name, copy / "new")
        (copy / "new").replace(copy / name)


def mapped_library(program: Program) -> str:
    """The line of its libssl in what a program has mapped."""
    maps = Path(f"/proc/{program.pid}/maps").read_text().splitlines()
    return next(line for line in maps if "libssl" in line)


def serves(program: Program, port: int) -> None:
    """Every request of curl's is seen at both ends, and joined."""
    command = client_of_tls(f"https://localhost:{port}/n/[1-{COUNT}]")
    with started_agent("--tls=auto", pids=[program.pid], command=command) as agent:
        agent.wait()
        spans = agent.spans()
    check_joined(of(spans, "server", program.pid), of_kind(spans, "client"), paths("/n"))


@pytest.mark.parametrize("with_root", [False, True], ids=["namespace", "namespace-and-root"])
def test_another_mount_namespace(certificate: Path, tmp_path: Path, with_root: bool) -> None:
    """A program that has other files than we where its library is, and perhaps another root, as in
    a container, is seen by its own."""
    copy, root = own_copy(tmp_path / "copy"), tmp_path / "root"
    root.mkdir()
    at = str(root) if with_root else ""
    steps = [f"mount --rbind / {root}"] if with_root else []
    steps += [f"mount --bind {copy / name} {at}{SYSTEM_LIBRARIES / name}" for name in HALVES]
    with leased_port() as port:
        server: list[str | Path] = [SYSTEM_PYTHON, HERE / "threads.py", f"--port={port}"]
        server.append(f"--certificate={certificate}")
        last = ["exec", *(["chroot", root] if with_root else []), *server]
        script = " && ".join([*steps, " ".join(map(str, last))])
        command = [tool("unshare"), "--mount", "--propagation=private", "sh", "-c", script]
        with started("elsewhere", command, port) as program:
            inode = (copy / HALVES[0]).stat().st_ino
            assert f" {inode} " in mapped_library(program)
            serves(program, port)


def test_replaced_on_disk(certificate: Path, tmp_path: Path) -> None:
    """A program whose library was replaced since it began, as an upgrade does, is seen by the one
    that it still runs."""
    copy = own_copy(tmp_path / "copy")
    with ExitStack() as stack:
        server, port = stack.enter_context(served_by_copy(certificate, copy))
        replace_halves(copy)
        assert mapped_library(server).endswith(f"{copy}/libssl.so.3 (deleted)")
        serves(server, port)


def test_replaced_while_traced(certificate: Path, tmp_path: Path) -> None:
    """A library that is replaced while its program is traced goes on being seen."""
    copy = own_copy(tmp_path / "copy")
    with ExitStack() as stack:
        server, port = stack.enter_context(served_by_copy(certificate, copy))
        agent = stack.enter_context(started_agent("--tls=auto", pids=[server.pid]))
        for n in range(3):
            curl(f"https://localhost:{port}/{n}/n/{{}}")
            agent.wait_for(functools.partial(has_many, (n + 1) * COUNT))
            replace_halves(copy)
        spans = complete(agent)
    assert set(of(spans, "server", server.pid)) == {
        path for n in range(3) for path in paths(f"/{n}/n")
    }


def test_loaded_late(certificate: Path, tmp_path: Path) -> None:
    """A library that a traced program loads later, from where no system has it, is found: from then
    on its requests are seen, and joined."""
    copy = own_copy(tmp_path / "copy")
    with ExitStack() as stack:
        server, port = stack.enter_context(
            python_server("threads.py", certificate, python=SYSTEM_PYTHON)
        )
        client = Program(
            "late",
            [SYSTEM_PYTHON, HERE / "late.py", str(port)],
            env={"LD_LIBRARY_PATH": str(copy)},
            with_pipes=True,
        )
        stack.callback(client.stop)
        agent = stack.enter_context(started_agent("--tls=auto", pids=[client.pid, server.pid]))
        assert "libssl" not in Path(f"/proc/{client.pid}/maps").read_text()
        client.write_line()
        agent.wait_for(lambda spans: len(readable(spans, client.pid)) >= COUNT)
        client.write_line()
        assert client.read_line(60) == "done"
        spans = complete(agent)
    asked = readable(spans, client.pid)
    numbers = sorted(span.number or 0 for span in asked.values())
    # Each from the first that was seen on: none is left out.
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    served = of(spans, "server", server.pid)
    for path, span in asked.items():
        assert served[path].parent_id == span.span_id


def test_musl(certificate: Path) -> None:
    """A program on musl and an OpenSSL that was built with it is seen."""
    with ExitStack() as stack:
        server, port = stack.enter_context(
            python_server("threads.py", certificate, python=SYSTEM_PYTHON)
        )
        client = Program("musl", [ensure_musl(), str(port), str(COUNT)], with_pipes=True)
        stack.callback(client.stop)
        agent = stack.enter_context(started_agent("--tls=auto", pids=[client.pid, server.pid]))
        assert "-linux-musl/libc" in Path(f"/proc/{client.pid}/maps").read_text()
        client.write_line()
        assert client.read_line(60) == "done"
        agent.wait_for(lambda spans: len(spans) >= 2 * COUNT)
        client.write_line()
        spans = complete(agent)
    check_joined(of(spans, "server", server.pid), of(spans, "client", client.pid), paths("/n"))


def has_many(least: int, spans: Sequence[SeenSpan]) -> bool:
    return len(spans) >= least


def readable(spans: Sequence[SeenSpan], pid: int) -> dict[str, SeenSpan]:
    """The requests of a client by path, without exchanges that nobody could read."""
    return of([span for span in spans if "url.full" in span.attributes], "client", pid)
