"""Channels: who gives to one that waits, or takes from one, and how an item is put into a buffer
and leaves it. For workers that get their work that way (--go-handover)."""

from collections.abc import Iterator, Mapping

from waggle.probes.go import instructions
from waggle.probes.go.chooser import LONG_FUNCTION, Chooser, Hooks

_SEND, _RECEIVE = "runtime.send", "runtime.recv"
_TO_CHANNEL, _FROM_CHANNEL, _SELECT = "runtime.chansend", "runtime.chanrecv", "runtime.selectgo"
_MOVE, _CLEAR = "runtime.typedmemmove", "runtime.typedmemclr"
FUNCTIONS = (_SEND, _RECEIVE, _TO_CHANNEL, _FROM_CHANNEL, _SELECT, _MOVE, _CLEAR)
_ENTRIES = (("go_channel_send", _SEND), ("go_channel_receive", _RECEIVE))
# BPF program -> whose calls of what it looks at, and how many there are at least.
_CALLS = (
    ("go_channel_put", _TO_CHANNEL, _MOVE, 1),
    ("go_channel_put", _SELECT, _MOVE, 2),
    ("go_channel_take", _FROM_CHANNEL, _CLEAR, 1),
    ("go_channel_take", _SELECT, _CLEAR, 1),
)


def channel_hooks(chooser: Chooser, offsets: Mapping[str, int], *, is_guess: bool) -> Hooks:
    """All ways in which an item passes a channel; none where one of them is not found, since
    what is missed would make the others tell something wrong."""
    if is_guess or "channel_next" not in offsets:
        chooser.missing.append("its version of Go is not known: no parents by hand-over")
        return []
    try:
        return [(program, _offset(chooser, address)) for program, address in _places(chooser)]
    except (KeyError, instructions.NoInstructionError) as error:
        chooser.missing.append(f"its channels are not known: no parents by hand-over: {error}")
        return []


def _places(chooser: Chooser) -> Iterator[tuple[str, int]]:
    """BPF programs and addresses. Raises KeyError and NoInstructionError."""
    functions = chooser.functions
    for program, name in _ENTRIES:
        yield program, instructions.at_stack_check(chooser.code(functions[name]))
    for program, name, called, least in _CALLS:
        code = chooser.code(functions[name], LONG_FUNCTION)
        calls = instructions.calls_to(code, functions[called].address)
        if len(calls) < least:
            raise instructions.NoInstructionError(f"{name} does not call {called}")
        yield from ((program, address) for address in calls)


def _offset(chooser: Chooser, address: int) -> int:
    offset = chooser.program.image.file_offset(address)
    if offset is None:
        raise instructions.NoInstructionError(f"{address:#x} is not in the file")
    return offset
