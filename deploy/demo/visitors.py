"""Many visitors of the demo's shop window at once, and whether each found way is whole.

Each look passes nginx, Node.js and the stock service: five requests, of which four are made by
programs that serve several at a time on one thread. `judge_looks` tells whether their spans are in
one trace, and in no other's.
"""

import http.client
import json
import ssl
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from opentelemetry.proto.trace.v1.trace_pb2 import Span

# One by one first: by then nginx has shown whose turn is whose.
ONE_BY_ONE, AT_ONCE, LOOKS_EACH = 20, 8, 6
LOOKS = ONE_BY_ONE + AT_ONCE * LOOKS_EACH
# nginx, what it asks of Node.js, that, and three calls to stock with their other ends.
SPANS = 9
_FIRST_ARTICLE = 1000


@dataclass(frozen=True)
class Looks:
    """Of all looks at the window: those whose spans are all in one trace and below each other, and
    spans that are in the trace of another."""

    whole: int
    wrong: int


def look_many(port: int, trusted: ssl.SSLContext) -> None:
    """LOOKS visits, each for an article of its own; the first ones one by one. Raises RuntimeError
    for an unexpected answer."""
    _look(port, trusted, range(_FIRST_ARTICLE, _FIRST_ARTICLE + ONE_BY_ONE))
    begin = _FIRST_ARTICLE + ONE_BY_ONE
    gate = threading.Barrier(AT_ONCE)
    with ThreadPoolExecutor(AT_ONCE) as visitors:
        parts = [range(begin + at, begin + AT_ONCE * LOOKS_EACH, AT_ONCE) for at in range(AT_ONCE)]
        for _ in visitors.map(lambda part: _look(port, trusted, part, gate), parts):
            pass


def _look(
    port: int,
    trusted: ssl.SSLContext,
    articles: Sequence[int],
    gate: threading.Barrier | None = None,
) -> None:
    connection = http.client.HTTPSConnection("localhost", port, timeout=30, context=trusted)
    with closing(connection):
        for article in articles:
            if gate:
                gate.wait(30)
            connection.request("GET", f"/window/{article}")
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200 or json.loads(text)["article"] != article:
                raise RuntimeError(f"GET /window/{article} was answered with {answer.status}")


def window_spans(spans: Iterable[Span]) -> Iterator[tuple[int, Span]]:
    """Spans of looks at the window, with the article, by their paths."""
    for span in spans:
        words = _path(span).split("/")
        number = words[-1]
        if number.isdigit() and _FIRST_ARTICLE <= int(number) < _FIRST_ARTICLE + LOOKS:
            yield int(number), span


def _path(span: Span) -> str:
    for pair in span.attributes:
        if pair.key in ("url.path", "url.full"):
            return pair.value.string_value.partition("?")[0]
    return ""


def judge_looks(spans: Iterable[Span]) -> Looks:
    """What became of the looks: their article is the truth, for each is looked at once."""
    by_article: dict[int, list[Span]] = defaultdict(list)
    articles: dict[bytes, set[int]] = defaultdict(set)
    for article, span in window_spans(spans):
        by_article[article].append(span)
        articles[span.trace_id].add(article)
    wrong = sum(len(found) - 1 for found in articles.values())
    return Looks(sum(map(_is_whole, by_article.values())), wrong)


def _is_whole(spans: Sequence[Span]) -> bool:
    ids = {span.span_id for span in spans}
    roots = [span for span in spans if span.parent_span_id not in ids]
    return (
        len(spans) == len(ids) == SPANS
        and len({span.trace_id for span in spans}) == 1
        and len(roots) == 1
        and not roots[0].parent_span_id
    )
