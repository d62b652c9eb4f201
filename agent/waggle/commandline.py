"""What a command line says a service is called.

How a command line is read:

- a launcher is named by what it launches: `gunicorn shop:app` is shop, `celery -A
  shop worker` is shop, `java -jar shop-1.2.jar` is shop, `python -m shop` is shop;
- a jar whose name says nothing (app.jar) is what its manifest says, and nginx the one
  server_name that its configuration has;
- of a dotted module the first part that says something: `shop.main:app` is shop,
  `app.main:app` is app;
- a script is its file without the extension, but when that says nothing (app,
  main, server, index, ...) and the command line gives its folder, the folder:
  `/srv/shop/app.py` is shop, while `python3 app.py` stays app;
- tools that stand at the root of a project (manage.py, wsgi.py, artisan, rails)
  take the project's folder, from the working directory if need be;
- Node programs take the name in the package.json that belongs to the script;
- a process that rewrote its title is read from that: `gunicorn: worker [shop:app]`
  is shop, `nginx: worker process` is nginx;
- anything else is its executable's file name.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath

from waggle.command_names import (
    GENERIC,
    Command,
    folder_name,
    from_module,
    from_reference,
    from_script,
    package_near,
    script_stem,
    word_set,
)
from waggle.launchers import LAUNCHERS, celery, nginx

SHELLS = word_set("sh bash dash zsh ash ksh fish busybox")


def name_from_command(command: Command) -> str | None:
    """The service a command line names, or None when only the executable is left to tell."""
    if not command.argv:
        return None
    if name := _from_title(command):
        return name
    for pattern, reader, plain in _READERS:
        if pattern.fullmatch(command.program):
            return reader(command) or plain
    if launcher := LAUNCHERS.get(command.program):
        return launcher(command, command.argv[1:]) or command.program
    if is_interpreter(command.exe):
        return _retitled(command)
    return None


def is_interpreter(exe: str) -> bool:
    """Whether the executable runs scripts, so that its own name says little."""
    name = PurePosixPath(exe).name
    return any(pattern.fullmatch(name) for pattern, _, _ in _READERS)


def _retitled(command: Command) -> str | None:
    """An interpreter whose argv[0] is not the interpreter: the program wrote its own title."""
    node = PurePosixPath(command.exe).name.startswith("node")
    if node and (name := package_near(command.cwd, command)):
        return name
    found = re.match(r"[\w.@+-]+", PurePosixPath(command.argv[0].split(" ")[0]).name)
    return found.group() if found else None


# A title that a program wrote over its arguments.
_TITLE_BRACKET = re.compile(r"^(?:gunicorn|puma|unicorn|passenger)\b.*\[([^\[\]]+)\]\s*$")
_TITLE_CELERY = re.compile(r"^\[celeryd: .*\((.*)\)\s*$")
_TITLE_SIDEKIQ = re.compile(r"^sidekiq [\d.]+ (\S+) \[")
_TITLE_PREFIX = re.compile(r"^([A-Za-z][\w.+-]*): \S")
_TITLE_VERSION = re.compile(r"^([A-Za-z][\w.-]*) \(v?[\d.]+\)")


def title_program(cmdline: Sequence[str]) -> str | None:
    """The program in a rewritten title: nginx for `nginx: worker process`, else None."""
    title = cmdline[0] if cmdline else ""
    for pattern in (_TITLE_PREFIX, _TITLE_VERSION):
        if found := pattern.match(title):
            return found.group(1)
    if _TITLE_CELERY.match(title):
        return "celery"
    if _TITLE_BRACKET.match(title) or _TITLE_SIDEKIQ.match(title):
        return title.split(" ", 1)[0]
    return None


def _from_title(command: Command) -> str | None:
    title = command.argv[0]
    if found := _TITLE_BRACKET.match(title):
        return from_reference(found.group(1), command)
    if found := _TITLE_SIDEKIQ.match(title):
        return found.group(1)
    if found := _TITLE_CELERY.match(title):
        return celery(command, found.group(1).split()) or "celery"
    if " " not in title:
        return None
    program = title_program(command.argv)
    if program and PurePosixPath(command.exe).name.startswith("node"):
        return package_near(command.cwd, command) or program
    if program == "nginx":
        return nginx(command, title.split(" ")[3:]) or program
    return program


# --- Python -----------------------------------------------------------------

_PYTHON_VALUED = "cmWX"  # options that take a value; c and m end the interpreter's own


@dataclass(frozen=True, slots=True)
class _Target:
    """What an interpreter was told to run: a module or a script, and its arguments."""

    module: str | None
    script: str | None
    rest: tuple[str, ...]


def _python_target(argv: Sequence[str]) -> _Target | None:
    """Reads python's own command line; None for -c, standard input, or nothing."""
    words = list(argv[1:])
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            if word == "--check-hash-based-pycs" and words:
                words.pop(0)
        elif word.startswith("-") and word != "-":
            letter, value = _python_cluster(word)
            if letter and not value:
                value = words.pop(0) if words else ""
            if letter == "c":
                return None
            if letter == "m":
                return _Target(value, None, tuple(words)) if value else None
        else:
            return None if word == "-" else _Target(None, word, tuple(words))
    return None


def _python_cluster(word: str) -> tuple[str, str]:
    """(option, glued value) of the one in a cluster such as -Bmshop that takes a value."""
    for at, letter in enumerate(word[1:], 1):
        if letter in _PYTHON_VALUED:
            return letter, word[at + 1 :]
    return "", ""


_SPAWNED = re.compile(r"from multiprocessing\.(spawn|forkserver|resource_tracker) import ")


def is_spawned_worker(cmdline: Sequence[str]) -> bool:
    """Whether Python's multiprocessing started this instead of forking: `uvicorn --workers 2`,
    hypercorn, granian and sanic do. Such a command line names nothing but the machinery."""
    return any(option == "-c" and _SPAWNED.match(code) for option, code in pairwise(cmdline))


def _python(command: Command) -> str | None:
    target = _python_target(command.argv)
    if target is None:
        return None
    if target.module:
        launcher = LAUNCHERS.get(target.module.split(".")[0])
        if launcher:
            return launcher(command, target.rest) or target.module
        return from_module(target.module)
    script = target.script or ""
    stem = script_stem(script)
    if stem in LAUNCHERS:
        return LAUNCHERS[stem](command, target.rest) or stem
    return from_script(script, command)


# --- Node, Deno, Bun --------------------------------------------------------

_NODE_VALUED = word_set(
    """
    -r --require --import --loader --experimental-loader --env-file -C --conditions
    --env-file-if-exists --title --input-type --icu-data-dir --openssl-config
    """
)
_NODE_INLINE = word_set("-e --eval -p --print -pe -i --interactive")
_NODE_COMMANDS = word_set("run serve dev start")  # deno run x.ts, bun run x.ts


def _node_script(argv: Sequence[str]) -> str | None:
    words = list(argv[1:])
    while words:
        word = words.pop(0)
        if word in _NODE_INLINE:
            return None
        if word in _NODE_VALUED and words:
            words.pop(0)
        elif not word.startswith("-") and not (word in _NODE_COMMANDS and words):
            return word
    return None


def _node(command: Command) -> str | None:
    script = _node_script(command.argv)
    if script is None:
        return None
    path = PurePosixPath(command.cwd or "/") / script
    tool = "node_modules" in path.parts
    folder = PurePosixPath(*path.parts[: path.parts.index("node_modules")]) if tool else path.parent
    return package_near(str(folder), command) or from_script(script, command)


# --- Java -------------------------------------------------------------------

_JAVA_VALUED = word_set(
    """
    -cp -classpath --class-path -p --module-path --upgrade-module-path --add-modules
    --add-exports --add-opens --add-reads --limit-modules --patch-module --source
    --describe-module --enable-native-access
    """
)
_JAVA_NAMES = ("-Dotel.service.name=", "-Dspring.application.name=", "--spring.application.name=")
_VERSION_SUFFIX = re.compile(r"[-_]v?\d+(\.\d+)*([.-](SNAPSHOT|RELEASE|FINAL|Final|RC\d*|M\d+))?$")


def _java(command: Command) -> str | None:
    return _java_property(command) or _java_jar(command) or _java_program(command.argv)


def _java_jar(command: Command) -> str | None:
    """What the manifest says of a jar whose own name says nothing."""
    argv = command.argv
    jar = next((word for option, word in pairwise(argv) if option == "-jar"), "")
    if not jar.endswith(".jar") or _VERSION_SUFFIX.sub("", script_stem(jar)) not in GENERIC:
        return None
    path = PurePosixPath(command.cwd or "/") / jar
    return command.package(str(path)) if path.is_absolute() else None


def _java_property(command: Command) -> str | None:
    for prefix in _JAVA_NAMES:
        for word in command.argv:
            if word.startswith(prefix) and word != prefix:
                return word[len(prefix) :]
    return command.environ.get("SPRING_APPLICATION_NAME")


def _java_program(argv: Sequence[str]) -> str | None:
    words = list(argv[1:])
    while words:
        word = words.pop(0)
        if word == "-jar":
            return _VERSION_SUFFIX.sub("", script_stem(words[0])) if words else None
        if word in ("-m", "--module"):
            return _class_name(words[0].rpartition("/")[2]) if words else None
        if word in _JAVA_VALUED and words:
            words.pop(0)
        elif not word.startswith(("-", "@")):
            return _class_name(word.removesuffix(".java"))  # a class, or a source file
    return None


def _class_name(name: str) -> str:
    """Main for com.acme.Main, and for src/Main."""
    return name.rpartition("/")[2].rpartition(".")[2] or name


# --- other interpreters -----------------------------------------------------

_SCRIPT_VALUED = word_set("-I -r -e -E -c -d -S -t -M")


def _script_of(argv: Sequence[str]) -> str | None:
    """The first word that is no option, of ruby, perl, php, a shell."""
    words = list(argv[1:])
    while words:
        word = words.pop(0)
        if word in ("-e", "-c", "-E", "-S"):
            return None  # the program itself stands on the command line, or php's own server runs
        if word in _SCRIPT_VALUED and words:
            words.pop(0)
        elif not word.startswith(("-", "+")):
            return None if word.startswith(("/dev/", "/proc/")) else word
    return None


def _interpreter(command: Command) -> str | None:
    script = _script_of(command.argv)
    if not script:
        return None
    if script_stem(script) in ("puma", "unicorn", "rackup", "rails", "sidekiq"):
        return folder_name(PurePosixPath(command.cwd or "/")) or script_stem(script)
    return from_script(script, command)


def _dotnet(command: Command) -> str | None:
    script = next((word for word in command.argv[1:] if word.endswith(".dll")), None)
    return script_stem(script) if script else None


Reader = Callable[[Command], str | None]

# Interpreters: the pattern of their file names, who reads their command line, and what they are
# called when it names nothing. A shell's own name says nothing.
_READERS: tuple[tuple[re.Pattern[str], Reader, str | None], ...] = (
    (re.compile(r"(python|pypy)[\d.]*(-c)?t?d?"), _python, "python"),
    (re.compile(r"node(js)?(-?\d+)?|deno|bun"), _node, "node"),
    (re.compile(r"java"), _java, "java"),
    (re.compile(r"dotnet"), _dotnet, "dotnet"),
    (re.compile(r"ruby[\d.]*"), _interpreter, "ruby"),
    (re.compile(r"perl[\d.]*"), _interpreter, "perl"),
    (re.compile(r"php[\d.]*"), _interpreter, "php"),
    (re.compile("|".join(sorted(SHELLS))), _interpreter, None),
)


def script_path(cmdline: Sequence[str]) -> str | None:
    """The script an interpreter runs, as it was given: /usr/bin/gunicorn for
    `python3 /usr/bin/gunicorn shop:app`; a module's name for -m; None for other programs."""
    if not cmdline:
        return None
    program = PurePosixPath(cmdline[0].removeprefix("-")).name
    for pattern, reader, _ in _READERS:
        if not pattern.fullmatch(program):
            continue
        if reader is _python:
            target = _python_target(cmdline)
            return (target.module or target.script) if target else None
        if reader is _node:
            return _node_script(cmdline)
        return _script_of(cmdline) if reader is _interpreter else None
    return None
