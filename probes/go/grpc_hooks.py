"""grpc-go: who serves a stream, and who asks for a new one."""

from collections.abc import Mapping
from contextlib import suppress

from waggle.probes.go import instructions
from waggle.probes.go.chooser import Chooser, Hooks, place_of

# Of grpc's server, whose fields move from version to version.
_HANDLER = "google.golang.org/grpc.(*Server).handleStream"
# Of its client: the function in which a new stream gets its number, and what it calls then.
_NEW_STREAM = "google.golang.org/grpc/internal/transport.(*http2Client).NewStream"
_ASSIGN = "runtime.mapassign_fast32"
# Where that cannot be understood: a call in NewStream itself, and who takes what it gives.
_PUT = "google.golang.org/grpc/internal/transport.(*controlBuffer).executeAndPut"
_SEND_HEADERS = (
    "google.golang.org/grpc/internal/transport.(*loopyWriter).headerHandler",
    "google.golang.org/grpc/internal/transport.(*loopyWriter).clientHeaderHandler",
)
FUNCTIONS = (_HANDLER, _NEW_STREAM, _ASSIGN, _PUT, *_SEND_HEADERS)
CLOSURES = f"{_NEW_STREAM}.func"


def grpc_hooks(chooser: Chooser, offsets: Mapping[str, int] | None) -> Hooks:
    """offsets: of the module's version, None where that is not known."""
    found: Hooks = []
    calls: Hooks = []
    if offsets is not None:
        chooser.add(found, "go_grpc_handler", _HANDLER, instructions.at_entry)
        calls = _calls(chooser, offsets["grpc_stream"])
    elif _HANDLER in chooser.functions:
        chooser.missing.append("its version of grpc is not known: handlers' calls have no parents")
    if not calls:
        chooser.add_call(calls, "go_grpc_new_stream", _NEW_STREAM, _PUT)
        for name in _SEND_HEADERS:
            chooser.add(calls, "go_grpc_send_headers", name, instructions.at_entry)
    return found + calls


def _calls(chooser: Chooser, id_offset: int) -> Hooks:
    """Where a call gets its stream, with `places`; none where it is not as it was."""
    assign = chooser.functions.get(_ASSIGN)
    for name, function in chooser.functions.items():
        if assign is None or not name.startswith(CLOSURES):
            continue
        with suppress(instructions.NoInstructionError):
            code = chooser.code(function)
            found = instructions.assignment_of(code, assign.address, id_offset)
            client, stream = place_of(found.client), place_of(found.stream)
            offset = chooser.program.image.file_offset(found.address)
            if client and stream and offset is not None:
                chooser.places |= {"grpc_call_client": client, "grpc_call_stream": stream}
                return [("go_grpc_call", offset)]
    return []
