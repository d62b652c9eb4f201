"""What to do to every process of a Go program: worked out from its file, once.

All that is needed is in the file (binary.py): the version of Go, which says where the runtime
keeps what (offsets.py), and the entries of the few functions in which work passes from one
goroutine to another. Of each the instruction is chosen that costs least (chooser.py).
"""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from waggle.attach import RefusedError
from waggle.errors import WaggleError
from waggle.layout import GoVerdict
from waggle.probes.go.binary import (
    Function,
    GoProgram,
    NoGoProgramError,
    build_id,
    read_program,
)
from waggle.probes.go.offsets import grpc_offsets_of, offsets_of
from waggle.probes.go.table import GO as OFFSETS
from waggle.runtimes import go_build

_GRPC = "google.golang.org/grpc"
_PLANS_KEPT = 256
# What the names of functions begin with that goroutines run, and what is known of them.
_VERDICTS: dict[str, GoVerdict] = {
    # Readers and writers of pooled connections: made by whoever dialled, they live on.
    "net/http.(*Transport).dialConn": GoVerdict.PUMP,
    "net/http.(*persistConn).": GoVerdict.PUMP,
    "net/http.(*connReader).": GoVerdict.PUMP,
    "net/http.(*http2Transport).": GoVerdict.PUMP,
    "net/http/internal/http2.(*Transport).": GoVerdict.PUMP,
    "golang.org/x/net/http2.(*Transport).": GoVerdict.PUMP,
    "google.golang.org/grpc/internal/transport.": GoVerdict.PUMP,
    "database/sql.(*DB).connection": GoVerdict.PUMP,
    # One for each request, by whoever asks for it.
    "net/http.(*http2ClientConn).roundTrip": GoVerdict.ENDS,
    "net/http.(*http2ClientConn).RoundTrip": GoVerdict.ENDS,
    "net/http/internal/http2.(*ClientConn).roundTrip": GoVerdict.ENDS,
    "net/http/internal/http2.(*ClientConn).RoundTrip": GoVerdict.ENDS,
    "golang.org/x/net/http2.(*ClientConn).roundTrip": GoVerdict.ENDS,
    "golang.org/x/net/http2.(*ClientConn).RoundTrip": GoVerdict.ENDS,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do to every process of a program.

    hooks: BPF program and where in the file it is put. verdicts: address of a function
    that goroutines run, as in the file. missing: what could not be had, in words.
    """

    program: GoProgram
    slot: int
    offsets: Mapping[str, int]
    is_guess: bool
    hooks: tuple[tuple[str, int], ...]
    verdicts: Mapping[int, GoVerdict]
    missing: tuple[str, ...]


class Plans:
    """What to do to programs, worked out once for every file, and once for all its copies
    (containers have theirs). handover: with their channels."""

    def __init__(
        self, say: Callable[[str], None] = lambda text: None, *, handover: bool = False
    ) -> None:
        self._say = say
        self._handover = handover
        self._plans: dict[tuple[int, ...] | str, Plan] = {}  # by file, and by build id

    @staticmethod
    def warm() -> None:
        """Import what reading a program takes: where one may be met that shall not wait for it."""
        import elftools.elf.elffile

        from waggle.probes.go import instructions

        assert elftools and instructions

    def prepared(self, path: str) -> Plan | None:
        """That of a file which may be anything: None where it is no program of Go's, or cannot
        be read. It is asked for again when it runs, and then says why."""
        if go_build(path) is None:
            return None
        with suppress(WaggleError, OSError):
            return self.of(path)
        return None

    def of(self, path: str) -> Plan:
        """That of a program. Raises RefusedError, and OSError when it cannot be read."""
        with Path(path).open("rb") as stream:
            state = os.fstat(stream.fileno())
            file = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
            if file not in self._plans:
                # It may end while it is read; the next one that runs this is known then.
                self._read(f"/proc/self/fd/{stream.fileno()}", file)
            return self._plans[file]

    def _read(self, path: str, file: tuple[int, ...]) -> None:
        build = build_id(path)
        plan = self._plans.get(build) if build else None
        if plan is None:
            plan = make_plan(path, handover=self._handover)
            for what in plan.missing:
                self._say(f"go: {Path(path).resolve().name}: {what}")
        for key in (build, file):
            if key:
                self._remember(key, plan)

    def _remember(self, key: tuple[int, ...] | str, plan: Plan) -> None:
        if len(self._plans) >= _PLANS_KEPT:
            self._plans.pop(next(iter(self._plans)))
        self._plans[key] = plan


def make_plan(path: str, *, handover: bool = False) -> Plan:
    """Read a program's file and decide what to hook; with handover, its channels too. Raises
    RefusedError."""
    # Needs capstone, which is large, and few runs meet a Go program.
    from waggle.probes.go import channel_hooks, grpc_hooks, router_hooks, runtime_hooks
    from waggle.probes.go.chooser import Chooser

    asked = [
        *(*runtime_hooks.FUNCTIONS, *grpc_hooks.FUNCTIONS, *router_hooks.FUNCTIONS),
        *(channel_hooks.FUNCTIONS if handover else ()),
    ]
    try:
        program = read_program(path, asked, [*_VERDICTS, grpc_hooks.CLOSURES])
    except NoGoProgramError as error:
        raise RefusedError(
            f"its functions cannot be found, so its calls have no parents: {error}"
        ) from error
    offsets, is_guess = offsets_of(program.version)
    grpc = grpc_offsets_of(program.modules.get(_GRPC, ""))
    chooser = Chooser(path, program)
    if is_guess:
        chooser.missing.append(
            f"Go {program.version} is newer than what is known; it is verified first"
        )
    hooks = runtime_hooks.runtime_hooks(chooser)
    hooks += grpc_hooks.grpc_hooks(chooser, grpc)
    hooks += router_hooks.router_hooks(chooser)
    if not is_guess:
        hooks += router_hooks.servemux_hooks(chooser)
    if handover:
        hooks += channel_hooks.channel_hooks(chooser, offsets, is_guess=is_guess)
    return Plan(
        program=program,
        slot=runtime_hooks.thread_slot(chooser),
        offsets={
            **offsets,
            **(grpc or {}),
            **chooser.places,
            # What net/http bundled before 1.27, and x/net has at every version, begins alike.
            "http2_conn": next(iter(OFFSETS.values()))["http2_conn"],
            "http2_own_conn": offsets["http2_conn"],
        },
        is_guess=is_guess,
        hooks=tuple(hooks),
        verdicts=_verdicts(program.functions.values()),
        missing=tuple(chooser.missing),
    )


def _verdicts(functions: Iterable[Function]) -> dict[int, GoVerdict]:
    """By address; the longer of two beginnings that fit decides."""
    by_length = sorted(_VERDICTS, key=len, reverse=True)
    found: dict[int, GoVerdict] = {}
    for function in functions:
        for prefix in by_length:
            if function.name.startswith(prefix):
                found[function.address] = _VERDICTS[prefix]
                break
    return found
