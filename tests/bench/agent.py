"""What can be read of a running agent from outside: its programs, its summary."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.peers.toolchain import ToolMissingError, tool

TRACING = frozenset(
    {"raw_tracepoint", "raw_tracepoint_writable", "tracing", "kprobe", "tracepoint"}
)


def programs(pid: int) -> dict[str, tuple[int, int]]:
    """Each program that the agent `pid` loaded -> (ns it ran, how often).

    Both count only while the kernel keeps statistics (waggle.libbpf.RunTimeStats).
    """
    found = {}
    for fields in _descriptors(pid, "prog_id"):
        name = _bpftool("prog", "show", "id", fields["prog_id"])["name"]
        found[str(name)] = int(fields["run_time_ns"]), int(fields["run_cnt"])
    return found


def lost(summary: str) -> dict[str, int]:
    """Reason -> count, as the summary of a run has it under `lost`."""
    found = re.search(r"^  lost +(.*(?:\n {13}.*)*)", summary, re.MULTILINE)
    if found is None:
        raise LookupError(f"no losses in the summary {summary!r}")
    losses = re.findall(r"([\d,]+) (?:otlp )?(\w+)", found.group(1))
    return {reason: int(count.replace(",", "")) for count, reason in losses}


def strangers(ours: int | None = None) -> int:
    """How many tracing programs are loaded that the agent `ours` did not load: they cost the
    whole machine something, and a comparison made meanwhile is not to be trusted."""
    own = {fields["prog_id"] for fields in _descriptors(ours, "prog_id")} if ours else set()
    loaded = _bpftool("prog", "show")
    return sum(one["type"] in TRACING and str(one["id"]) not in own for one in loaded)


def _descriptors(pid: int, kind: str) -> Iterator[dict[str, str]]:
    """What the kernel says of the maps (map_id) or programs (prog_id) a process holds."""
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        pairs = (line.partition(":") for line in path.read_text().splitlines())
        fields = {name: value.strip() for name, _, value in pairs}
        if kind in fields and "link_id" not in fields:
            yield fields


def _bpftool(*arguments: str) -> Any:
    done = subprocess.run([tool("bpftool"), "-j", *arguments], capture_output=True, check=False)
    if done.returncode != 0:
        raise ToolMissingError(f"bpftool {' '.join(arguments)}: {done.stdout.decode()}")
    return json.loads(done.stdout)
