"""What the demo shows of Go: its Gin service asks for two prices at once."""

import pytest

from .agent import started_agent
from .test_python_demo import built_demo

VISITS = 6


@pytest.mark.slow
def test_two_calls_at_once_under_their_request() -> None:
    """Of each of the demo's six looks at an article the two calls by gRPC are children of that
    request, and the parents of what the price service did."""
    demo = built_demo()
    with demo.running_shop() as shop, started_agent(pids=shop.pids) as agent:
        demo.visit_all(shop)
        agent.wait_for(
            lambda spans: (
                len([span for span in spans if span.name == "shop.Prices/Quote"]) >= 4 * VISITS
            )
        )
        ended = agent.stop()
    looks = [s for s in ended.spans if s.kind == "server" and s.name == "GET /stock/:id"]
    assert len(looks) == VISITS
    for look in looks:
        below = [span for span in ended.spans if span.parent_id == look.span_id]
        assert [span.name for span in below] == ["shop.Prices/Quote"] * 2
        assert {span.kind for span in below} == {"client"}
        assert {span.link for span in below} == {"goroutine"}
        for call in below:
            (served,) = (span for span in ended.spans if span.parent_id == call.span_id)
            assert (served.kind, served.trace_id) == ("server", look.trace_id)
