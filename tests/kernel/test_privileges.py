"""Giving up capabilities, for real: each test does it in a child process of its own."""

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel.support import compiled
from waggle import privileges
from waggle.errors import PrivilegeError
from waggle.libbpf import LoadError, Object
from waggle.privileges import LOADING, RUNNING, Capability

NOBODY = 65534


def in_child(test: Callable[[], None]) -> None:
    """Run a test in a forked process; what it raises fails this one."""
    child = os.fork()
    if child == 0:
        try:
            test()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def become_nobody() -> None:
    """Another user without any capability."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def status(field: str, of: str = "self") -> int:
    """A hexadecimal or decimal field of /proc/PID/status."""
    for line in Path(f"/proc/{of}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1], 16)
    raise AssertionError(field)


def test_the_sets_are_the_kernels() -> None:
    """current() is what /proc says."""
    sets = privileges.current()
    assert (sets.effective, sets.permitted) == (status("CapEff"), status("CapPrm"))


def test_require_names_what_is_missing_and_the_way_out() -> None:
    """Without privilege require() raises, naming each capability and three remedies."""

    def test() -> None:
        become_nobody()
        assert privileges.missing(LOADING) == LOADING
        with pytest.raises(PrivilegeError) as caught:
            privileges.require()
        message = str(caught.value)
        assert message.startswith("missing CAP_BPF, CAP_PERFMON: run with sudo")
        assert "setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search+ep" in message
        assert "AmbientCapabilities=CAP_BPF CAP_PERFMON" in message

    in_child(test)


def test_require_passes_with_root() -> None:
    """With everything there, nothing is raised and nothing is missing."""
    privileges.require()
    assert privileges.missing((*LOADING, *RUNNING)) == ()


def test_loading_without_privilege_names_the_capabilities() -> None:
    """The kernel's refusal becomes a LoadError with exit code 3 that names CAP_BPF."""
    path = compiled("binding")

    def test() -> None:
        become_nobody()
        bpf = Object.open(path)
        with pytest.raises(LoadError, match="missing CAP_BPF, CAP_PERFMON") as caught:
            bpf.load()
        assert caught.value.exit_code == 3

    in_child(test)


def test_dropping_keeps_what_running_needs_and_nothing_else() -> None:
    """Every set of the thread holds just what was kept, and no_new_privs is on."""

    def test() -> None:
        assert set(privileges.drop()) == set(RUNNING)
        kept = sum(1 << capability for capability in RUNNING)
        for field in ("CapEff", "CapPrm", "CapBnd"):
            assert status(field) == kept, field
        for field in ("CapInh", "CapAmb"):
            assert status(field) == 0, field
        assert status("NoNewPrivs") == 1

    in_child(test)


def test_what_was_dropped_cannot_come_back() -> None:
    """After the drop no BPF can be loaded, the sets cannot be raised, nor by executing."""
    path = compiled("binding")

    def test() -> None:
        privileges.drop()
        with pytest.raises(LoadError, match="missing CAP_BPF"):
            Object.open(path).load()
        with pytest.raises(PrivilegeError, match="cannot give up"):
            privileges._set(privileges.Sets(1 << Capability.BPF, 1 << Capability.BPF, 0))
        executed = os.popen("grep CapEff /proc/self/status").read()  # noqa: S605
        assert int(executed.split()[1], 16) & 1 << Capability.BPF == 0

    in_child(test)


def test_maps_can_still_be_read_after_the_drop() -> None:
    """What was loaded before keeps working, and the check that says so was run without CAP_BPF."""
    path = compiled("binding")

    def test() -> None:
        had_bpf: list[bool] = []
        with Object.open(path) as bpf:
            bpf.rodata["target"] = os.getpid()
            bpf.load()
            bpf.attach("on_getppid")

            def read() -> None:
                had_bpf.append(privileges.has(Capability.BPF))
                bpf.map("narrow").sum_over_cpus()

            privileges.drop(still_works=read)
            os.getppid()
            assert bpf.map("narrow").sum_over_cpus()[1] == 1
            bpf.map("table").update(bytes(8), bytes(4))
            assert had_bpf == [False]

    in_child(test)


def test_a_kernel_that_refuses_map_reads_keeps_cap_bpf() -> None:
    """When the check is refused, CAP_BPF stays, and CAP_SYS_ADMIN goes nonetheless."""

    def test() -> None:
        def refused() -> None:
            raise PermissionError(1, "as kernels before 5.19 do")

        kept = privileges.drop(still_works=refused)
        assert set(kept) == {*RUNNING, Capability.BPF}
        assert status("CapEff") == sum(1 << capability for capability in kept)

    in_child(test)


def test_other_users_environments_stay_readable() -> None:
    """After the drop, /proc/PID/environ of another user's process can still be read."""
    ready, told = os.pipe()
    stay, leave = os.pipe()
    other = os.fork()
    if other == 0:
        os.close(leave)
        os.dup2(stay, 0)
        os.dup2(told, 1)
        become_nobody()
        os.execv("/bin/sh", ["/bin/sh", "-c", "echo; read line"])  # noqa: S606
    os.close(stay)
    os.close(told)
    assert os.read(ready, 1) == b"\n"

    def test() -> None:
        privileges.drop()
        Path(f"/proc/{other}/environ").read_bytes()
        assert Path(f"/proc/{other}/exe").readlink().is_absolute()

    in_child(test)
    os.close(leave)
    os.waitpid(other, 0)


def test_a_started_command_is_not_restricted() -> None:
    """A child that was started before the drop keeps its own sets."""
    stay, leave = os.pipe()
    before = os.fork()
    if before == 0:
        os.close(leave)
        os.read(stay, 1)
        os._exit(0)

    def test() -> None:
        privileges.drop()
        assert status("NoNewPrivs", str(before)) == 0
        assert status("CapEff", str(before)) & 1 << Capability.BPF

    in_child(test)
    os.close(leave)
    os.close(stay)
    os.waitpid(before, 0)
