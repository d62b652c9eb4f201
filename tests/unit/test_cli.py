"""The command line, and what main() makes of errors."""

import errno
import os
import shlex
import subprocess
import sys
from collections.abc import Callable

import pytest

from waggle import cli, main
from waggle.config import Settings
from waggle.errors import (
    PrivilegeError,
    TargetError,
    UnsupportedError,
    UsageError,
    WaggleError,
)


def parsed(line: str, environ: dict[str, str] | None = None) -> Settings:
    action = cli.parse(shlex.split(line), environ or {})
    assert action is not None
    assert action.settings is not None
    return action.settings


def examples() -> list[str]:
    return [
        line.strip()
        for line in cli.EXAMPLES.splitlines()
        if line.startswith("  sudo ") and "waggle" in line
    ]


@pytest.mark.parametrize("example", examples())
def test_examples_parse(example: str, tmp_path: os.PathLike[str]) -> None:
    """Every example in the help is a command line that is understood."""
    words = shlex.split(example.partition(" > ")[0])
    if "--config" in words:
        path = os.path.join(tmp_path, "waggle.yaml")  # noqa: PTH118
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write("port: 8080\n")
        words[words.index("--config") + 1] = path
    at = words.index("waggle")
    environ = dict(word.split("=", 1) for word in words[1:at])
    action = cli.parse(words[at + 1 :], environ)
    assert action is not None
    assert isinstance(action.settings, Settings)


def test_help_ends_in_examples(capsys: pytest.CaptureFixture[str]) -> None:
    """`waggle run --help` ends in the examples, unbroken."""
    assert cli.parse(["run", "--help"]) is None
    printed = capsys.readouterr().out
    tail = [line.strip() for line in printed[printed.index("EXAMPLES") :].splitlines()]
    assert set(examples()) <= set(tail)
    assert len(examples()) >= 6
    assert tail[-1].startswith("settings from a file")


def test_selection() -> None:
    """Selectors repeat and add up."""
    settings = parsed("run --port 8080 --port 9000 --exe '*/gunicorn' --name checkout --pid 7")
    assert settings.port == (8080, 9000)
    assert settings.exe == ("*/gunicorn",)
    assert settings.name == ("checkout",)
    assert settings.pid == (7,)
    assert not settings.selects_all


def test_command_keeps_its_options() -> None:
    """What follows -- is the command's, even what looks like an option of ours."""
    settings = parsed("run -v -- gunicorn --quiet -w 2 shop:app")
    assert settings.command == ("gunicorn", "--quiet", "-w", "2", "shop:app")
    assert settings.verbose
    assert not settings.quiet
    assert not settings.selects_all


def test_command_without_dashes() -> None:
    """The first word that is no option begins the command."""
    assert parsed("run --quiet gunicorn -w 2").command == ("gunicorn", "-w", "2")


def test_flags_leave_other_sources_alone() -> None:
    """A flag that was not given does not hide the environment, in either form."""
    environ = {"WAGGLE_FOLLOW": "false", "WAGGLE_PID": "3", "WAGGLE_JSON": "1"}
    settings = parsed("run", environ)
    assert (settings.follow, settings.pid, settings.json_lines) == (False, (3,), True)
    assert parsed("run --follow", environ).follow


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run --prot 80", "waggle run has no option '--prot': did you mean '--port'?"),
        ("run --port", "option '--port' requires an argument; see waggle run --help"),
        ("runn", "no command 'runn': did you mean 'run'?"),
        ("run --capture none", "--capture: expected auto, socket, probe or syscall, got 'none'"),
    ],
)
def test_mistakes(line: str, expected: str) -> None:
    """A mistake on the command line is a UsageError that shows the way."""
    with pytest.raises(UsageError) as caught:
        cli.parse(shlex.split(line), {})
    assert str(caught.value).startswith(expected)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`waggle version` prints it and ends well."""
    assert main.main(["version"]) == 0
    assert capsys.readouterr().out.startswith("waggle ")


def raising(error: BaseException) -> Callable[..., cli.Action]:
    def work() -> int:
        raise error

    return lambda _arguments: cli.Action(work)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WaggleError("a"), 1),
        (UsageError("a"), 2),
        (PrivilegeError("a"), 3),
        (UnsupportedError("a"), 4),
        (TargetError("a"), 5),
    ],
)
def test_exit_codes(
    error: WaggleError,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each kind of error has its exit code and is one line on stderr."""
    monkeypatch.setattr(main, "parse", raising(error))
    assert main.main([]) == code
    streams = capsys.readouterr()
    assert streams.err == "waggle: error: a\n"
    assert streams.out == ""


def test_unexpected_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault of ours is one line with the way to more; --verbose shows where it happened."""
    monkeypatch.setattr(main, "parse", raising(ZeroDivisionError("by zero\nand more")))
    assert main.main([]) == 1
    assert capsys.readouterr().err == (
        "waggle: error: unexpected ZeroDivisionError: by zero; "
        "run again with --verbose for the traceback\n"
    )
    assert main.main(["--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_full_disk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk is named as such."""
    monkeypatch.setattr(main, "_silence_stdout", lambda: None)
    monkeypatch.setattr(main, "parse", raising(OSError(errno.ENOSPC, "No space left")))
    assert main.main([]) == 1
    assert "no space left on the device" in capsys.readouterr().err


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C before tracing began ends quietly with the code shells expect."""
    monkeypatch.setattr(main, "parse", raising(KeyboardInterrupt()))
    assert main.main([]) == 130
    assert capsys.readouterr().err == ""


def test_code_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code of the work, such as a command's own, is passed through."""
    monkeypatch.setattr(main, "parse", lambda _arguments: cli.Action(lambda: 42))
    assert main.main([]) == 42


@pytest.mark.parametrize("target", ["/dev/full", None])
def test_output_that_cannot_be_written(target: str | None) -> None:
    """A full disk is reported, a closed pipe ends quietly, and neither leaves a second message."""
    if target is None:
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(target, os.O_WRONLY)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "waggle.main", "version"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=30,
        )
    finally:
        os.close(writer)
    if target is None:
        assert (done.returncode, done.stderr) == (141, "")
    else:
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "no space left" in done.stderr
