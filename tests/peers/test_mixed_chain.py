"""Nine services in eight runtimes as one trace: each edge of each request, and its evidence."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import pytest

from .agent import SeenSpan, started_agent
from .clients import run_client, start_client
from .harness import ensure_built
from .python_matrix import settle
from .runtime_matrix import RUNTIMES, httpd
from .servers import SERVERS, Options, Place, Server, ServerKind, nginx_with, start_server
from .toolchain import ensure_runtimes, tool
from .truth import judge
from .turn_matrix import PROGRAMS_BY_NAME

BEFORE, ONE_BY_ONE, COUNT, AT_ONCE = 64, 40, 160, 16


def _nginx(place: Place, options: Options) -> list[str | Path]:
    behind = (options.upstream or "").removeprefix("http://")
    kept = 'proxy_http_version 1.1; proxy_set_header Connection "";'
    return nginx_with(
        place,
        f"upstream behind {{ server {behind}; keepalive 32; }}",
        [
            f"location ~ ^/n/(\\d+)$ {{ proxy_pass http://behind/m/one/agent/$1; {kept} }}",
            f"location / {{ proxy_pass http://behind; {kept} }}",
        ],
    )


_HAPROXY = """
defaults
    mode http
    timeout connect 30s
    timeout client 600s
    timeout server 600s
    http-reuse always
frontend front
    bind {listen}
    http-request replace-path ^/n/(.*) /m/one/url/\\1
    default_backend behind
backend behind
    server one {behind}
"""


def _haproxy(place: Place, options: Options) -> list[str | Path]:
    config = place.folder / "haproxy.cfg"
    behind = (options.upstream or "").removeprefix("http://")
    config.write_text(_HAPROXY.format(listen=place.address, behind=behind))
    return [tool("haproxy"), "-db", "-f", config]


def _caddy(place: Place, options: Options) -> list[str | Path]:
    """What FastAPI is to call stands in the query that it gets."""
    behind, _, called = (options.upstream or "").partition("?")
    config = place.folder / "Caddyfile"
    config.write_text(
        "{\n\tauto_https off\n\tadmin off\n}\n"
        f"http://{place.address} {{\n\t@n path_regexp n ^/n/(\\d+)$\n"
        f"\trewrite @n /call/{{re.n.1}}?url={quote(called, safe='')}%2Fn%2F{{re.n.1}}\n"
        f"\treverse_proxy {behind.removeprefix('http://')}\n}}\n"
    )
    return [tool("caddy"), "run", "--adapter", "caddyfile", "--config", config]


# From the last to the first: what it is, and by which rule its calls have their parents. Whoever
# hands requests on also says in their paths what the next one is to do.
CHAIN: Mapping[str, tuple[ServerKind, str]] = {
    "go": (SERVERS["go-nethttp"], ""),
    "fastapi": (SERVERS["fastapi-uvicorn-asyncio"], "task"),
    "caddy": (ServerKind(_caddy, needs_upstream=True), "goroutine"),
    "puma": (RUNTIMES["puma"], "thread"),
    "httpd": (httpd("event", '"^/n/([0-9]+)$" {upstream}/m/one/kept/$1'), "thread"),
    "tomcat": (RUNTIMES["tomcat"], "thread"),
    "haproxy": (ServerKind(_haproxy, needs_upstream=True), "task"),
    "node": (PROGRAMS_BY_NAME["node"], "turn"),
    "nginx": (ServerKind(_nginx, needs_upstream=True), "turn"),
}


@contextmanager
def running_chain() -> Iterator[dict[str, Server]]:
    """The services, each of which calls the one before it."""
    kinds = {name: kind for name, (kind, _) in CHAIN.items()}
    with ExitStack() as stack:
        running: dict[str, Server] = {}
        behind = ""
        for name in kinds:
            upstream = f"{behind}?{running['go'].base_url}" if name == "caddy" else behind
            running[name] = stack.enter_context(
                start_server(name, kinds=kinds, upstream=upstream, env={"CALLED": behind})
            )
            behind = running[name].base_url
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("are_old", [False, True], ids=["new", "old"])
def test_each_request_is_one_trace(are_old: bool) -> None:
    """Requests, one by one and then many at once, pass nine services: each call has the right
    parent by the rule that holds there or, now and then under the two loops, none, and each served
    request is below its call. So on connections that are older than the agent."""
    ensure_built()
    ensure_runtimes()
    with ExitStack() as stack:
        running = stack.enter_context(running_chain())
        front = running["nginx"].base_url
        load = stack.enter_context(
            start_client("go", front, BEFORE + COUNT, AT_ONCE, gate=BEFORE if are_old else 0)
        )
        load.wait_for_gate()
        agent = stack.enter_context(started_agent(pids=[one.pid for one in running.values()]))
        run_client("go", front, ONE_BY_ONE, 1, first=10_000)
        load.open_gate()
        load.finish()
        settle(agent, (2 * len(CHAIN) - 1) * (ONE_BY_ONE + COUNT + (0 if are_old else BEFORE)))
        ended = agent.stop()
        pids = {name: running[name].pids() for name in CHAIN}
    told = [*range(1 + BEFORE, 1 + BEFORE + COUNT), *range(10_000, 10_000 + ONE_BY_ONE)]
    spans = [span for span in ended.spans if span.number in set(told)]
    edges = _edges(spans, pids)
    print("\n".join(edges), ended.stderr)
    whole = _whole(spans)
    assert len(told) * 0.9 <= len(whole), "\n".join(edges)
    assert not ended.lost


def _edges(spans: list[SeenSpan], pids: Mapping[str, list[int]]) -> list[str]:
    """One line for each service that calls: what became of its calls. Fails for what is wrong."""
    lines = []
    for before, name in pairwise(list(CHAIN)):
        truth = judge(spans, pids[name], pids[before])
        rule = CHAIN[name][1]
        lines.append(f"{name} -> {before}: {dict(truth.verdicts)} by {dict(truth.links)}")
        assert not truth.verdicts["wrong"], (lines[-1], truth.examples("wrong"))
        assert not truth.astray and not truth.split, lines[-1]
        assert set(truth.links) <= {rule, None}, lines[-1]
        assert truth.links[None] == truth.verdicts["none"], lines[-1]
        if rule != "turn":
            assert not truth.verdicts["none"], lines[-1]
        served = [s for s in spans if s.kind == "server" and s.pid in pids[before]]
        assert Counter(span.link for span in served) == {"socket": len(served)}, before
    return lines


def _whole(spans: list[SeenSpan]) -> list[int]:
    """The requests of which all is in one trace, whose only root is nginx's."""
    by_number: dict[int, list[SeenSpan]] = defaultdict(list)
    for span in spans:
        by_number[span.number or 0].append(span)
    return [
        number
        for number, found in by_number.items()
        if len({span.trace_id for span in found}) == 1
        and len(found) == 2 * len(CHAIN) - 1
        and sum(not span.parent_id for span in found) == 1
    ]
