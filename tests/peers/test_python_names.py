"""What Python services are called, asked of real programs: master and workers are one service."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from waggle.processes import ProcessTable
from waggle.procfs import ProcFs
from waggle.spans import ResourceTable

from .ports import lease_port
from .processes import Program
from .toolchain import MATRIX_VENV, VENV, ensure_python_matrix, ensure_python_peers, tool

MANAGE = """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
SETTINGS = 'SECRET_KEY = "none"\nROOT_URLCONF = "urls"\nALLOWED_HOSTS = ["*"]\nDEBUG = True\n'
WSGI = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ready\\n"]
"""
ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ready\\n"})
"""
MAIN = "from http.server import test\nimport sys\ntest(port=int(sys.argv[1]))\n"
UWSGI = "[uwsgi]\nmodule = pay.wsgi\nmaster = true\nprocesses = 2\ndie-on-term = true\n"
CELERY = 'from celery import Celery\napp = Celery("tasks", broker="memory://")\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project's folder, /.../checkout, with a program for each way to start it."""
    folder = tmp_path / "checkout"
    package = folder / "pay"
    package.mkdir(parents=True)
    contents = {
        "manage.py": MANAGE,
        "settings.py": SETTINGS,
        "urls.py": "urlpatterns = []\n",
        "wsgi.py": WSGI,
        "basket.py": ASGI,
        "orders.py": CELERY,
        "pay/__init__.py": "",
        "pay/__main__.py": MAIN,
        "pay/wsgi.py": WSGI,
        "uwsgi.ini": UWSGI,
    }
    for name, text in contents.items():
        (folder / name).write_text(text)
    return folder


def names(command: Sequence[str | Path], project: Path, processes: int) -> set[str]:
    """service.name of each process, once there are so many."""
    lease = lease_port()
    words = [str(word).replace("@port@", str(lease.port)) for word in command]
    program = Program("named", words, cwd=project)
    try:
        program.wait_until(lambda: len(program.pids()) >= processes, 20)
        return {_name(pid) for pid in program.pids()}
    finally:
        program.stop()
        lease.release()


def _name(pid: int) -> str:
    source = ProcFs()
    table = ResourceTable()
    facts = source.facts(pid)
    assert facts is not None
    attributes = table.rows[ProcessTable(table, source).row(pid, facts.start_ns)].attributes
    return str(attributes["service.name"])


LIGHT = {
    "manage.py": (["python", "manage.py", "runserver", "@port@"], 2, "checkout"),
    "module": (["python", "-m", "pay", "@port@"], 1, "pay"),
    "gunicorn": (["gunicorn", "pay.wsgi", "-w", "2", "-b", "127.0.0.1:@port@"], 3, "pay"),
    "gunicorn-folder": (["gunicorn", "wsgi", "-w", "1", "-b", "127.0.0.1:@port@"], 2, "checkout"),
    "uvicorn": (["uvicorn", "basket:app", "--port", "@port@"], 1, "basket"),
    "uvicorn-workers": (
        ["uvicorn", "basket:app", "--workers", "2", "--port", "@port@"],
        4,
        "basket",
    ),
    "uvicorn-reload": (["uvicorn", "basket:app", "--reload", "--port", "@port@"], 3, "basket"),
    "waitress": (["waitress-serve", "--port", "@port@", "pay.wsgi:application"], 1, "pay"),
}
HEAVY = {
    "hypercorn": (["hypercorn", "basket:app", "-b", "127.0.0.1:@port@"], 3, "basket"),
    "granian": (
        ["granian", "--interface", "asgi", "--port", "@port@", "--workers", "2", "basket:app"],
        3,
        "basket",
    ),
    "daphne": (["daphne", "-p", "@port@", "basket:app"], 1, "basket"),
    "uwsgi": (["uwsgi", "--http-socket", "127.0.0.1:@port@", "--ini", "uwsgi.ini"], 3, "checkout"),
    "uwsgi-module": (
        ["uwsgi", "--http-socket", "127.0.0.1:@port@", "--module", "pay.wsgi", "--master"],
        2,
        "pay",
    ),
    "celery": (["celery", "-A", "orders", "worker", "-c", "2"], 3, "orders"),
}


@pytest.mark.parametrize("way", LIGHT)
def test_names(way: str, project: Path) -> None:
    """The service is called what it was started as, and so is each of its workers."""
    ensure_python_peers()
    (program, *rest), processes, name = LIGHT[way]
    assert names([VENV / "bin" / program, *rest], project, processes) == {name}


@pytest.mark.slow
@pytest.mark.parametrize("way", HEAVY)
def test_names_under_other_servers(way: str, project: Path) -> None:
    """The same with what the base requirements do not have."""
    ensure_python_matrix()
    (program, *rest), processes, name = HEAVY[way]
    assert names([MATRIX_VENV / "bin" / program, *rest], project, processes) == {name}


@pytest.mark.slow
def test_name_of_an_embedded_python(project: Path) -> None:
    """Debian's uWSGI is a C program with a Python inside: its ini file stands in its folder."""
    command = [tool("uwsgi-core"), "--plugins", "python3", "--http-socket", "127.0.0.1:@port@"]
    command += ["--ini", "uwsgi.ini"]
    assert names(command, project, 3) == {"checkout"}
