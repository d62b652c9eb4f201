"""A real chain of services, the agent, and the real Zipkin, asked by its own API."""

from collections import Counter

import pytest

from .agent import started_agent
from .backends import edges
from .harness import ensure_built, run_client
from .test_end_to_end import started_chain
from .zipkin import started_zipkin

COUNT = 30


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_built()


def test_zipkin_holds_each_trace_and_who_calls_whom() -> None:
    """With OTEL_TRACES_EXPORTER=zipkin Zipkin has each request of a chain as one trace of five
    spans, in a line, and knows which service calls which, how often."""
    with started_zipkin() as zipkin, started_chain() as chain:
        environment = {
            "OTEL_TRACES_EXPORTER": "zipkin",
            "OTEL_EXPORTER_ZIPKIN_ENDPOINT": f"{zipkin.url}/api/v2/spans",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        pids = [chain.front.pid, chain.middle.pid, chain.back.pid]
        with started_agent(pids=pids, env=environment, json_lines=False) as agent:
            run_client("go", chain.front.base_url, COUNT, path=chain.path)
            ended = agent.stop()
        traces = zipkin.traces(COUNT, serviceName="nginx")
        one = zipkin.trace(traces[0][0]["traceId"])
        services, dependencies = zipkin.services(), edges(zipkin.dependencies())
    assert (ended.code, ended.losses) == (0, ["nothing"])
    assert len(traces) == COUNT
    for trace in traces:
        assert Counter(_place(span) for span in trace) == Counter(
            [
                ("nginx", "SERVER"),
                ("nginx", "CLIENT"),
                ("flask_app", "SERVER"),
                ("flask_app", "CLIENT"),
                ("stock", "SERVER"),
            ]
        )
        parents = [span.get("parentId") for span in trace]
        assert parents.count(None) == 1
        assert len(set(parents)) == 5
    assert {span["id"] for span in one} == {span["id"] for span in traces[0]}
    assert all(span["tags"]["http.request.method"] == "GET" for span in one)
    assert services == {"nginx", "flask_app", "stock"}
    assert dependencies == {("nginx", "flask_app"): COUNT, ("flask_app", "stock"): COUNT}


def _place(span: dict[str, object]) -> tuple[str, object]:
    local = span["localEndpoint"]
    assert isinstance(local, dict)
    return local["serviceName"], span["kind"]
