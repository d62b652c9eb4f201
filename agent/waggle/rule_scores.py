"""How the rules that prove themselves stand in each process: for the summary of `--verbose`."""

from collections.abc import Mapping

import numpy as np

RULES = ("thread", "turn")


def score_lines(processes: Mapping[int, np.void]) -> list[str]:
    """One line a process and rule that a response has spoken about, by process id.

    processes: the kernel's entries (Capture.processes), layout.PROCESS.
    """
    return [
        _line(tgid, rule, row)
        for tgid, row in sorted(processes.items())
        for rule in RULES
        if row[f"{rule}_agrees"] or row[f"{rule}_contradicts"]
    ]


def _line(tgid: int, rule: str, row: np.void) -> str:
    agrees, against = int(row[f"{rule}_agrees"]), int(row[f"{rule}_contradicts"])
    ended = "; ended there" if against else ""
    return f"{rule} in process {tgid}: {agrees:,} responses agree, {against:,} contradict{ended}"
