"""Probing this kernel, and the report made of it."""

import os
from pathlib import Path

import pytest

from kernel.support import in_mount_namespace
from waggle import features, preflight
from waggle.features import Answer, Lockdown
from waggle.libbpf import KIND_FUNC, KernelTypes


@pytest.mark.parametrize("name", ["sys_enter", "sys_exit", "sched_process_exec"])
def test_tracepoints_of_every_kernel_are_found(name: str) -> None:
    """What every kernel has is a yes, by both ways to attach."""
    assert features.raw_tracepoint(name).answer is Answer.YES
    assert features.typed_tracepoint(name).answer is Answer.YES


def test_what_no_kernel_has_is_a_no_with_its_name() -> None:
    """A tracepoint or function of a made-up name is a no whose reason says so."""
    assert features.raw_tracepoint("waggle_nonsense").answer is Answer.NO
    typed = features.typed_tracepoint("waggle_nonsense")
    assert (typed.answer, "btf_trace_waggle_nonsense" in typed.reason) == (Answer.NO, True)
    assert features.function_entry("waggle_nonsense").answer is Answer.NO


def test_helpers_are_told_apart() -> None:
    """bpf_loop is there on a kernel with its BTF function, a number beyond all helpers is not."""
    with KernelTypes() as types:
        assert bool(features.bpf_loop()) == bool(types.find("bpf_loop", KIND_FUNC))
    assert not features._has_helper(100_000)


def test_a_probe_leaves_nothing_behind() -> None:
    """Descriptors opened by the probes are closed again."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    preflight.report()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_without_privilege_the_answer_is_could_not_tell() -> None:
    """A refusal for want of a capability says nothing about the kernel, and names it."""
    child = os.fork()
    if child == 0:
        os.setresuid(65534, 65534, 65534)
        found = [features.ring_buffer(), features.bpf_loop(), features.raw_tracepoint()]
        untold = all(f.answer is Answer.UNKNOWN and "missing CAP_BPF" in f.reason for f in found)
        report = preflight.report()
        named = "missing CAP_BPF, CAP_PERFMON" in report.verdict()
        os._exit(0 if untold and named and not report.ready else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_lockdown_by_refusal_agrees_with_the_file() -> None:
    """The mode found by trying is the one securityfs tells, where it tells."""
    mounted = "mount -t securityfs none /sys/kernel/security"
    text = in_mount_namespace(f"{mounted} && cat /sys/kernel/security/lockdown")
    mode, how = features.lockdown()
    assert mode is not Lockdown.UNKNOWN, how
    if text:
        assert features.parse_lockdown(text) is mode


def test_the_report_is_ready_here() -> None:
    """With root and BTF something can capture; syscall is always among the flavours."""
    report = preflight.report()
    assert report.ready, report.text()
    assert "syscall" in report.flavours
    assert report.text().endswith(report.verdict())
    assert report.as_dict()["flavours"] == list(report.flavours)


def test_the_socket_flavour_needs_its_tracepoints() -> None:
    """socket is offered exactly where both TCP tracepoints attach."""
    hooks = [features.typed_tracepoint(n) for n in ("tcp_sendmsg_locked", "sock_recv_length")]
    assert ("socket" in preflight.report().flavours) == all(hooks)
