"""The agent under stock Debian kernels.

make test-vm                               # every kernel
WAGGLE_VM=bookworm,trixie make test-vm     # these only
WAGGLE_REQUIRE_VM=1 make test-vm           # what is missing fails instead of skipping
"""

import json
import os
from functools import cache

import pytest

from . import kernels, machine, tools
from .errors import KernelMissingError, ToolMissingError
from .kernels import Kernel

CHECK = [".venv/bin/python", "-m", "tests.vm.guest_check"]

# Flavours that must capture, export and give parents on each suite's kernel. On 5.10 the
# agent may also refuse, if it says why.
REQUIRED = {
    "bullseye": set[str](),
    "bookworm": {"auto", "probe", "syscall"},
    "trixie": {"auto", "probe", "syscall"},
    "sid": {"auto", "socket", "probe", "syscall"},
}

CHECK_LIMIT_S = 1800


def _chosen() -> list[str]:
    named = os.environ.get("WAGGLE_VM", "")
    suites = [suite for suite in named.replace(",", " ").split() if suite]
    unknown = sorted(set(suites) - set(kernels.SUITES))
    if unknown:
        raise pytest.UsageError(f"WAGGLE_VM names {unknown}; known: {', '.join(kernels.SUITES)}")
    return suites or list(kernels.SUITES)


@cache
def _kernel_or_reason(suite: str) -> Kernel | str:
    """The kernel, ready to boot, or why there is none."""
    try:
        tools.require()
        return kernels.fetch(suite)
    except (ToolMissingError, KernelMissingError) as error:
        return str(error)


def _kernel(suite: str) -> Kernel:
    found = _kernel_or_reason(suite)
    if isinstance(found, Kernel):
        return found
    if os.environ.get("WAGGLE_REQUIRE_VM") == "1":
        pytest.fail(f"WAGGLE_REQUIRE_VM=1, but {found}")
    pytest.skip(found)


@pytest.mark.vm
@pytest.mark.parametrize("suite", _chosen())
def test_agent_traces_under_this_kernel(suite: str) -> None:
    """Every flavour the kernel has gives each span once, with the right parent and evidence."""
    options = [] if REQUIRED[suite] else ["--may-refuse"]
    outcome = machine.run(_kernel(suite), [*CHECK, *options], limit_s=CHECK_LIMIT_S)
    assert outcome.exit_code == 0, outcome.output
    report = json.loads(outcome.files["check.json"])
    assert set(report["required"]) >= REQUIRED[suite]
    for verdict in report["verdicts"]:
        assert verdict["spans"] or verdict["refused"], verdict


@pytest.mark.vm
def test_exit_code_and_output_come_back() -> None:
    """A command's exit code, its output and its files cross the border of the machine."""
    kernel = _kernel(_chosen()[0])
    script = "echo said; echo left > $VM_OUT/file; uname -r; exit 7"
    outcome = machine.run(kernel, ["sh", "-c", script], limit_s=60)
    assert outcome.exit_code == 7
    assert outcome.output.split() == ["said", kernel.release]
    assert outcome.files == {"file": b"left\n"}
