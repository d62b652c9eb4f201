"""What launchers launch: servers and tools whose arguments name the service they run.

`gunicorn shop:app` is shop, `celery -A shop worker` is shop; nginx is the one server_name that its
configuration has.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from waggle.command_names import (
    EXTENSIONS,
    GENERIC,
    Command,
    folder_name,
    from_reference,
    from_script,
    script_stem,
    word_set,
)

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
            return from_reference(word, command)
    module = _positional(words)
    return from_reference(module, command) if module else None


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
    return from_reference(app, command) if app else None


def celery(command: Command, words: Sequence[str]) -> str | None:
    """words: celery's own arguments."""
    app = _option(words, "--app", "-A")
    return from_reference(app.removesuffix(".celery"), command) if app else None


def _fastapi(command: Command, words: Sequence[str]) -> str | None:
    script = next((word for word in words if word.endswith(".py")), None)
    return from_script(script, command) if script else folder_name(PurePosixPath(command.cwd))


def _first_script(command: Command, words: Sequence[str]) -> str | None:
    script = next((word for word in words if PurePosixPath(word).suffix in EXTENSIONS), None)
    return from_script(script, command) if script else None


def _django(command: Command, words: Sequence[str]) -> str | None:
    settings = _option(words, "--settings") or command.environ.get("DJANGO_SETTINGS_MODULE")
    package = settings.split(".")[0] if settings else None
    return package if package not in GENERIC | {"settings"} else None


def _manage(command: Command, words: Sequence[str]) -> str | None:
    script = next((word for word in command.argv if script_stem(word) == "manage"), "manage.py")
    named = from_script(script, command)
    return _django(command, words) or named


def _uwsgi(command: Command, words: Sequence[str]) -> str | None:
    module = _option(words, "--module", "-w", "--mount", "--wsgi")
    if module:
        return from_reference(module.rpartition("=")[2], command)
    if script := _option(words, "--wsgi-file", "--file"):
        return from_script(script, command)
    configured = _option(words, "--ini", "--yaml", "--json") or next(
        (word for word in words if PurePosixPath(word).suffix in _UWSGI_CONFIGS), None
    )
    return _from_configuration(configured, command) if configured else None


_UWSGI_CONFIGS = word_set(".ini .yaml .yml .json .xml")


def _from_configuration(file: str, command: Command) -> str:
    """shop for shop.ini; for /srv/shop/uwsgi.ini, whose name says nothing, too."""
    stem = PurePosixPath(file).stem
    if stem not in GENERIC | {"uwsgi"}:
        return stem
    return folder_name(PurePosixPath(command.cwd or "/") / PurePosixPath(file).parent) or stem


_NGINX_CONFIGS = ("/etc/nginx/nginx.conf", "/usr/local/nginx/conf/nginx.conf")


def nginx(command: Command, words: Sequence[str]) -> str | None:
    """words: nginx's own arguments, as its master's title has them after three words."""
    given, prefix = _option(words, "-c"), _option(words, "-p")
    paths = (given,) if given else _NGINX_CONFIGS
    for path in paths:
        whole = PurePosixPath(prefix or "/etc/nginx") / path
        if whole.is_absolute() and (name := command.package(str(whole))):
            return name
    return None


LAUNCHERS: dict[str, Launcher] = {
    "nginx": nginx,
    "gunicorn": _gunicorn,
    "uvicorn": _wsgi_server,
    "hypercorn": _wsgi_server,
    "granian": _wsgi_server,
    "daphne": _wsgi_server,
    "waitress-serve": _wsgi_server,
    "waitress": _wsgi_server,
    "sanic": _wsgi_server,
    "flask": _flask,
    "celery": celery,
    "fastapi": _fastapi,
    "streamlit": _first_script,
    "django-admin": _django,
    "django": _django,
    "manage": _manage,
    "uwsgi": _uwsgi,
    "uwsgi-core": _uwsgi,
    "pyuwsgi": _uwsgi,
}
