"""What can be read of a running agent from outside: its programs, its summary."""

import re

from tests.peers.loaded import bpftool, descriptors, programs

__all__ = ["TRACING", "lost", "programs", "strangers"]

TRACING = frozenset(
    {"raw_tracepoint", "raw_tracepoint_writable", "tracing", "kprobe", "tracepoint"}
)


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
    own = {fields["prog_id"] for fields in descriptors(ours, "prog_id")} if ours else set()
    loaded = bpftool("prog", "show")
    return sum(one["type"] in TRACING and str(one["id"]) not in own for one in loaded)
