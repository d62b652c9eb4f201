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

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
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


SHELLS = word_set("sh bash dash zsh ash ksh fish busybox")
_EXTENSIONS = word_set(
    ".py .pyc .pyz .pex .js .mjs .cjs .ts .mts .cts .rb .ru .pl .php .sh .bash .jar .war .dll"
)

# Scripts and modules whose name says only what role they have.
_GENERIC = word_set(
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


def name_from_command(command: Command) -> str | None:
    """The service a command line names, or None when only the executable is left to tell."""
    if not command.argv:
        return None
    if name := _from_title(command):
        return name
    for pattern, reader, plain in _READERS:
        if pattern.fullmatch(command.program):
            return reader(command) or plain
    if launcher := _LAUNCHERS.get(command.program):
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
    if node and (name := _package_near(command.cwd, command)):
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
        return _from_reference(found.group(1), command)
    if found := _TITLE_SIDEKIQ.match(title):
        return found.group(1)
    if found := _TITLE_CELERY.match(title):
        return _celery(command, found.group(1).split()) or "celery"
    if " " not in title:
        return None
    program = title_program(command.argv)
    if program and PurePosixPath(command.exe).name.startswith("node"):
        return _package_near(command.cwd, command) or program
    if program == "nginx":
        return _nginx(command, title.split(" ")[3:]) or program
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
        launcher = _LAUNCHERS.get(target.module.split(".")[0])
        if launcher:
            return launcher(command, target.rest) or target.module
        return _from_module(target.module)
    script = target.script or ""
    stem = script_stem(script)
    if stem in _LAUNCHERS:
        return _LAUNCHERS[stem](command, target.rest) or stem
    return _from_script(script, command)


def _from_module(module: str) -> str:
    parts = module.split(".")
    if len(parts) > 1 and parts[0] in sys.stdlib_module_names:
        return module  # `python -m http.server` is not called http
    return next((part for part in parts if part not in _GENERIC), parts[0])


def _from_reference(reference: str, command: Command) -> str:
    """The service in `shop.main:app`, `shop`, or `src/shop.py:app`."""
    where, _, _ = reference.partition(":")
    if "/" in where or PurePosixPath(where).suffix in _EXTENSIONS:
        return _from_script(where, command)
    name = _from_module(where)
    if name in _PROJECT_TOOLS:
        return _folder_name(PurePosixPath(command.cwd or "/")) or name
    return name


_REFERENCE = re.compile(r"(?P<module>[A-Za-z_][\w.]*|[\w./-]+\.py):[A-Za-z_][\w.]*(\(.*\))?")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.\w+)*|[\w./-]+\.py")
_NOT_MODULES = word_set("unix fd python file egg tcp tcp6 http https ssl")

Launcher = Callable[[Command, Sequence[str]], str | None]


def _option(words: Sequence[str], *names: str) -> str | None:
    """The value of the first of the options `names` in `words`: "--a v", "--a=v", "-Av"."""
    for at, word in enumerate(words):
        for name in names:
            if word == name:
                return words[at + 1] if at + 1 < len(words) else None
            if name.startswith("--") and word.startswith(name + "="):
                return word[len(name) + 1 :]
            if not name.startswith("--") and word.startswith(name) and word != name:
                return word[len(name) :].removeprefix("=")
    return None


def _wsgi_server(command: Command, words: Sequence[str]) -> str | None:
    """gunicorn, uvicorn, hypercorn, granian, daphne, waitress: [options] MODULE[:APP]."""
    for word in words:
        match = _REFERENCE.fullmatch(word)
        if match and match["module"] not in _NOT_MODULES:
            return _from_reference(word, command)
    module = _positional(words)
    return _from_reference(module, command) if module else None


def _positional(words: Sequence[str]) -> str | None:
    """A module without an attribute. An option before it may or may not take a value, so a word
    after no option is preferred, and the last word is the next best guess."""
    before = ("", *words)
    clear = [
        w for b, w in zip(before, words, strict=False) if not _takes_value(b) and _is_module(w)
    ]
    if clear:
        return clear[0]
    return words[-1] if words and _is_module(words[-1]) else None


def _takes_value(word: str) -> bool:
    return word.startswith("-") and "=" not in word


def _is_module(word: str) -> bool:
    return bool(_MODULE.fullmatch(word))


def _gunicorn(command: Command, words: Sequence[str]) -> str | None:
    named = _option(words, "-n", "--name")
    return named or _wsgi_server(command, words)


def _flask(command: Command, words: Sequence[str]) -> str | None:
    app = _option(words, "--app", "-A") or command.environ.get("FLASK_APP")
    return _from_reference(app, command) if app else None


def _celery(command: Command, words: Sequence[str]) -> str | None:
    app = _option(words, "--app", "-A")
    return _from_reference(app.removesuffix(".celery"), command) if app else None


def _fastapi(command: Command, words: Sequence[str]) -> str | None:
    script = next((word for word in words if word.endswith(".py")), None)
    return _from_script(script, command) if script else _folder_name(PurePosixPath(command.cwd))


def _first_script(command: Command, words: Sequence[str]) -> str | None:
    script = next((word for word in words if PurePosixPath(word).suffix in _EXTENSIONS), None)
    return _from_script(script, command) if script else None


def _django(command: Command, words: Sequence[str]) -> str | None:
    settings = _option(words, "--settings") or command.environ.get("DJANGO_SETTINGS_MODULE")
    package = settings.split(".")[0] if settings else None
    return package if package not in _GENERIC | {"settings"} else None


def _manage(command: Command, words: Sequence[str]) -> str | None:
    script = next((word for word in command.argv if script_stem(word) == "manage"), "manage.py")
    named = _from_script(script, command)
    return _django(command, words) or named


def _uwsgi(command: Command, words: Sequence[str]) -> str | None:
    module = _option(words, "--module", "-w", "--mount", "--wsgi")
    if module:
        return _from_reference(module.rpartition("=")[2], command)
    if script := _option(words, "--wsgi-file", "--file"):
        return _from_script(script, command)
    configured = _option(words, "--ini", "--yaml", "--json") or next(
        (word for word in words if PurePosixPath(word).suffix in _UWSGI_CONFIGS), None
    )
    return _from_configuration(configured, command) if configured else None


_UWSGI_CONFIGS = word_set(".ini .yaml .yml .json .xml")


def _from_configuration(file: str, command: Command) -> str:
    """shop for shop.ini; for /srv/shop/uwsgi.ini, whose name says nothing, too."""
    stem = PurePosixPath(file).stem
    if stem not in _GENERIC | {"uwsgi"}:
        return stem
    return _folder_name(PurePosixPath(command.cwd or "/") / PurePosixPath(file).parent) or stem


_NGINX_CONFIGS = ("/etc/nginx/nginx.conf", "/usr/local/nginx/conf/nginx.conf")


def _nginx(command: Command, words: Sequence[str]) -> str | None:
    """words: nginx's own arguments, as its master's title has them after three words."""
    given, prefix = _option(words, "-c"), _option(words, "-p")
    paths = (given,) if given else _NGINX_CONFIGS
    for path in paths:
        whole = PurePosixPath(prefix or "/etc/nginx") / path
        if whole.is_absolute() and (name := command.package(str(whole))):
            return name
    return None


_LAUNCHERS: dict[str, Launcher] = {
    "nginx": _nginx,
    "gunicorn": _gunicorn,
    "uvicorn": _wsgi_server,
    "hypercorn": _wsgi_server,
    "granian": _wsgi_server,
    "daphne": _wsgi_server,
    "waitress-serve": _wsgi_server,
    "waitress": _wsgi_server,
    "sanic": _wsgi_server,
    "flask": _flask,
    "celery": _celery,
    "fastapi": _fastapi,
    "streamlit": _first_script,
    "django-admin": _django,
    "django": _django,
    "manage": _manage,
    "uwsgi": _uwsgi,
    "uwsgi-core": _uwsgi,
    "pyuwsgi": _uwsgi,
}


# --- scripts ----------------------------------------------------------------


def _from_script(script: str, command: Command) -> str:
    path = PurePosixPath(script)
    name = script_stem(script)
    if name not in _GENERIC:
        return name
    folder = _folder_name(path.parent)
    if folder is None and name in _PROJECT_TOOLS:
        folder = _folder_name(PurePosixPath(command.cwd or "/") / path.parent)
    return folder or name


def script_stem(script: str) -> str:
    """A script's file name without its folder and extension."""
    path = PurePosixPath(script)
    return path.stem if path.suffix in _EXTENSIONS else path.name


def _folder_name(folder: PurePosixPath) -> str | None:
    """The nearest folder name upwards that says something; a home's owner does not."""
    parts = folder.parts
    for at in range(len(parts) - 1, -1, -1):
        part = parts[at]
        if part in ("/", "..", ".") or part in _GENERIC_FOLDERS:
            continue
        return None if at and parts[at - 1] == "home" else part
    return None


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
    return _package_near(str(folder), command) or _from_script(script, command)


def _package_near(folder: str, command: Command) -> str | None:
    """The name in the nearest package.json at most three folders up: dist/src/x.js is common."""
    start = PurePosixPath(folder)
    if not start.is_absolute():
        return None
    for directory in (start, *list(start.parents)[:3]):
        if name := command.package(str(directory)):
            return name
    return None


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
    if not jar.endswith(".jar") or _VERSION_SUFFIX.sub("", script_stem(jar)) not in _GENERIC:
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
        return _folder_name(PurePosixPath(command.cwd or "/")) or script_stem(script)
    return _from_script(script, command)


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
