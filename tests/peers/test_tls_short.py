"""Programs that live for only some milliseconds, seen inside TLS."""

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .agent import SeenSpan, started_agent
from .harness import ensure_built, tool
from .test_tls_places import own_copy
from .tls_programs import make_certificate, nginx_server

RUNS = 40


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_built()


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where an HTTPS server listens, that answers everything."""
    folder = tmp_path_factory.mktemp("tls")
    with nginx_server(folder, make_certificate(folder)) as (_, port):
        yield port


def curl(url: str) -> list[str]:
    return [tool("curl"), "-sSk", "-o", "/dev/null", url]


def wget(url: str) -> list[str]:
    return [tool("wget"), "-q", "--no-check-certificate", "-O", "/dev/null", url]


def asked(spans: list[SeenSpan]) -> list[str]:
    """The paths of the requests that could be read."""
    return [s.path for s in spans if s.kind == "client" and "url.full" in s.attributes]


@pytest.mark.parametrize("command", [curl, wget])
def test_started_by_the_agent(port: int, command: Callable[[str], list[str]]) -> None:
    """What the agent starts is always seen."""
    for n in range(4):
        url = f"https://localhost:{port}/started/{n}"
        with started_agent("--tls=auto", command=command(url)) as agent:
            assert asked(agent.wait().spans) == [f"/started/{n}"]


def test_started_with_libraries_of_its_own(port: int, tmp_path: Path) -> None:
    """A program that the agent starts is seen although its library is where no system has it."""
    copy = own_copy(tmp_path / "copy")
    for n in range(4):
        with started_agent(
            "--tls=auto",
            command=curl(f"https://localhost:{port}/own/{n}"),
            env={"LD_LIBRARY_PATH": str(copy)},
        ) as agent:
            assert asked(agent.wait().spans) == [f"/own/{n}"]


@pytest.mark.parametrize("command", [curl, wget])
def test_one_after_the_other(port: int, command: Callable[[str], list[str]]) -> None:
    """Of short programs that a script starts one after the other many are seen, and none twice: the
    kernel takes its time for the first probe, and not for those that follow it at once. How many
    depends on what else the machine does: mostly all but a few."""
    url = f"https://localhost:{port}/script/"
    each = shlex.join(command(url)).replace(url, f"{url}$n")
    script = f"for n in $(seq {RUNS}); do {each}; done"
    with started_agent("--tls=auto", command=["/bin/sh", "-c", script]) as agent:
        found = asked(agent.wait().spans)
    assert len(found) == len(set(found))
    assert set(found) <= {f"/script/{n}" for n in range(1, RUNS + 1)}
    assert len(found) >= RUNS // 4
