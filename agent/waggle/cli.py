"""The command line: what can be said, and the work it asks for.

`parse` turns arguments into an `Action` and does nothing else, so that every
example of the help can be tested without privilege.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from click.core import ParameterSource

from waggle import __version__
from waggle.config import Settings, load_settings, nearest
from waggle.errors import UnsupportedError, UsageError

EXAMPLES = """\b
EXAMPLES
  sudo waggle run -- gunicorn shop:app
      start a program; trace it and its children from the first system call
  sudo waggle run --pid 4121 --pid 4130
      trace what runs already, old connections included
  sudo waggle run --port 8080 --exe '*/gunicorn' --name checkout
      whoever listens there, runs that, or calls itself that
  sudo waggle run
      everything on this machine that speaks a protocol we know
  sudo waggle run --otlp http://localhost:4318 --quiet
      send the spans to a Collector and print nothing
  sudo waggle run --json --pid 4121 > spans.jsonl
      OTLP JSON, one TracesData a line
  sudo OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 waggle run --otlp-protocol grpc
      the endpoint from the environment, by gRPC
  sudo waggle run --sample 'path=/health*:0' --sample 0.1 --tail error,slow=500ms
      one trace in ten and no health checks, but whatever failed or was slow
  sudo waggle run --config waggle.yaml --exclude '*/curl'
      settings from a file; a flag wins over the file
"""

EXIT_CODES = """\b
EXIT CODES
  0 done   1 an error   2 usage   3 a privilege is missing
  4 not supported here   5 the process to trace is not there or cannot start
  With a command, waggle ends with the command's own code, or with 128 plus the
  signal that killed it.
"""


@dataclass(frozen=True, slots=True)
class Action:
    """What the command line asked for. work: does it, and returns the exit code."""

    work: Callable[[], int]
    settings: Settings | None = None

    @property
    def verbose(self) -> bool:
        return self.settings is not None and self.settings.verbose


def parse(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> Action | None:
    """The action that arguments (without the program's name) ask for.

    None when there was only help to print, which has then been printed. Raises UsageError.
    """
    try:
        result = commands.main(
            args=list(arguments), prog_name="waggle", standalone_mode=False, obj=environ
        )
    except click.ClickException as error:
        raise UsageError(_described(error, next(iter(arguments), ""))) from None
    return result if isinstance(result, Action) else None


def _described(error: click.ClickException, command: str) -> str:
    """Click's message as one sentence of ours: small initial, no final stop, the way out."""
    program = "waggle" if command not in commands.commands else f"waggle {command}"
    if isinstance(error, click.NoSuchOption):
        known = _options(commands.commands.get(command, commands))
        return f"{program} has no option '{error.option_name}': {nearest(error.option_name, known)}"
    message = error.format_message().rstrip(".")
    return f"{message[:1].lower()}{message[1:]}; see {program} --help"


def _options(command: click.Command) -> list[str]:
    return [name for parameter in command.params for name in parameter.opts if name[:2] == "--"]


class _Commands(click.Group):
    """A group that names the nearest command for a mistyped one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise UsageError(f"no command '{args[0]}': {nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Watch what running programs already do, and draw the way each request took."""


def _many(*names: str, metavar: str, text: str) -> Callable[[Any], Any]:
    return click.option(*names, metavar=metavar, multiple=True, help=text)


def _one(*names: str, metavar: str, text: str) -> Callable[[Any], Any]:
    return click.option(*names, metavar=metavar, help=text)


@commands.command(
    context_settings={"allow_interspersed_args": False},
    epilog=EXIT_CODES + "\n" + EXAMPLES,
    short_help="Trace programs.",
)
@_many("--pid", metavar="PID", text="Trace this process and its children. Repeatable.")
@_many("--port", metavar="PORT", text="Trace whoever listens on this TCP port. Repeatable.")
@_many("--exe", metavar="GLOB", text="Trace what runs this executable or script. Repeatable.")
@_many("--name", metavar="GLOB", text="Trace services or processes of this name. Repeatable.")
@_many("--exclude", metavar="GLOB", text="Never trace this executable or script. Repeatable.")
@click.option("--follow/--no-follow", help="Trace children as well.  [default: follow]")
@_one("--otlp", metavar="URL", text="Send spans to this OTLP endpoint.")
@_one("--otlp-protocol", metavar="NAME", text="http/protobuf, http/json or grpc.")
@_one("--otlp-timeout", metavar="MS", text="Longest time one export may take.  [default: 10000]")
@_one("--otlp-compression", metavar="NAME", text="none or gzip.  [default: none]")
@_one("--zipkin", metavar="URL", text="Send spans to this Zipkin.")
@click.option("--logs", is_flag=True, help="Export what the programs log, with its trace.")
@_one(
    "--logs-rate", metavar="N", text="Most writes of a process to logs a second.  [default: 5000]"
)
@_one("--logs-line", metavar="SIZE", text="Most of one record that is kept.  [default: 16K]")
@_one("--spool", metavar="DIR", text="Keep what cannot be sent on disk, over restarts too.")
@_one("--spool-max", metavar="SIZE", text="Most that each exporter keeps there.  [default: 512M]")
@_many("--sample", metavar="RULE", text="0.1, or service=NAME,path=/PATH*:0.1. Repeatable.")
@_one("--sample-limit", metavar="N", text="Most traces a second that begin here.")
@_one("--tail", metavar="WHAT", text="Of those dropped keep: error,slow=500ms,p95.")
@_one("--tail-max", metavar="SIZE", text="Memory for those that may be kept.  [default: 64M]")
@click.option("--json", "json_lines", is_flag=True, help="Print OTLP JSON lines on stdout.")
@_one("--json-file", metavar="FILE", text="Write OTLP JSON lines to this file, and rotate it.")
@_one("--json-max", metavar="SIZE", text="Size at which it is rotated.  [default: 100M]")
@_one("--json-keep", metavar="N", text="Older files that are kept.  [default: 5]")
@click.option("--metrics", is_flag=True, help="Send metrics too, to the OTLP endpoint.")
@_one("--prometheus", metavar="HOST:PORT", text="Answer Prometheus there, at /metrics.")
@_one("--metrics-limit", metavar="N", text="Most series of a metric and process.  [default: 2000]")
@_many("--baggage", metavar="KEY", text="Make an attribute of this key of baggage. Repeatable.")
@click.option("--guess-routes", is_flag=True, help="Metrics by waggle.route.guess: /users/{id}.")
@click.option("--probe-stats", is_flag=True, help="Have the kernel measure our BPF programs.")
@_one("--health", metavar="HOST:PORT", text="Answer there at /healthz and /readyz.")
@click.option("-q", "--quiet", is_flag=True, help="Print no traces.")
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr; tracebacks on errors.")
@click.option("--no-color", is_flag=True, help="No colours, even on a terminal.")
@_one("--ready-fd", metavar="FD", text="Write a byte to this descriptor when tracing.")
@_one("--capture", metavar="HOW", text="auto, socket, probe or syscall.  [default: auto]")
@_one("--sdk", metavar="HOW", text="Programs with an SDK: defer, both, ignore.  [default: defer]")
@_one("--tcp-option", metavar="USE", text="Tell other machines: auto or off.  [default: auto]")
@_one(
    "--call-site", metavar="WHERE", text="Lines of code on spans: off or client.  [default: client]"
)
@_one("--tls", metavar="HOW", text="Plaintext of TLS libraries: auto or off.  [default: off]")
@_one("--go-handover", metavar="USE", text="Go's pools of workers: auto or off.  [default: off]")
@_one(
    "--inject",
    metavar="HOW",
    text="Headers to strangers: auto, always, first or off.  [default: auto]",
)
@_many("--inject-to", metavar="WHERE", text="Only there: private, 10.0.0.0/8:80, never=any.")
@_one("--ring-size", metavar="SIZE", text="Memory between kernel and agent.  [default: 8M]")
@_one("--max-processes", metavar="N", text="Most processes traced at once.  [default: 8192]")
@_one("--config", metavar="FILE", text="Read settings from this YAML file.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(ctx: click.Context, /, **values: object) -> Action:
    """Trace programs and show where their requests went.

    With nothing selected, everything on this machine is traced, except waggle
    itself and sshd. What follows -- is started and traced.
    """
    flags = {field: value for field, value in values.items() if _was_given(ctx, field, value)}
    settings = load_settings(flags, ctx.obj)
    return Action(lambda: _run(settings), settings)


def _was_given(ctx: click.Context, field: str, value: object) -> bool:
    return ctx.get_parameter_source(field) is ParameterSource.COMMANDLINE and value != ()


def _run(settings: Settings) -> int:
    from waggle import agent  # BPF: not for --help

    return int(agent.run(settings))


@commands.command()
def version() -> Action:
    """Print the version."""
    return Action(_print_version)


def _print_version() -> int:
    click.echo(f"waggle {__version__}")
    return 0


@commands.command()
def check() -> Action:
    """Say what this machine can do, what is missing, and what that prevents."""
    return Action(_check)


def _check() -> int:
    from waggle import preflight

    report = preflight.report()
    click.echo(report.text())
    return 0 if report.ready else UnsupportedError.exit_code
