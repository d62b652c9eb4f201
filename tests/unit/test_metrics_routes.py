"""Guessed routes: the columnar way against the plain one, and its bounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.records import batch, record
from waggle.layout import Role
from waggle.metrics.routes import ATTRIBUTE, OTHER, PER_RESOURCE, RouteGuesser, guess
from waggle.spans import Records

segments = st.sampled_from(
    ["", "users", "v1", "v12", "v123", "1v", "4711", "a1", "x" * 32, "x" * 33, "items", "v", "%20"]
)
paths = st.lists(segments, max_size=11).map(lambda found: "/" + "/".join(found))


def named(rows: list[Records], guesser: RouteGuesser | None = None) -> list[str | None]:
    _, added = (guesser or RouteGuesser()).of(batch(rows))
    told = [dict(added(row)) for row in range(len(rows))]
    return [None if not pairs else str(pairs[ATTRIBUTE]) for pairs in told]


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/", "/"),
        ("/users/4711", "/users/{id}"),
        ("/api/v1/users/4711/", "/api/v1/users/{id}/"),
        ("/files/9b2c1d7e-0f6a-4a52-9d27-1c1f5b6f2a10", "/files/{id}"),
        ("/about", "/about"),
        ("/a/b/c/d/e/f/g/h/i/j", "/a/b/c/d/e/f/g/h/{rest}"),
    ],
)
def test_a_segment_with_a_digit_is_an_id(path: str, route: str) -> None:
    """Versions of an API stay; what is deeper than eight segments is not told."""
    assert guess(path) == route


@settings(deadline=None)
@given(st.lists(st.tuples(paths, st.sampled_from(["", "?q=1", "?a/b=2"])), min_size=1, max_size=20))
def test_columns_name_each_path_as_the_plain_rule_does(found: list[tuple[str, str]]) -> None:
    """Two paths have one key exactly when they have one route, and each gets its own route."""
    rows = [record((path + query).encode()[:160]) for path, query in found]
    looked_at = [path[:128] for path, _ in found]
    assert named(rows) == [guess(path) for path in looked_at]
    keys, _ = RouteGuesser().of(batch(rows))
    by_key = dict(zip(keys.tolist(), map(guess, looked_at), strict=True))
    assert len(by_key) == len(set(map(guess, looked_at)))


def test_what_is_not_there_and_what_is_called_have_no_route() -> None:
    """404 gives no route, so that a scanner uses up nothing; nor do clients' spans."""
    rows = [record(b"/a", status=404), record(b"/a", role=Role.CLIENT), record(b"*")]
    assert named(rows) == [None, None, None]


def test_a_resource_has_so_many_routes_and_then_one_for_the_rest() -> None:
    """Names that are words, more than there is room for: _OTHER; known ones stay."""
    guesser = RouteGuesser()
    letters = ["".join(chr(97 + int(d)) for d in f"{n:04}") for n in range(3 * PER_RESOURCE)]
    rows = [record(f"/users/{name}".encode()) for name in letters]
    first = named(rows, guesser)
    assert len(set(first)) == PER_RESOURCE + 1
    assert first.count(OTHER) == 2 * PER_RESOURCE
    assert named(rows, guesser) == first
    assert np.count_nonzero([name == OTHER for name in named([record(b"/new")], guesser)]) == 1
