"""Which processes are traced: selectors over fake processes, and over real ones."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.fake_processes import FakeSource
from waggle.config import load_settings
from waggle.discovery import Decision, Discovery, Selector, matches_program
from waggle.errors import TargetError
from waggle.layout import PROCESS_EVENT, ProcessEventKind, ProcessMode
from waggle.procfs import TICK_NS, ProcessFacts, ProcFs

EXEC, FORK, EXIT = ProcessEventKind.EXEC, ProcessEventKind.FORK, ProcessEventKind.EXIT
LISTEN, SEEN = ProcessEventKind.LISTEN, ProcessEventKind.SEEN
TRACED, FOLLOW = ProcessMode.TRACED, ProcessMode.FOLLOW
EXCLUDED = ProcessMode.EXCLUDED
THREAD, TURN = ProcessMode.RULE_THREAD, ProcessMode.RULE_TURN
PROVED = TURN | ProcessMode.PROVE_TURN | ProcessMode.RULE_ALONE
PYTHON = THREAD | ProcessMode.RULE_TASK
OTHER = THREAD | ProcessMode.RULE_ALONE
OWN = 99


def source() -> FakeSource:
    fake = FakeSource()
    fake.add(OWN, "/usr/bin/python3", "/usr/bin/waggle", "run")
    fake.add(2, "", kernel_thread=True)
    fake.add(10, "/usr/sbin/sshd")
    fake.add(11, "/usr/bin/bash", parent=10)
    fake.add(20, "/usr/bin/python3.11", "/usr/bin/gunicorn", "shop:app", parent=11)
    fake.add(21, "/usr/bin/python3.11", "/usr/bin/gunicorn", "shop:app", parent=20)
    fake.add(30, "/usr/sbin/nginx")
    fake.add(40, "/srv/go/stock", ended=True)
    fake.add(50, "/usr/bin/node", "server.js")
    fake.listening = {20: {8000, 8001}, 30: {80}}
    return fake


def discovery(fake: FakeSource, **flags: object) -> Discovery:
    settings = load_settings(flags, {})
    return Discovery(Selector.from_settings(settings), fake, settings.max_processes, own=OWN)


def modes(decisions: list[Decision]) -> dict[int, int]:
    return {decision.tgid: decision.mode for decision in decisions}


def traced(decisions: list[Decision]) -> set[int]:
    return {decision.tgid for decision in decisions if decision.traced}


def events(*rows: tuple[ProcessEventKind, int, int]) -> np.ndarray:
    """(kind, tgid, parent or port); a start as FakeSource gives it, to the nanosecond."""
    array = np.zeros(len(rows), PROCESS_EVENT)
    for record, (kind, tgid, other) in zip(array, rows, strict=True):
        record["kind"], record["tgid"] = kind, tgid
        record["process_start_ns"] = tgid * TICK_NS + 4321
        record["port" if kind == LISTEN else "parent_tgid"] = other
    return array


# --- at the start -----------------------------------------------------------


def test_everything() -> None:
    """With nothing picked, all is traced but ourselves, sshd, kernel threads and what has ended."""
    found = modes(discovery(source()).initial())
    assert found == {
        OWN: EXCLUDED,
        10: EXCLUDED,
        11: TRACED | FOLLOW | OTHER,
        20: TRACED | FOLLOW | PYTHON,
        21: TRACED | FOLLOW | PYTHON,
        30: TRACED | FOLLOW | TURN,
        50: TRACED | FOLLOW | PROVED,
    }


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"pid": ["50"]}, {50}),
        ({"pid": ["11"]}, {11, 20, 21}),
        ({"pid": ["11"], "follow": False}, {11}),
        ({"port": ["80"]}, {30}),
        ({"port": ["8001"]}, {20, 21}),
        ({"port": ["1"]}, set()),
        ({"exe": ["*/gunicorn"]}, {20, 21}),
        ({"exe": ["gunicorn"]}, {20, 21}),
        ({"exe": ["/usr/sbin/*"]}, {30}),
        ({"name": ["shop"]}, {20, 21}),
        ({"name": ["s*"]}, {20, 21, 50}),
        ({"name": ["node"]}, {50}),
        ({"port": ["80"], "name": ["shop"], "pid": ["50"]}, {20, 21, 30, 50}),
        ({"port": ["80"], "exclude": ["nginx"]}, set()),
        ({"pid": ["10"], "follow": False}, set()),
        ({"command": ("x",)}, set()),
    ],
)
def test_selectors(flags: dict[str, object], expected: set[int]) -> None:
    """Each selector picks what it names, with its descendants, and they add up."""
    assert traced(discovery(source(), **flags).initial()) == expected


@pytest.mark.parametrize(
    ("pid", "message"),
    [
        ("4121", "no process 4121: it may have ended; `ps -e` lists what runs"),
        ("40", "no process 40: it may have ended"),
        ("2", "process 2 () is a kernel thread"),
        (str(OWN), f"process {OWN} is waggle itself"),
    ],
)
def test_pids_that_cannot_be_traced(pid: str, message: str) -> None:
    """A process id that means nothing we can trace is an error that says why."""
    with pytest.raises(TargetError) as caught:
        discovery(source(), pid=[pid]).initial()
    assert str(caught.value).startswith(message)


def test_descendants_never_include_ourselves() -> None:
    """Tracing the shell we were started from does not trace us."""
    fake = source()
    fake.add(OWN, "/usr/bin/python3", "/usr/bin/waggle", parent=11)
    assert OWN not in traced(discovery(fake, pid=["11"]).initial())


def test_waiting() -> None:
    """Where nothing matches yet, it is said what is waited for; afterwards nothing is."""
    fake = source()
    waiting = discovery(fake, port=["8080"], exe=["*/gunicorn2"], name=["pay"])
    waiting.initial()
    assert waiting.waiting_for() == (
        "waiting for a process that listens on port 8080 or runs '*/gunicorn2' or is called 'pay'"
    )
    fake.add(60, "/srv/pay")
    waiting.on_events(events((EXEC, 60, 1)))
    assert waiting.waiting_for() is None
    everything = discovery(source())
    everything.initial()
    assert everything.waiting_for() is None


# --- patterns ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "exe", "cmdline", "matches"),
    [
        ("*/gunicorn", "/usr/bin/python3.11", ["/v/bin/python", "/v/bin/gunicorn", "a:b"], True),
        ("*/gunicorn", "/usr/bin/python3.11", ["gunicorn: worker [shop:app]"], True),
        ("*/gunicorn", "/usr/bin/python3.11", ["python", "x.py", "/v/bin/gunicorn"], False),
        ("python3*", "/usr/bin/python3.11", ["/v/bin/python"], True),
        ("/srv/app.py", "/usr/bin/python3", ["python3", "app.py"], True),
        ("*/app.py", "/usr/bin/python3", ["python3", "app.py"], True),
        ("shop", "/usr/bin/python3", ["python3", "-m", "shop"], True),
        ("/bin/[a-c]*", "/bin/bash", ["bash"], True),
        ("bash", "/opt/bash/tool", ["tool"], False),
        ("*", "", ["x"], True),
    ],
)
def test_program_patterns(pattern: str, exe: str, cmdline: list[str], matches: bool) -> None:
    """A pattern is held against executable, argv[0] and script, by last part if it has no slash."""
    facts = ProcessFacts(1, 0, exe=exe, cmdline=tuple(cmdline), cwd="/srv")
    assert matches_program(pattern, facts) is matches


# --- events -----------------------------------------------------------------


def test_children_are_followed() -> None:
    """A fork is what its parent is; what it executes then has rules of its own."""
    fake = source()
    found = discovery(fake, pid=["50"])
    found.initial()
    fake.asked.clear()
    assert modes(found.on_events(events((FORK, 61, 50)))) == {61: TRACED | FOLLOW | PROVED}
    assert fake.asked == []
    fake.add(61, "/srv/tool", parent=50)
    assert modes(found.on_events(events((EXEC, 61, 50)))) == {61: TRACED | FOLLOW | OTHER}
    fake.add(61, "/srv/go/tool", parent=50)
    decision = found.on_events(events((EXEC, 61, 50)))[0]
    assert decision.mode == TRACED | FOLLOW | ProcessMode.RULE_GOROUTINE
    assert decision.reason == "child of 50"
    assert decision.start_ns == 61 * TICK_NS + 4321
    assert decision.facts is not None


def test_children_are_left_alone_on_request() -> None:
    """Without following, neither fork nor exec of a child is traced."""
    fake = source()
    found = discovery(fake, pid=["50"], follow=False)
    found.initial()
    fake.add(61, "/srv/tool", parent=50)
    assert found.on_events(events((FORK, 61, 50), (EXEC, 61, 50))) == []


def test_child_whose_fork_was_missed() -> None:
    """A lost fork event does not lose the child that executes something."""
    fake = source()
    found = discovery(fake, pid=["50"])
    found.initial()
    fake.add(61, "/srv/tool", parent=50)
    assert traced(found.on_events(events((EXEC, 61, 50)))) == {61}


def test_child_gone_before_it_was_looked_at() -> None:
    """A child that ended at once keeps what the fork gave it."""
    found = discovery(source(), pid=["50"])
    found.initial()
    assert traced(found.on_events(events((FORK, 61, 50), (EXEC, 61, 50)))) == {61}


def test_excluded_child() -> None:
    """A followed process that executes an excluded program is not traced."""
    fake = source()
    found = discovery(fake, pid=["50"], exclude=["*/curl"])
    found.initial()
    fake.add(61, "/usr/bin/curl", parent=50)
    assert modes(found.on_events(events((FORK, 61, 50), (EXEC, 61, 50)))) == {61: EXCLUDED}


@pytest.mark.parametrize(
    ("flags", "kind", "other", "expected"),
    [
        ({"exe": ["*/pay"]}, EXEC, 1, {60}),
        ({"name": ["pay"]}, EXEC, 1, {60}),
        ({"exe": ["*/other"]}, EXEC, 1, set()),
        ({"port": ["8080"]}, LISTEN, 8080, {60}),
        ({"port": ["8080"]}, LISTEN, 9000, set()),
        ({"port": ["8080"]}, EXEC, 1, set()),
        ({}, LISTEN, 9000, {60}),
        ({}, EXEC, 1, set()),
        ({}, SEEN, 1, {60}),
        ({"exe": ["*/other"]}, SEEN, 1, set()),
    ],
)
def test_new_processes(
    flags: dict[str, object], kind: ProcessEventKind, other: int, expected: set[int]
) -> None:
    """A process born later is traced as soon as what picks it is known."""
    fake = source()
    found = discovery(fake, **flags)
    found.initial()
    fake.add(60, "/srv/pay")
    assert traced(found.on_events(events((kind, 60, other)))) == expected


def test_everything_reads_no_process_at_exec() -> None:
    """Where all is traced, the programs a shell starts cost no look at /proc."""
    fake = source()
    found = discovery(fake)
    found.initial()
    fake.add(60, "/usr/bin/true", parent=11)
    fake.asked.clear()
    decisions = found.on_events(events((FORK, 60, 11), (EXEC, 60, 11)))
    assert modes(decisions) == {60: 0}
    assert fake.asked == []
    assert modes(found.on_events(events((SEEN, 60, 0)))) == {60: TRACED | FOLLOW | OTHER}


def test_sshd_is_never_traced_even_when_gone() -> None:
    """sshd is known by its kernel name when /proc has nothing more."""
    found = discovery(source())
    found.initial()
    rows = events((SEEN, 70, 0), (SEEN, 71, 0))
    rows[0]["comm"][:4] = np.frombuffer(b"sshd", np.uint8)
    rows[1]["comm"][:4] = np.frombuffer(b"curl", np.uint8)
    assert modes(found.on_events(rows)) == {70: EXCLUDED, 71: TRACED | FOLLOW}


def test_unpicked_process_that_listens_later() -> None:
    """A process seen before it listened on the picked port is still picked then."""
    fake = source()
    found = discovery(fake, port=["8080"])
    found.initial()
    fake.add(60, "/srv/pay")
    assert modes(found.on_events(events((SEEN, 60, 0)))) == {60: EXCLUDED}
    assert traced(found.on_events(events((LISTEN, 60, 8080)))) == {60}


def test_exit() -> None:
    """A process that ended is forgotten, and so is its id's claim."""
    fake = source()
    found = discovery(fake, pid=["50"])
    found.initial()
    before = len(found)
    assert modes(found.on_events(events((EXIT, 50, 1)))) == {50: 0}
    assert len(found) == before - 1
    assert found.on_events(events((EXIT, 50, 1), (FORK, 61, 50))) == []


def test_id_used_again() -> None:
    """The end of an id's last owner says nothing about the process that has it now."""
    found = discovery(source(), pid=["50"])
    found.initial()
    late = events((EXIT, 50, 1))
    late["process_start_ns"] = 3 * TICK_NS
    assert found.on_events(late) == []


def test_short_life() -> None:
    """A process that came and went within a batch is traced first and forgotten then."""
    found = discovery(source(), pid=["50"])
    found.initial()
    decisions = found.on_events(events((FORK, 61, 50), (EXIT, 61, 50)))
    assert [(decision.tgid, decision.traced) for decision in decisions] == [(61, True), (61, False)]


def test_bound() -> None:
    """Past the bound processes are not traced, and counted; room comes back with an exit."""
    found = discovery(source(), pid=["50"], max_processes="16")
    found.initial()
    forks = [(FORK, 100 + n, 50) for n in range(20)]
    decisions = found.on_events(events(*forks))
    assert len(traced(decisions)) == 14
    assert found.stats.refused == 6
    assert len(found) == 16
    found.on_events(events((EXIT, 100, 50)))
    assert len(traced(found.on_events(events((FORK, 200, 50))))) == 1


def test_adopted_command() -> None:
    """The command we started is traced whatever the selectors say, and its children with it."""
    fake = source()
    found = discovery(fake, command=("x",))
    found.initial()
    fake.add(60, "/usr/bin/python3", parent=OWN)
    assert found.adopt(60).traced
    fake.add(60, "/usr/sbin/nginx", parent=OWN)
    decisions = found.on_events(events((EXEC, 60, OWN), (FORK, 61, 60)))
    assert modes(decisions) == dict.fromkeys((60, 61), TRACED | FOLLOW | TURN)
    with pytest.raises(TargetError):
        found.adopt(4121)


def test_own_events_are_ignored() -> None:
    """Nothing that happens to us makes us traced."""
    found = discovery(source())
    found.initial()
    assert found.on_events(events((SEEN, OWN, 0), (EXEC, OWN, 1), (LISTEN, OWN, 80))) == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(ProcessEventKind)),
            st.sampled_from([OWN, 10, 11, 20, 50, 60, 61]),
            st.sampled_from([0, 1, 11, 50, 60, 8080, OWN]),
        ),
        max_size=40,
    ),
    st.sampled_from([{}, {"pid": ["11"]}, {"port": ["8080"]}, {"exe": ["*/node"]}]),
)
def test_any_events(
    rows: list[tuple[ProcessEventKind, int, int]], flags: dict[str, object]
) -> None:
    """In whatever order events come: we and sshd are never traced, and the bound holds."""
    found = discovery(source(), max_processes="16", **flags)
    rows = [row for row in rows if row[:2] != (FORK, 10)]  # sshd is no fork of anything else
    decisions = found.initial() + found.on_events(events(*rows))
    assert not {OWN, 10} & traced(decisions)
    assert len(found) <= 16


# --- real processes ---------------------------------------------------------


def test_real_process_by_id_with_its_child() -> None:
    """A real process is found by its id together with the child it has already."""
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
        "child.kill()\n"
        "child.wait()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        child = int(process.stdout.readline())
        found = Discovery(Selector(pids=frozenset({process.pid})), ProcFs())
        decisions = {decision.tgid: decision for decision in found.initial()}
        assert set(decisions) == {os.getpid(), process.pid, child}
        assert decisions[os.getpid()].mode == EXCLUDED
        assert decisions[child].mode == TRACED | FOLLOW | OTHER
        assert decisions[child].reason == f"child of {process.pid}"
        facts = decisions[process.pid].facts
        assert facts is not None
        assert facts.cmdline[-1] == code
    finally:
        process.stdin.close()
        process.wait(timeout=30)
        process.stdout.close()


def test_real_process_that_ended() -> None:
    """The id of a process that has ended is refused."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(TargetError):
        Discovery(Selector(pids=frozenset({process.pid})), ProcFs()).initial()
