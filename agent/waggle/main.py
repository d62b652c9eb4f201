"""The program's door: the only place that prints errors and decides the exit code."""

import errno
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from waggle import start
from waggle.errors import WaggleError

if TYPE_CHECKING:
    from waggle.cli import Action

_INTERRUPTED = 130  # 128 + SIGINT
_BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs waggle with the given arguments, by default the process's, and returns its exit code.

    0 done, 1 an error, 2 usage, 3 a privilege is missing, 4 not supported here, 5 a
    target that is not there; the command's own code when a command was started.
    """
    with start.no_collection():
        return _main(list(sys.argv[1:] if arguments is None else arguments))


def parse(arguments: Sequence[str]) -> "Action | None":
    """As waggle.cli has it. What that imports belongs to the start, and may fail as all else."""
    # Whatever is installed beside us has nothing to do in a privileged program.
    with start.variable("PYDANTIC_DISABLE_PLUGINS", "1"):
        from waggle import loading

        loading.begin(arguments, os.environ)
        from waggle import cli
    return cli.parse(arguments)


def _main(given: Sequence[str]) -> int:
    verbose = _asks_for_more(given)
    try:
        action = parse(given)
        if action is None:
            return _flushed(0)
        verbose = verbose or action.verbose
        return _flushed(action.work())
    except WaggleError as error:
        return _complain(str(error), error.exit_code, verbose=verbose)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return _BROKEN_PIPE
    except OSError as error:
        return _complain(_os_error(error), 1, verbose=verbose)
    except Exception as error:
        return _complain(_unexpected(error, verbose=verbose), 1, verbose=verbose)


def _asks_for_more(arguments: Sequence[str]) -> bool:
    """Whether -v stands before `--`: also known when the arguments cannot be parsed."""
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "-v" in ours or "--verbose" in ours or bool(os.environ.get("WAGGLE_VERBOSE"))


def _flushed(code: int) -> int:
    """Writes out what stdout still holds, here, where a full disk can still be reported."""
    sys.stdout.flush()
    return code


def _complain(message: str, code: int, *, verbose: bool) -> int:
    if verbose:
        import traceback

        traceback.print_exc()
    print(f"waggle: error: {message}", file=sys.stderr)
    return code


def _os_error(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        _silence_stdout()
        return "no space left on the device that is written to: free some, or write elsewhere"
    return _unexpected(error, verbose=False)


def _unexpected(error: Exception, *, verbose: bool) -> str:
    first_line = (str(error).splitlines() or [""])[0]
    hint = "" if verbose else "; run again with --verbose for the traceback"
    return f"unexpected {type(error).__name__}: {first_line}{hint}"


def _silence_stdout() -> None:
    """What could not be written must not fail again when the interpreter ends."""
    devnull = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


if __name__ == "__main__":
    sys.exit(main())
