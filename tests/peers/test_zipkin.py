"""A real chain of services, the agent, and the real Zipkin, asked by its own API."""

from collections import Counter
from collections.abc import Iterator

import pytest

from waggle.exporter.encoding import OtlpEncoder
from waggle.exporter.otlp_settings import queue_settings
from waggle.exporter.setup import encoder_for
from waggle.exporter.zipkin import ZipkinExporter

from .agent import started_agent
from .backends import edges
from .harness import ensure_built, run_client
from .test_collector import batch_of_new_spans
from .test_end_to_end import started_chain
from .zipkin import Zipkin, started_zipkin

COUNT = 30


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_built()


@pytest.fixture(scope="module")
def zipkin() -> Iterator[Zipkin]:
    with started_zipkin() as started:
        yield started


def test_zipkin_takes_a_full_request(zipkin: Zipkin) -> None:
    """A request of as many spans as one may have is taken, and each of them is there."""
    exporter = ZipkinExporter({}, zipkin.url, encoder_for(queue_settings({})), lambda _: None)
    batch, ids = batch_of_new_spans(5000)
    exporter.export(batch)
    exporter.close(30)
    assert exporter.stats().exported == 5000
    assert exporter.stats().lost == {}
    for trace_id, span_id in list(ids)[::250]:
        (span,) = zipkin.trace(trace_id.hex())
        assert span["id"] == span_id.hex()


def test_a_wrong_path_is_named(zipkin: Zipkin) -> None:
    """Where Zipkin does not take spans, they are lost as refused_404, with the remedy."""
    events: list[str] = []
    exporter = ZipkinExporter({}, f"{zipkin.url}/wrong", OtlpEncoder(), events.append)
    exporter.export(batch_of_new_spans(10)[0])
    exporter.close(10)
    assert exporter.stats().lost == {"refused_404": 10}
    assert "/api/v2/spans" in events[0]


def test_zipkin_holds_each_trace_and_who_calls_whom(zipkin: Zipkin) -> None:
    """With OTEL_TRACES_EXPORTER=zipkin Zipkin has each request of a chain as one trace of five
    spans, in a line, and knows which service calls which, how often."""
    with started_chain() as chain:
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
    assert (ended.code, ended.lost) == (0, [])
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
    assert services >= {"nginx", "flask_app", "stock"}
    assert dependencies == {("nginx", "flask_app"): COUNT, ("flask_app", "stock"): COUNT}


def _place(span: dict[str, object]) -> tuple[str, object]:
    local = span["localEndpoint"]
    assert isinstance(local, dict)
    return local["serviceName"], span["kind"]
