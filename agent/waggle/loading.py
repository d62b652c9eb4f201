"""Programs on their way into the kernel, which takes as long as half of our imports.

Loading needs no more than CaptureOptions. Most command lines show those at a glance, so it begins
before the settings are read, and what was loaded is used if they turn out to be what was thought:

    begin(arguments, environ)      the thread that loads, if a glance is enough
    loading_of(options)            that one, or one that begins now
"""

import threading
from collections.abc import Mapping, Sequence

from waggle import memory, privileges
from waggle.capture import Capture
from waggle.capture_options import CaptureOptions
from waggle.errors import WaggleError

# What else than the choice of processes decides about the programs. Whoever says any of it,
# in whatever way, waits until the settings are read.
_DECIDING = (
    *("--capture", "--config", "--logs", "--ring-size", "--sample", "--tail"),
    *("--inject", "--tcp-option", "--tls", "--baggage"),
)
_DECIDING_VARIABLES = (
    *("OTEL_TRACES_SAMPLER", "OTEL_LOGS_EXPORTER", "OTEL_PROPAGATORS"),
    "WAGGLE_",
)
_WITHOUT_A_RUN = frozenset({"-h", "--help"})
_WATCHING = ("--port", "--exe", "--name")
_CHOOSING = ("--pid", *_WATCHING)

_begun: "Loading | None" = None


class Loading:
    """Capture.open in a thread of its own."""

    def __init__(self, options: CaptureOptions) -> None:
        self.options = options
        self._capture: Capture | None = None
        self._error: BaseException | None = None
        # A daemon: an error of usage is not kept waiting, and the kernel tidies up after us.
        self._thread = threading.Thread(target=self._load, name="waggle-loading", daemon=True)
        self._thread.start()

    def _load(self) -> None:
        try:
            self._capture = Capture.open(self.options)
        except BaseException as error:
            self._error = error

    def finish(self) -> Capture:
        """What was loaded. Raises what loading raised."""
        self._thread.join()
        if self._capture is None:
            assert self._error is not None
            raise self._error
        return self._capture

    def drop(self) -> None:
        """Nobody wants it: when this returns, neither thread nor programs are there."""
        self._thread.join()
        if self._capture is not None:
            self._capture.close()


def glance(arguments: Sequence[str], environ: Mapping[str, str]) -> CaptureOptions | None:
    """What these arguments come to, if that is plain to see.

    None where something else than the choice of processes is said, and where a command is to be
    started, which is forked before there is any thread.
    """
    if arguments[:1] != ["run"] or "--" in arguments or _WITHOUT_A_RUN & set(arguments):
        return None
    if any(argument.startswith(_DECIDING) for argument in arguments):
        return None
    if any(name.startswith(_DECIDING_VARIABLES) for name in environ):
        return None
    return CaptureOptions(
        trace_all=not any(argument.startswith(_CHOOSING) for argument in arguments),
        watch_processes=any(argument.startswith(_WATCHING) for argument in arguments),
        tcp_option=True,
        inject=True,
    )


def begin(arguments: Sequence[str], environ: Mapping[str, str]) -> None:
    """Begin to load if a glance is enough. Errors are for loading_of(), or nobody."""
    global _begun
    options = glance(list(arguments), environ)
    if options is None:
        return
    try:
        privileges.require()
    except WaggleError:
        return
    memory.keep_little()
    _begun = Loading(options)


def drop_begun() -> None:
    """What was begun is of no use."""
    global _begun
    begun, _begun = _begun, None
    if begun is not None:
        begun.drop()


def loading_of(options: CaptureOptions) -> Loading:
    """The programs for these options."""
    global _begun
    if _begun is not None and _begun.options == options:
        begun, _begun = _begun, None
        return begun
    drop_begun()
    return Loading(options)
