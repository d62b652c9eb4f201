"""A refused load in one useful line, on logs that libbpf 1.1 and kernel 6.18 wrote (golden/)."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from waggle.libbpf import MAX_LOG_BYTES, LoadError, explain_failure, useful_line
from waggle.libbpf.calls import Log

GOLDEN = Path(__file__).parent / "golden"
NO_PRIVILEGE = ("CAP_BPF", "CAP_PERFMON")


def golden(name: str) -> str:
    return (GOLDEN / f"{name}.log").read_text()


# log -> errno, capabilities missing, the whole message, exit code.
CASES: dict[str, tuple[int, tuple[str, ...], str, int]] = {
    "unchecked_pointer": (
        errno.EACCES,
        (),
        "cannot load x.bpf.o: R0 invalid mem access 'map_value_or_null' "
        "(at: *value = 1; /* may be NULL */) (21 lines omitted)",
        1,
    ),
    "unchecked_pointer_unprivileged": (
        errno.EPERM,
        NO_PRIVILEGE,
        "cannot load x.bpf.o: missing CAP_BPF, CAP_PERFMON: run with sudo, or grant them "
        "(3 lines omitted)",
        3,
    ),
    "writes_user_memory": (
        errno.EINVAL,
        (),
        "cannot load x.bpf.o: program of this type cannot use helper bpf_probe_write_user#36 "
        "(at: bpf_probe_write_user((void *)ctx->args[0], &value, sizeof(value));) "
        "(19 lines omitted): "
        "bpf_probe_write_user is refused where kernel lockdown is on (Secure Boot)",
        4,
    ),
    "reads_missing_field": (
        errno.EINVAL,
        (),
        "cannot load x.bpf.o: failed to resolve CO-RE relocation <byte_off> [23] "
        "struct no_such_type.field (0:0 @ offset 0) (at: int field = 0;) (13 lines omitted): "
        "this kernel has not the type or field that the program reads",
        4,
    ),
    "missing_hook": (
        errno.ESRCH,
        (),
        "cannot load x.bpf.o: prog 'missing_hook': failed to find kernel BTF type ID of "
        "'no_such_tracepoint': -3 (3 lines omitted): "
        "this kernel has no hook no_such_tracepoint; choose another --capture",
        4,
    ),
    "missing_hook_no_btf": (
        errno.ESRCH,
        (),
        "cannot load x.bpf.o: failed to find valid kernel BTF (2 lines omitted): "
        "kernel without BTF: needs CONFIG_DEBUG_INFO_BTF "
        "(then /sys/kernel/btf/vmlinux exists), as most distributions' kernels have it",
        4,
    ),
    "missing_raw_hook": (
        errno.ENOENT,
        (),
        "cannot load x.bpf.o: prog 'missing_raw_hook': failed to attach to raw tracepoint "
        "'no_such_tracepoint': No such file or directory: "
        "this kernel has no hook no_such_tracepoint; choose another --capture",
        4,
    ),
    "function_entry": (
        errno.EPERM,
        (),
        "cannot load x.bpf.o: prog 'function_entry': BPF program load failed: "
        "Operation not permitted (3 lines omitted): "
        "all capabilities are there, so the kernel itself refuses: lockdown, a security module, "
        "a container's seccomp profile or, before 5.11, `ulimit -l`; choose another --capture",
        4,
    ),
    "empty_map": (
        errno.EINVAL,
        (),
        "cannot load x.bpf.o: map 'table': failed to create: Invalid argument(-22) "
        "(2 lines omitted): this kernel has no maps of that type, or table has a size it "
        "cannot have",
        4,
    ),
    "too_large": (
        errno.E2BIG,
        (),
        "cannot load x.bpf.o: BPF program is too large. Processed 1000001 insn "
        "(at: for (int i = 0; i < 1000000; i++) /* the verifier walks every turn, and stops at "
        "a million */) (59 lines omitted): "
        "the verifier of this kernel gave up on the program's size; choose another --capture",
        4,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_golden_log_becomes_its_line(name: str) -> None:
    """Cause, omitted lines, remedy and exit code of each kind of refusal are exactly these."""
    code, missing, message, exit_code = CASES[name]
    error = explain_failure("load x.bpf.o", code, golden(name), missing=missing)
    assert str(error) == message
    assert error.exit_code == exit_code
    assert error.errno == code
    assert error.full_log == golden(name)


def test_every_golden_log_is_used() -> None:
    """No log lies in the folder without a case."""
    assert {path.stem for path in GOLDEN.glob("*.log")} == set(CASES)


def test_wordings_of_other_kernels_are_known() -> None:
    """Older and newer verifiers say the same thing in other words."""
    poisoned = "invalid func unknown#195896080\nprocessed 9 insns (limit 1000000)\n"
    helper = "unknown func bpf_loop#181\n"
    assert "has not the type or field" in str(explain_failure("x", errno.EINVAL, poisoned))
    assert "does not offer bpf_loop#181" in str(explain_failure("x", errno.EINVAL, helper))


def test_without_a_log_the_errno_speaks() -> None:
    """No log at all: the error's own name, and no count of omitted lines."""
    assert useful_line("") == ("", 0)
    assert (
        str(explain_failure("open x", errno.ENOMEM, "")) == "cannot open x: Cannot allocate memory"
    )
    unsupported = explain_failure("open x", 524, "")
    assert str(unsupported) == (
        "cannot open x: not supported by this kernel: choose another --capture"
    )
    assert unsupported.exit_code == 4
    assert str(explain_failure("open x", 4003, "")) == "cannot open x: libbpf error 4003"


def test_one_omitted_line_is_singular() -> None:
    """The count reads as English."""
    assert "(1 line omitted)" in str(explain_failure("x", 0, "libbpf: first\nlibbpf: second\n"))


def test_the_last_of_several_logs_counts() -> None:
    """libbpf tries again with a larger buffer: what the last try said is the reason."""
    log = (
        "-- BEGIN PROG LOAD LOG --\nearly\n-- END PROG LOAD LOG --\n"
        "-- BEGIN PROG LOAD LOG --\nlate\n-- END PROG LOAD LOG --\n"
    )
    assert useful_line(log)[0] == "late"


def test_a_log_is_bounded_and_keeps_its_end() -> None:
    """However much is said, memory is bounded and the newest words are there."""
    log = Log()
    for _ in range(5):
        log.add("x" * MAX_LOG_BYTES)
        assert sum(map(len, log._parts)) <= 2 * MAX_LOG_BYTES
    log.add("the end")
    assert len(log.text()) == MAX_LOG_BYTES
    assert log.text().endswith("xthe end")


def test_a_machine_without_libbpf_is_told_what_to_install() -> None:
    """Where the dynamic linker finds no libbpf.so.1, the error names the package; exit code 4."""
    program = (
        "import ctypes, sys\n"
        "real = ctypes.CDLL\n"
        "class Missing(real):\n"
        "    def __init__(self, name, *rest, **more):\n"
        "        super().__init__('absent-' + name if name else name, *rest, **more)\n"
        "ctypes.CDLL = Missing\n"
        "from waggle.libbpf import library, LoadError\n"
        "try:\n"
        "    library()\n"
        "except LoadError as error:\n"
        "    print(error)\n"
        "    sys.exit(error.exit_code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "libbpf.so.1 cannot be loaded" in done.stdout
    assert "install libbpf1" in done.stdout
    assert done.returncode == 4


def test_the_error_is_one_of_ours() -> None:
    """main() prints it like any other and takes its exit code."""
    error = LoadError("message", exit_code=3)
    assert (str(error), error.exit_code, error.full_log) == ("message", 3, "")
