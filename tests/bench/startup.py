"""From exec of `waggle run` to ready, and to the first span at the receiver."""

import os
import subprocess
import time
from statistics import median

from tests.peers.agent import WAGGLE, environment
from tests.peers.processes import BUILD

from . import measure
from .report import Table, spread
from .targets import Target, go_server


def bench(times: int) -> Table:
    """`times` starts; the first one, which may have to compile Python, is thrown away."""
    with go_server() as server:
        runs = [_start(server) for _ in range(times + 1)][1:]
    rows = [
        [words, f"{median(values) * 1e3:,.0f} ms", f"{spread([1e3 * v for v in values])} ms"]
        for words, values in zip(
            ("exec to ready", "exec to the first span on stdout", "CPU until ready"),
            zip(*runs, strict=True),
            strict=True,
        )
    ]
    notes = [f"Median of {times} with compiled modules cached; the request is sent at ready."]
    return Table("start", "Start", ["what", "median", "lowest to highest"], rows, notes)


def _start(server: Target) -> tuple[float, float, float]:
    """Seconds from exec to ready, to the first span printed, and CPU seconds until ready."""
    ready, write = os.pipe()
    command = [str(WAGGLE), "run", "--json", f"--pid={server.worker}", f"--ready-fd={write}"]
    begun = time.monotonic()
    agent = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=[write],
        env=_cached_bytecode(),
    )
    try:
        os.close(write)
        if not os.read(ready, 1):
            raise RuntimeError("the agent ended before it was ready; run it by hand to see why")
        ready_s, cpu_s = time.monotonic() - begun, measure.cpu_s(agent.pid)
        server.ask()
        assert agent.stdout is not None
        agent.stdout.readline()
        first_s = time.monotonic() - begun
    finally:
        os.close(ready)
        agent.terminate()
        agent.communicate()
    return ready_s, first_s, cpu_s


def _cached_bytecode() -> dict[str, str]:
    """An installed program has its modules compiled; a checkout may be told not to keep them."""
    changed = environment({"PYTHONPYCACHEPREFIX": str(BUILD / "bench-pycache")})
    changed.pop("PYTHONDONTWRITEBYTECODE", None)
    return changed
