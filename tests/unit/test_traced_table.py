"""The README's table of what is traced."""

import pytest
from peers.traced_table import PAGE, rows, with_table


def test_the_table_is_current() -> None:
    """README says what the tests run: `python -m tests.peers.traced_table --write` writes it."""
    page = PAGE.read_text("utf-8")
    assert with_table(page) == page


def test_every_row_has_programs() -> None:
    """No line of the table promises something with nothing behind it."""
    for row in rows():
        assert row.servers and row.clients
        assert row.target.startswith("make ")


def test_a_page_without_the_place_is_refused() -> None:
    """A README that lost its markers is an error, not a table less."""
    with pytest.raises(ValueError, match="has no"):
        with_table("nothing")
