"""How the rules that prove themselves stand in each process: for the summary of `--verbose`."""

from collections.abc import Mapping

import numpy as np

RULES = ("thread", "turn")
ALONE = "alone"


def score_lines(processes: Mapping[int, np.void]) -> list[str]:
    """One line a process and rule that a response has spoken about, by process id.

    processes: the kernel's entries (Capture.processes), layout.PROCESS.
    """
    lines: list[str] = []
    for tgid, row in sorted(processes.items()):
        lines += [
            _line(tgid, rule, row)
            for rule in RULES
            if row[f"{rule}_agrees"] or row[f"{rule}_contradicts"]
        ]
        if row["alone_calls"] or row["alone_contradicts"]:
            lines.append(_alone_line(tgid, row))
    return lines


def _line(tgid: int, rule: str, row: np.void) -> str:
    agrees, against = int(row[f"{rule}_agrees"]), int(row[f"{rule}_contradicts"])
    ended = "; ended there" if against else ""
    return f"{rule} in process {tgid}: {agrees:,} responses agree, {against:,} contradict{ended}"


def _alone_line(tgid: int, row: np.void) -> str:
    """No response can speak against it, but a call while nothing is served can."""
    calls, against = int(row["alone_calls"]), int(row["alone_contradicts"])
    ended = "; ended there" if against else ""
    return f"{ALONE} in process {tgid}: {calls:,} calls claimed, {against:,} while idle{ended}"
