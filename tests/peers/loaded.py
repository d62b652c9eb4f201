"""What the kernel says of the programs and maps that an agent holds."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .toolchain import ToolMissingError, tool


def programs(pid: int) -> dict[str, tuple[int, int]]:
    """Each program that the agent `pid` loaded -> (ns it ran, how often).

    Both count only while the kernel keeps statistics (waggle.libbpf.RunTimeStats).
    """
    found = {}
    for fields in descriptors(pid, "prog_id"):
        name = bpftool("prog", "show", "id", fields["prog_id"])["name"]
        found[str(name)] = int(fields["run_time_ns"]), int(fields["run_cnt"])
    return found


def descriptors(pid: int, kind: str) -> Iterator[dict[str, str]]:
    """What the kernel says of the maps (map_id) or programs (prog_id) a process holds."""
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            pairs = [line.partition(":") for line in path.read_text().splitlines()]
        except FileNotFoundError:  # closed meanwhile
            continue
        fields = {name: value.strip() for name, _, value in pairs}
        if kind in fields and "link_id" not in fields:
            yield fields


def bpftool(*arguments: str) -> Any:
    done = subprocess.run([tool("bpftool"), "-j", *arguments], capture_output=True, check=False)
    if done.returncode != 0:
        raise ToolMissingError(f"bpftool {' '.join(arguments)}: {done.stdout.decode()}")
    return json.loads(done.stdout)
