"""What the demo shows of Node.js and nginx: many look at its window at the same time."""

import re
import subprocess
import sys

import pytest

from .agent import WAGGLE
from .processes import ROOT
from .test_python_demo import built_demo

_SAID = re.compile(r"demo: (\d+) of (\d+) looks at the window")
_TIMEOUT_S = 300.0


@pytest.mark.slow
def test_looks_at_the_window_are_whole() -> None:
    """The demo itself: all its visits are answered and printed, the stranger's spans fit, and of
    looks at the window no span is in another's trace. A look of which a call has no parent, as one
    that was made before Node.js had shown whose turn is whose, is not whole: few are."""
    built_demo()
    command = [sys.executable, str(ROOT / "deploy" / "demo" / "demo.py"), str(WAGGLE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    assert done.returncode == 0, done.stderr[-4000:]
    found = _SAID.search(done.stderr)
    assert found, done.stderr[-4000:]
    whole, looks = map(int, found.groups())
    print(found.group())
    assert whole >= looks * 0.9, done.stderr[-4000:]
