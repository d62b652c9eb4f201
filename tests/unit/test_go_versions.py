"""Which layout a version of Go has, and what is done with one that nobody knows."""

import pytest

from waggle.attach import RefusedError
from waggle.elf import Image
from waggle.probes.go.binary import GoProgram
from waggle.probes.go.channel_hooks import channel_hooks
from waggle.probes.go.chooser import Chooser
from waggle.probes.go.make_table import FIELDS, OPTIONAL, SERVED, render, row_of
from waggle.probes.go.offsets import grpc_offsets_of, offsets_of, router_offsets_of
from waggle.probes.go.table import GO


def test_every_row_has_every_field() -> None:
    """But for what came with Go 1.21, and 1.23."""
    assert {"1.17", "1.21", "1.26"} <= GO.keys()
    for version, row in GO.items():
        assert set(FIELDS) - set(row) <= OPTIONAL, version
        assert ("parent_goid" in row) == (int(version.split(".")[1]) >= 21)


def test_a_conn_of_net_http_is_read_at_once() -> None:
    """What says that it was hijacked is as far from the response as struct go_served has it."""
    assert {row["conn_hijacked"] - row["conn_response"] for row in GO.values()} == {SERVED}


@pytest.mark.parametrize("is_guess", [False, True])
def test_channels_are_followed_whole_or_not_at_all(is_guess: bool) -> None:
    """Where one way for an item is not found, or the version is a guess, there is no probe at all,
    and that is said."""
    nothing = GoProgram("1.26.8", {}, {}, Image((), {}), (0, 0))
    chooser = Chooser("/nowhere", nothing)
    assert channel_hooks(chooser, GO["1.26"], is_guess=is_guess) == []
    assert "no parents by hand-over" in " ".join(chooser.missing)


@pytest.mark.parametrize("version", ["1.26.8", "1.26", "1.26rc1", "1.26.8-custom"])
def test_a_known_version_is_no_guess(version: str) -> None:
    """Releases of one version share its layout."""
    assert offsets_of(version) == (GO["1.26"], False)


def test_a_newer_version_is_a_guess() -> None:
    """The newest that is known, and the kernel side is told to believe nothing at first."""
    newest = max(GO, key=lambda version: int(version.split(".")[1]))
    assert offsets_of("1.99.1") == (GO[newest], True)


@pytest.mark.parametrize("version", ["", "devel", "1.16.15", "0.9", "1"])
def test_what_is_too_old_or_says_nothing_is_refused(version: str) -> None:
    """With the reason; no guess."""
    with pytest.raises(RefusedError):
        offsets_of(version)


def test_a_field_that_has_gone_stops_the_making() -> None:
    """Nothing is written where Go does not have a field any more."""
    with pytest.raises(SystemExit, match="goid"):
        row_of({}, FIELDS)


def test_the_table_is_written_in_the_order_of_versions() -> None:
    """1.9 comes before 1.10, and what is written can be read again."""
    text = render({"1.10": {"goid": 2}, "1.9": {"goid": 1}}, {}, {})
    read: dict[str, dict[str, dict[str, int]]] = {}
    exec(text, read)  # noqa: S102
    assert list(read["GO"]) == ["1.9", "1.10"]


@pytest.mark.parametrize(
    ("version", "known"),
    [
        ("v1.85.0", True),
        ("v1.99.0", True),  # newer: the newest is tried, and verified where it is used
        ("v1.76.0", True),
        ("v1.76.0-dev", True),
        ("v1.74.2", True),  # between two that are alike
        ("v1.78.0", False),  # between two that differ
        ("v1.20.0", False),  # older than all
        ("", False),
        ("(devel)", False),
    ],
)
def test_a_version_of_grpc_is_known_by_its_neighbours(
    monkeypatch: pytest.MonkeyPatch, version: str, known: bool
) -> None:
    """No guess between two that differ."""
    old, new = {"grpc_conn": 16, "grpc_stream": 0}, {"grpc_conn": 16, "grpc_stream": 108}
    table = {"1.70.0": old, "1.76.0": old, "1.85.0": new}
    monkeypatch.setattr("waggle.probes.go.offsets.GRPC", table)
    assert (grpc_offsets_of(version) is not None) is known


@pytest.mark.parametrize(
    ("version", "named"),
    [("v1.85.0", True), ("v1.85.7", True), ("v1.86.0", False), ("v1.50.1", True)],
)
def test_names_of_calls_are_not_guessed(version: str, named: bool) -> None:
    """Of a grpc that is newer than what was measured streams are known, and no names."""
    offsets = grpc_offsets_of(version)
    assert offsets is not None
    assert ("grpc_method" in offsets) is named
    assert "grpc_stream" in offsets


@pytest.mark.parametrize(
    ("version", "known"),
    [("v5.2.3", True), ("v5.2.9", True), ("v5.3.0", False), ("v5.1.0", True), ("v4.9.0", False)],
)
def test_a_router_is_not_guessed(
    monkeypatch: pytest.MonkeyPatch, version: str, known: bool
) -> None:
    """Nothing tells a wrong text from a route: a newer minor version is left alone."""
    row = {"chi_patterns": 176}
    table = {"github.com/go-chi/chi/v5": {"5.0.12": row, "5.2.3": row}}
    monkeypatch.setattr("waggle.probes.go.offsets.ROUTERS", table)
    assert (router_offsets_of("github.com/go-chi/chi/v5", version) is not None) is known
