"""What went wrong, in one line: of all that libbpf and the verifier say of a refusal."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass

from waggle.errors import PrivilegeError, UnsupportedError, WaggleError

ENOTSUPP = 524  # the kernel's own "not supported", which has no name in user space


class LoadError(WaggleError):
    """libbpf or the kernel refused an object, a program or an attachment.

    The message is one line: what was refused, the line of the log that says
    why, how many lines were left out, and the remedy when the cause is known.
    full_log: everything libbpf and the verifier said (its last 4 MiB).
    exit_code: 3 when a privilege is missing, 4 when the kernel lacks something.
    """

    def __init__(self, message: str, full_log: str = "", exit_code: int = 1, code: int = 0) -> None:
        super().__init__(message)
        self.full_log = full_log
        self.exit_code = exit_code
        self.errno = code


# -- What went wrong, in one line ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cause:
    """A known failure: how its log reads and what to do about it."""

    pattern: re.Pattern[str]
    remedy: str
    exit_code: int


def _cause(pattern: str, remedy: str, exit_code: int = UnsupportedError.exit_code) -> _Cause:
    return _Cause(re.compile(pattern), remedy, exit_code)


# The first that matches wins. Poisoned CO-RE instructions come before unknown helpers, whose
# wording they share: libbpf writes the impossible call 195896080 (0xbad2310) over them.
_CAUSES = (
    _cause(
        r"(?:invalid|unknown) func (?:unknown)?#195896080|<invalid CO-RE relocation>"
        r"|failed to resolve CO-RE relocation",
        "this kernel has not the type or field that the program reads",
    ),
    _cause(
        r"(?:helper|unknown func) bpf_probe_write_user#36",
        "bpf_probe_write_user is refused where kernel lockdown is on (Secure Boot)",
    ),
    _cause(
        r"(?:unknown func|invalid func|cannot use helper) (?P<helper>\S+)",
        "this kernel does not offer {helper} to this type of program",
    ),
    _cause(
        r"failed to find valid kernel BTF|Error loading vmlinux BTF|kernel BTF is missing",
        "kernel without BTF: needs CONFIG_DEBUG_INFO_BTF "
        "(then /sys/kernel/btf/vmlinux exists), as most distributions' kernels have it",
    ),
    _cause(
        r"failed to find kernel BTF type ID of '(?P<name>[^']+)'"
        r"|'(?P<name2>[^']+)' is not found in vmlinux BTF"
        r"|failed to attach to raw tracepoint '(?P<name3>[^']+)': No such file",
        "this kernel has no hook {name}; choose another --capture",
    ),
    _cause(
        r"map '(?P<name>[^']+)': failed to create: Invalid argument",
        "this kernel has no maps of that type, or {name} has a size it cannot have",
    ),
    _cause(
        r"BPF program is too large|The sequence of \d+ jumps is too complex",
        "the verifier of this kernel gave up on the program's size; choose another --capture",
    ),
)

_BEGIN_LOG = re.compile(r"-- BEGIN PROG LOAD LOG --")
_END_LOG = re.compile(r"-- END PROG LOAD LOG --")
# Statistics and frames that the verifier puts after the line that matters.
_AFTER_THE_LINE = re.compile(
    r"^(processed \d+ insns? |verification time |stack depth |max_states_per_insn|mark_precise)"
)
_SOURCE_LINE = re.compile(r"^; (?P<text>.*?)(?: @ [^ ]+:\d+)?$")
# What libbpf says of every failure, or while it goes on regardless: tells nothing.
_SUMMARY = re.compile(
    r"^libbpf: (failed to load object|prog '[^']*': failed to load:|Failed to bump RLIMIT_MEMLOCK"
    r"|Error in bpf_create_map_xattr)"
)


def useful_line(log: str) -> tuple[str, int]:
    """The one line of a log that says why, and how many lines were left out.

    In a verifier's log that is the last line before the statistics, with the
    source line it was at; without one, libbpf's first line that is no summary.
    """
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    verifier = _verifier_lines(lines)
    if verifier:
        reason, source = _verifier_reason(verifier)
        text = f"{reason} (at: {source})" if source else reason
        return text, len(lines) - 1
    said = [line for line in lines if not _SUMMARY.match(line)] or lines
    if not said:
        return "", 0
    return said[0].removeprefix("libbpf: "), len(lines) - 1


def _verifier_lines(lines: list[str]) -> list[str]:
    """The lines between the last pair of log marks (an earlier pair may be a retry).

    A log that was too long to keep has lost its first mark.
    """
    begins = [i for i, line in enumerate(lines) if _BEGIN_LOG.search(line)]
    ends = [i for i, line in enumerate(lines) if _END_LOG.search(line)]
    if not begins and not ends:
        return []
    begin = begins[-1] + 1 if begins else 0
    return lines[begin : ends[-1] if ends else len(lines)]


def _verifier_reason(lines: list[str]) -> tuple[str, str]:
    telling = [line for line in lines if not _AFTER_THE_LINE.match(line)]
    if not telling:
        return lines[-1].strip(), ""
    sources = [m["text"].strip() for line in telling if (m := _SOURCE_LINE.match(line))]
    return telling[-1].strip(), sources[-1] if sources else ""


def explain_failure(what: str, code: int, log: str, *, missing: tuple[str, ...] = ()) -> LoadError:
    """The LoadError for a refused call.

    what: the act that failed, such as "load waggle.bpf.o". code: its positive
    errno. log: what libbpf said meanwhile. missing: names of the capabilities
    this process lacks of those that loading needs.
    """
    line, omitted = useful_line(log)
    remedy, exit_code = _remedy(code, log, missing)
    if code == errno.EPERM and missing:
        line, remedy, omitted = remedy, "", len(log.splitlines())  # libbpf can only guess here
    parts = [f"cannot {what}: {line or _error_name(code)}"]
    if omitted:
        parts.append(f" ({omitted} line{'s' if omitted > 1 else ''} omitted)")
    if remedy:
        parts.append(f": {remedy}")
    return LoadError("".join(parts), log, exit_code, code)


def _remedy(code: int, log: str, missing: tuple[str, ...]) -> tuple[str, int]:
    """What to do about a failure and the exit code that goes with it."""
    if code in (errno.EPERM, errno.EACCES) and missing:
        names = ", ".join(missing)
        return f"missing {names}: run with sudo, or grant them", PrivilegeError.exit_code
    for cause in _CAUSES:
        if match := cause.pattern.search(log):
            found = [value for value in match.groupdict().values() if value]
            fields = dict.fromkeys(("helper", "name"), found[0] if found else "")
            return cause.remedy.format(**fields), cause.exit_code
    if code in (ENOTSUPP, errno.EOPNOTSUPP):
        return "choose another --capture", UnsupportedError.exit_code
    if code == errno.EPERM:
        return (
            "all capabilities are there, so the kernel itself refuses: lockdown, a security "
            "module, a container's seccomp profile or, before 5.11, `ulimit -l`; "
            "choose another --capture",
            UnsupportedError.exit_code,
        )
    return "", WaggleError.exit_code


def _error_name(code: int) -> str:
    if code == ENOTSUPP:
        return "not supported by this kernel"
    if code in errno.errorcode:
        return os.strerror(code)
    return f"libbpf error {code}"


def missing_library(detail: str) -> LoadError:
    """The error for a machine without libbpf.so.1; detail is the dynamic linker's word."""
    return LoadError(
        f"libbpf.so.1 cannot be loaded ({detail}): install libbpf1 "
        "(Debian, Ubuntu: apt install libbpf1; Fedora: dnf install libbpf)",
        exit_code=UnsupportedError.exit_code,
    )
