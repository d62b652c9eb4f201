"""The CPython interpreters of this machine, for tests that must hold with each.

Looked for: /usr/bin/python3.*, /usr/local/bin/python3.*, pyenv's versions, and what
WAGGLE_PYTHONS names (paths, with colons between).
"""

import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

OLDEST = (3, 7)
_ASK = (
    "import platform, sys, sysconfig; print(platform.python_implementation(), "
    "*sys.version_info[:3], int(bool(sysconfig.get_config_var('Py_GIL_DISABLED'))), "
    "int('/libpython' in open('/proc/self/maps').read()))"
)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """One interpreter that runs. is_shared: with a libpython; is_free: without a GIL."""

    path: Path
    version: tuple[int, int, int]
    is_free: bool
    is_shared: bool

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version))

    def __str__(self) -> str:
        words = [self.version_text + ("t" if self.is_free else "")]
        words.append("shared" if self.is_shared else "static")
        words.append("pyenv" if ".pyenv" in self.path.parts else self.path.parts[1])
        return "-".join(words)


@cache
def interpreters() -> tuple[Interpreter, ...]:
    """Every one found, the oldest first; two names of one file count once."""
    found: dict[Path, Interpreter] = {}
    for path in _candidates():
        real = path.resolve()
        if real not in found and (interpreter := _asked(path)):
            found[real] = interpreter
    return tuple(sorted(found.values(), key=lambda one: (one.version, one.path)))


def _candidates() -> list[Path]:
    named = [Path(path) for path in os.environ.get("WAGGLE_PYTHONS", "").split(":") if path]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    paths = [path for folder in ("/usr/bin", "/usr/local/bin") for path in _named_python(folder)]
    return [*named, *paths, *(folder / "bin" / "python" for folder in sorted(pyenv.glob("*")))]


def _named_python(folder: str) -> list[Path]:
    found = sorted(Path(folder).glob("python3.*"))
    return [path for path in found if path.name.removeprefix("python3.").rstrip("t").isdigit()]


def _asked(path: Path) -> Interpreter | None:
    """What it says of itself; None when it does not run, is no CPython, or is too old."""
    try:
        done = subprocess.run(
            [path, "-I", "-S", "-c", _ASK], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    name, *numbers = done.stdout.split()
    major, minor, micro, is_free, is_shared = map(int, numbers)
    if name != "CPython" or (major, minor) < OLDEST:
        return None
    return Interpreter(path, (major, minor, micro), bool(is_free), bool(is_shared))
