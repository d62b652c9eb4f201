"""Where a real process runs, as its spans' resource says: container and systemd unit."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .agent import started_agent
from .harness import ensure_built, run_client, start_server

CONTAINER = "0123456789abcdef" * 4


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_built()


def unified() -> Path:
    """Where the control groups of version 2 are mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    pytest.skip("control groups of version 2 are not mounted")


@contextmanager
def in_group(name: str, pid: int) -> Iterator[None]:
    """A control group of that name, and the process in it."""
    parent = unified()
    folders = [parent / part for part in ("waggle-test.slice", f"waggle-test.slice/{name}")]
    try:
        for folder in folders:
            folder.mkdir(exist_ok=True)
        (folders[-1] / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield
    finally:
        (parent / "cgroup.procs").write_text(str(pid))
        for folder in reversed(folders):
            folder.rmdir()


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (f"docker-{CONTAINER}.scope", {"container.id": CONTAINER, "waggle.systemd.unit": None}),
        (
            "checkout@eu.service",
            {
                "service.name": "checkout",
                "waggle.systemd.unit": "checkout",
                "container.id": None,
            },
        ),
    ],
)
def test_the_control_group_tells(group: str, expected: dict[str, str | None]) -> None:
    """A process in a container's group has the container's id, one in a service's group the unit
    and, where it has no name of its own, the service's; host and runtime are told as well."""
    with start_server("go-nethttp") as server, in_group(group, server.pid):
        with started_agent(pids=[server.pid]) as agent:
            run_client("go", server.base_url, 5)
            agent.wait_for(lambda spans: len(spans) >= 5)
            ended = agent.stop()
        resource = ended.spans[0].resource
    assert {key: resource.get(key) for key in expected} == expected
    assert resource["host.name"] == socket.gethostname()
    assert resource["os.type"] == "linux"
    assert resource["process.runtime.name"] == "go"
    assert resource["process.runtime.description"] == f"Go {resource['process.runtime.version']}"
