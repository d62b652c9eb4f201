"""docs/kernels.md: what the kernels of tests/vm were seen to offer."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import machine
from .errors import MachineFailedError
from .kernels import Kernel
from .paths import ROOT

PAGE = ROOT / "docs" / "kernels.md"
BEGIN = "<!-- features: written by `python -m tests.vm features --write` -->"
END = "<!-- features end -->"


@dataclass(frozen=True, slots=True)
class Seen:
    """One kernel's answers, as tests/vm/features.py gave them inside."""

    kernel: Kernel
    boot_s: float
    answers: dict[str, Any]


def see(kernel: Kernel) -> Seen:
    """Boot the kernel and ask. Raises MachineFailedError when it says nothing."""
    command = [".venv/bin/python", "-m", "tests.vm.features"]
    outcome = machine.run(kernel, command, limit_s=300)
    if "features.json" not in outcome.files:
        raise MachineFailedError(f"{kernel.release}: {' '.join(command)} failed:\n{outcome.output}")
    return Seen(kernel, outcome.boot_s, json.loads(outcome.files["features.json"]))


def markdown(seen: Sequence[Seen]) -> str:
    """The table: a column a kernel, a row a feature."""
    rows = [
        _row("Debian", seen, lambda one: one.kernel.suite),
        "|---|" + "---|" * len(seen),
        _row("kernel", seen, lambda one: str(one.answers["release"])),
        _row("package", seen, lambda one: one.kernel.package.split()[-1]),
        _row("boot, emulated", seen, lambda one: f"{one.boot_s:.0f} s"),
        _row("lockdown", seen, lambda one: str(one.answers["lockdown"])),
    ]
    for name in seen[0].answers["answers"]:
        rows.append(_row(name, seen, _answer_cell(name)))
    for name in seen[0].answers["flavours"]:
        rows.append(_row(f"**`--capture {name}`**", seen, _flavour_cell(name)))
    return "\n".join(rows)


def _row(label: str, seen: Sequence[Seen], cell: Callable[[Seen], str]) -> str:
    return "| " + " | ".join([label, *(cell(one) for one in seen)]) + " |"


def _answer_cell(name: str) -> Callable[[Seen], str]:
    return lambda one: str(one.answers["answers"][name]["answer"])


def _flavour_cell(name: str) -> Callable[[Seen], str]:
    return lambda one: "yes" if one.answers["flavours"][name]["works"] else "no"


def write(table: str, page: Path = PAGE) -> None:
    """Replace the page's table, and say when it was seen."""
    text = page.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    page.write_text(f"{before}{BEGIN}\n\nSeen on {day}:\n\n{table}\n\n{END}{after}")
