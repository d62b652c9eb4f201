"""probes/uwsgi: by which word of its memory uWSGI shows that it runs its own loop."""

import numpy as np
import pytest

from waggle.attach import Target
from waggle.probes.uwsgi.attach import OwnLoop, UwsgiProbe, hook_in, why_not
from waggle.process_memory import Mapping
from waggle.procfs import ProcessFacts
from waggle.runtimes import CPYTHON, NGINX, OTHER, Runtime

WRITE, READ = 0x7F0000012345, 0x7F0000054321
GREENLETS = Mapping(0, 1, 0, "/venv/lib/python3.11/site-packages/gevent/_gevent_c_hub_local.so")


def words(*content: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(content, np.uint64)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        pytest.param([1, 2, WRITE, READ, 5], 3, id="both, one behind the other"),
        pytest.param([1, READ, WRITE, 5], None, id="the other way round: not this structure"),
        pytest.param([WRITE, 0, READ], None, id="not beside each other"),
        pytest.param([WRITE, READ + 16], None, id="another loop's function in its place"),
        pytest.param([WRITE, READ, 3, WRITE, READ], None, id="twice: nobody knows which is meant"),
        pytest.param([0, 0, 0], None, id="not set yet"),
        pytest.param([], None, id="unreadable"),
    ],
)
def test_hook(content: list[int], place: int | None) -> None:
    """The word is found by its content and its neighbour's, and only if there is one such place."""
    assert hook_in(words(*content), WRITE, READ) == place


@pytest.mark.parametrize(
    ("runtime", "exe", "cmdline", "wanted"),
    [
        (OTHER, "/usr/bin/uwsgi-core", ("uwsgi", "--ini", "shop.ini"), True),
        (CPYTHON, "/usr/bin/python3.11", ("/venv/bin/python", "/venv/bin/uwsgi"), True),
        (CPYTHON, "/usr/bin/uwsgi-core", ("uWSGI worker 1",), True),
        (CPYTHON, "/usr/bin/python3.11", ("python", "/venv/bin/gunicorn", "shop:app"), False),
        (NGINX, "/usr/sbin/nginx", ("nginx", "-c", "/etc/uwsgi/nginx.conf"), False),
    ],
)
def test_wanted(runtime: str, exe: str, cmdline: tuple[str, ...], wanted: bool) -> None:
    """uWSGI is known by its name, as a program and inside of a Python."""
    facts = ProcessFacts(1, 2, exe=exe, cmdline=cmdline)
    assert UwsgiProbe(None).wants(Target(1, 2, Runtime(runtime), facts)) is wanted  # type: ignore[arg-type]


def test_greenlets_are_a_reason() -> None:
    """A program that has loaded gevent says why it has no parents; greenlet alone, which SQLAlchemy
    loads as well, is none."""
    other = Mapping(0, 1, 0, "/venv/lib/python3.11/site-packages/greenlet/_greenlet.so")
    assert why_not([other]) is None
    assert "gevent" in str(why_not([other, GREENLETS]))


def test_greenlets_that_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that loads gevent while it runs is let go of at the next look, and a look that is
    not due costs nothing."""
    looks, now, mapped = [], [100.0], [list[Mapping]()]

    def mappings(tgid: int) -> list[Mapping]:
        looks.append(tgid)
        return mapped[0]

    monkeypatch.setattr("waggle.probes.uwsgi.attach.file_mappings", mappings)
    monkeypatch.setattr("waggle.probes.uwsgi.attach.time.monotonic", lambda: now[0])
    own = OwnLoop(None, Target(7, 2, Runtime(CPYTHON), ProcessFacts(7, 2)))  # type: ignore[arg-type]
    assert own.look() is None
    assert looks == []
    for _ in range(1000):
        now[0] += 0.25
        assert own.look() is None
    assert 10 < len(looks) < 30
    mapped[0] = [GREENLETS]
    now[0] += 16
    assert "gevent" in str(own.look())
