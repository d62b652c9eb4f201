"""What is there, what is missing, what that prevents and what to do: `waggle check`.

report = preflight.report()
report.ready        # whether `waggle run` can work here
report.flavours     # ways of capture that this kernel allows, best first
print(report.text())
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from waggle import cgroups, features, privileges
from waggle.errors import UnsupportedError
from waggle.features import Answer, Feature, Lockdown
from waggle.libbpf import KernelTypes, LoadError, library
from waggle.privileges import Capability

_ASK_AS_ROOT = "`sudo waggle check` can tell"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report.

    prevents, remedy: set when the answer is not yes and somebody should care.
    required: without it nothing can be traced.
    """

    name: str
    answer: Answer
    reason: str
    required: bool = False
    prevents: str = ""
    remedy: str = ""

    @classmethod
    def of(
        cls, feature: Feature, *, required: bool = False, prevents: str = "", remedy: str = ""
    ) -> "Check":
        """A check from a feature; prevents and remedy only where the answer is a no."""
        if feature:
            return cls(feature.name, feature.answer, feature.reason, required)
        if feature.answer is Answer.UNKNOWN:
            return cls(feature.name, feature.answer, feature.reason, required, "", _ASK_AS_ROOT)
        return cls(feature.name, feature.answer, feature.reason, required, prevents, remedy)


@dataclass(frozen=True, slots=True)
class Report:
    """Every check, and what follows from them."""

    checks: tuple[Check, ...]
    flavours: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """Every required check says yes, and one way of capture works."""
        required = [check for check in self.checks if check.required]
        return bool(self.flavours) and all(c.answer is Answer.YES for c in required)

    @property
    def problems(self) -> tuple[Check, ...]:
        """The checks that prevent something."""
        return tuple(c for c in self.checks if c.answer is not Answer.YES and c.prevents)

    def text(self) -> str:
        """For a terminal: one line a check, then the verdict."""
        width = max(len(check.name) for check in self.checks)
        lines = [line for check in self.checks for line in _lines(check, width)]
        return "\n".join([*lines, "", self.verdict()])

    def verdict(self) -> str:
        """One sentence: can it work, and how."""
        if self.ready:
            return f"Ready: capture by {self.flavours[0]} (possible: {', '.join(self.flavours)})."
        lacking = [c.name for c in self.checks if c.required and c.answer is Answer.NO]
        unknown = [c.name for c in self.checks if c.required and c.answer is Answer.UNKNOWN]
        if not self.flavours and not lacking and not unknown:
            lacking = ["a way of capture"]
        missing = [f"missing {', '.join(lacking)}"] if lacking else []
        untold = [f"could not tell about {', '.join(unknown)}"] if unknown else []
        return f"Not ready: {'; '.join(missing + untold)}."

    def as_dict(self) -> dict[str, Any]:
        """For `--json`: plain types only."""
        checks = [
            {
                "name": c.name,
                "answer": c.answer.value,
                "reason": c.reason,
                "required": c.required,
                "prevents": c.prevents,
                "remedy": c.remedy,
            }
            for c in self.checks
        ]
        return {"ready": self.ready, "flavours": list(self.flavours), "checks": checks}


_MARKS = {Answer.YES: "✓", Answer.NO: "✗", Answer.UNKNOWN: "?"}


def _lines(check: Check, width: int) -> list[str]:
    lines = [f"{_MARKS[check.answer]} {check.name:<{width}}  {check.reason}"]
    if check.prevents:
        lines.append(f"  {'':<{width}}  prevents: {check.prevents}")
    if check.remedy:
        lines.append(f"  {'':<{width}}  remedy: {check.remedy}")
    return lines


def report() -> Report:
    """Try everything; takes about a fifth of a second and never raises for what it finds."""
    checks = [_libbpf(), *_privileges()]
    if checks[0].answer is not Answer.YES:
        return Report(tuple(checks), ())
    checks += _basics()
    hooks = _hooks()
    return Report((*checks, *hooks.values(), *_extras()), _flavours(hooks))


def _libbpf() -> Check:
    try:
        library()
    except LoadError as error:
        return Check(
            "libbpf", Answer.NO, str(error), True, "everything", "install libbpf1 (libbpf.so.1)"
        )
    return Check("libbpf", Answer.YES, "libbpf.so.1", True)


_TELLING = "telling other machines (the TCP option) and strangers (headers) of a trace"
_LOSS_BY_CAPABILITY = {
    Capability.BPF: "loading BPF programs",
    Capability.PERFMON: "loading BPF programs that trace",
    Capability.SYS_PTRACE: "names of services that run as other users (their environment)",
    Capability.DAC_READ_SEARCH: "names of services that run as other users (their environment)",
    Capability.NET_ADMIN: _TELLING,
}


def _privileges() -> list[Check]:
    return [
        Check.of(
            features.capability(wanted),
            required=wanted in privileges.LOADING,
            prevents=loss,
            remedy=f"run with sudo, or grant {wanted.label}",
        )
        for wanted, loss in _LOSS_BY_CAPABILITY.items()
    ]


def _basics() -> list[Check]:
    return [
        Check.of(
            features.btf(),
            required=True,
            prevents="loading: our programs find the kernel's fields by it",
            remedy="a kernel with CONFIG_DEBUG_INFO_BTF, as distributions build theirs since 2021",
        ),
        Check.of(
            features.ring_buffer(),
            required=True,
            prevents="getting records out of the kernel",
            remedy="Linux 5.8 or newer",
        ),
        Check.of(
            features.bpf_loop(),
            required=True,
            prevents="parsing HTTP in the kernel",
            remedy="Linux 5.17 or newer",
        ),
    ]


# What is lost without a hook, and the first kernel that has it.
_SOCKET_HOOKS = {
    "tcp_sendmsg_locked": ("flavour socket: what is sent over TCP", "6.16"),
    "sock_recv_length": ("flavour socket: what is received", "6.3"),
    "sk_data_ready": ("flavour socket: UNIX sockets", "6.3"),
}
_FENTRY_LOSS = "flavour probe"


def _hooks() -> dict[str, Check]:
    """The checks of every hook a flavour stands on, by the hook's name."""
    found: dict[str, Check] = {}
    for name, feature in _asked_with_types().items():
        loss, since = _SOCKET_HOOKS.get(name, (_FENTRY_LOSS, ""))
        remedy = f"Linux {since} or newer; flavour syscall works without" if since else ""
        found[name] = Check.of(feature, prevents=loss, remedy=remedy)
    for name in ("sys_enter", "sys_exit"):
        found[name] = Check.of(features.raw_tracepoint(name), prevents="flavour syscall")
    return found


def _asked_with_types() -> dict[str, Feature]:
    """Hooks that are found by the kernel's BTF, which is loaded once for all of them."""
    names = (*features.SOCKET_HOOKS, "fentry")
    try:
        with KernelTypes() as types:
            found = {n: features.typed_tracepoint(n, types) for n in features.SOCKET_HOOKS}
            return {**found, "fentry": features.function_entry(types=types)}
    except LoadError as error:
        return {name: Feature(name, Answer.UNKNOWN, str(error)) for name in names}


_FLAVOURS: dict[str, Callable[[dict[str, Answer]], bool]] = {
    "socket": lambda a: all(a[n] is Answer.YES for n in ("tcp_sendmsg_locked", "sock_recv_length")),
    "probe": lambda a: a["fentry"] is Answer.YES,
    "syscall": lambda a: all(a[n] is Answer.YES for n in ("sys_enter", "sys_exit")),
}


def _flavours(hooks: dict[str, Check]) -> tuple[str, ...]:
    """The ways of capture whose hooks are there, cheapest for everybody else first."""
    answers = {name: check.answer for name, check in hooks.items()}
    return tuple(name for name, works in _FLAVOURS.items() if works(answers))


def _extras() -> list[Check]:
    """What is good to know and prevents nothing of what is needed for sockets."""
    mode, how = features.lockdown()
    known = Answer.UNKNOWN if mode is Lockdown.UNKNOWN else Answer.YES
    lockdown = Check("kernel lockdown", known, f"{mode.value} ({how})")
    if mode is Lockdown.CONFIDENTIALITY:
        lockdown = replace(
            lockdown,
            answer=Answer.NO,
            required=True,
            prevents="everything: BPF may not read kernel memory",
            remedy="boot with lockdown=integrity or none",
        )
    return [lockdown, Check.of(features.uprobe()), _control_groups()]


def _control_groups() -> Check:
    name = "control groups"
    try:
        return Check(name, Answer.YES, f"their root is {cgroups.root()}")
    except UnsupportedError as error:
        return Check(name, Answer.NO, "their root is not to be seen", False, _TELLING, str(error))
