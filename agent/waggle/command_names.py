"""What scripts, modules, packages and folders on a command line name.

The rules that all its readers share (commandline.py, launchers.py).
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

PackageReader = Callable[[str], str | None]


def no_package(_directory: str) -> str | None:
    """A PackageReader that finds none. One gives the name in what lies at a path: the package.json
    of a folder, the manifest of a .jar, the server_name in the .conf of nginx."""
    return None


@dataclass(frozen=True, slots=True)
class Command:
    """What is read: the executable, the arguments, and what names may hide behind them."""

    exe: str
    argv: tuple[str, ...]
    environ: Mapping[str, str]
    cwd: str
    package: PackageReader

    @property
    def program(self) -> str:
        """File name of what was started: argv[0] where a shell would have found it."""
        return PurePosixPath(self.argv[0].removeprefix("-")).name if self.argv else ""


def package_name(text: bytes) -> str | None:
    """`name` of a package.json, without its scope: "@acme/shop" is shop."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    name = content.get("name") if isinstance(content, dict) else None
    return name.rpartition("/")[2] or None if isinstance(name, str) else None


def word_set(text: str) -> frozenset[str]:
    """The words of `text`, for tables that are read by people."""
    return frozenset(text.split())


EXTENSIONS = word_set(
    ".py .pyc .pyz .pex .js .mjs .cjs .ts .mts .cts .rb .ru .pl .php .sh .bash .jar .war .dll"
)

# Scripts and modules whose name says only what role they have.
GENERIC = word_set(
    """
    app application main server index start run service web api wsgi asgi manage boot bootstrap
    entrypoint program __main__ __init__ src artisan rails rackup config
    """
)
# These stand at the root of a project, so the working directory may name it.
_PROJECT_TOOLS = word_set("manage wsgi asgi artisan rails rackup __main__ config")
# Folders that say nothing about what lies in them.
_GENERIC_FOLDERS = word_set(
    """
    src app application dist build lib lib64 bin sbin out target public server code backend api
    web www html srv opt usr local home root tmp var data workspace mnt share scripts site
    libexec .bin .venv venv env run etc dev proc
    """
)


def from_module(module: str) -> str:
    """The first part of a dotted module that says something."""
    parts = module.split(".")
    if len(parts) > 1 and parts[0] in sys.stdlib_module_names:
        return module  # `python -m http.server` is not called http
    return next((part for part in parts if part not in GENERIC), parts[0])


def from_reference(reference: str, command: Command) -> str:
    """The service in `shop.main:app`, `shop`, or `src/shop.py:app`."""
    where, _, _ = reference.partition(":")
    if "/" in where or PurePosixPath(where).suffix in EXTENSIONS:
        return from_script(where, command)
    name = from_module(where)
    if name in _PROJECT_TOOLS:
        return folder_name(PurePosixPath(command.cwd or "/")) or name
    return name


def from_script(script: str, command: Command) -> str:
    """A script's own name, or that of its folder where its own says nothing."""
    path = PurePosixPath(script)
    name = script_stem(script)
    if name not in GENERIC:
        return name
    folder = folder_name(path.parent)
    if folder is None and name in _PROJECT_TOOLS:
        folder = folder_name(PurePosixPath(command.cwd or "/") / path.parent)
    return folder or name


def script_stem(script: str) -> str:
    """A script's file name without its folder and extension."""
    path = PurePosixPath(script)
    return path.stem if path.suffix in EXTENSIONS else path.name


def folder_name(folder: PurePosixPath) -> str | None:
    """The nearest folder name upwards that says something; a home's owner does not."""
    parts = folder.parts
    for at in range(len(parts) - 1, -1, -1):
        part = parts[at]
        if part in ("/", "..", ".") or part in _GENERIC_FOLDERS:
            continue
        return None if at and parts[at - 1] == "home" else part
    return None


def package_near(folder: str, command: Command) -> str | None:
    """The name in the nearest package.json at most three folders up: dist/src/x.js is common."""
    start = PurePosixPath(folder)
    if not start.is_absolute():
        return None
    for directory in (start, *list(start.parents)[:3]):
        if name := command.package(str(directory)):
            return name
    return None
