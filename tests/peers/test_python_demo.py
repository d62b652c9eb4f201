"""What the demo shows of Python: its FastAPI service asks three things at once."""

import importlib.util
import sys
from types import ModuleType

import pytest

from .agent import SeenSpan, started_agent
from .processes import ROOT
from .toolchain import (
    SDK_REQUIREMENTS,
    SDK_VENV,
    ensure_go_module,
    ensure_python_peers,
    ensure_venv,
)

DEMO = ROOT / "deploy" / "demo"
ASKED = ("price", "discount", "delivery")


def built_demo() -> ModuleType:
    """demo.py, which finds its own modules beside it, as where it is started from, when all that
    it starts is there."""
    ensure_python_peers()
    ensure_venv(SDK_VENV, SDK_REQUIREMENTS)
    demo = _loaded_demo()
    ensure_go_module(DEMO / "stock", ["."], demo._BIN)
    return demo


def _loaded_demo() -> ModuleType:
    sys.path.insert(0, str(DEMO))
    spec = importlib.util.spec_from_file_location("demo", DEMO / "demo.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def line_of(file: str, text: str) -> int:
    """Of the one line that has this text, its number."""
    lines = (DEMO / file).read_text().splitlines()
    (found,) = (number for number, line in enumerate(lines, 1) if text in line)
    return found


def is_asked(span: SeenSpan) -> bool:
    is_http = span.kind == "client" and "url.full" in span.attributes
    return is_http and span.path.split("/")[1] in ASKED


@pytest.mark.slow
def test_three_calls_under_their_request_each_with_its_line() -> None:
    """Of each of the demo's six payments the three calls that are gathered are children of that
    payment's request, and each tells the file, the line and the function that made it."""
    demo = built_demo()
    with demo.running_shop() as shop, started_agent(pids=shop.pids) as agent:
        demo.visit_all(shop)
        agent.wait_for(lambda spans: len([span for span in spans if is_asked(span)]) == 18)
        ended = agent.stop()
    payments = [
        s for s in ended.spans if s.kind == "server" and s.attributes.get("url.path") == "/pay"
    ]
    assert len(payments) == 6
    place = (str(DEMO / "pay.py"), line_of("pay.py", "await client.get("), "ask")
    for payment in payments:
        below = [
            span for span in ended.spans if span.parent_id == payment.span_id and is_asked(span)
        ]
        assert sorted(span.path.split("/")[1] for span in below) == sorted(ASKED)
        for span in below:
            told = tuple(
                span.attributes.get(f"code.{name}")
                for name in ("file.path", "line.number", "function.name")
            )
            assert told == place, told
            assert span.trace_id == payment.trace_id
