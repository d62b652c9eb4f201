"""Paths of sampling rules on HTTP/2, compared as they were sent: Huffman coded or plain."""

import hpack
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unit.parsers import block_path
from waggle.capture_options import write_rules
from waggle.layout import SAMPLE_RULE
from waggle.path_codes import code_bits
from waggle.sampling import Rule, Sampling

_LETTERS = "/abcxyzAZ019.-_~%+@{}|&=!?"
_paths = st.text(_LETTERS, max_size=50).map(lambda text: "/" + text)
_rules = _paths.map(lambda text: text.replace("?", "")).filter(
    lambda text: code_bits(text.encode()) <= 8 * 64
)


def _row(path: str, exact: bool) -> np.void:
    rows = np.zeros(2, SAMPLE_RULE)
    write_rules(rows, Sampling(rules=(Rule(0, path=path.encode(), exact=exact),)))
    row: np.void = rows[1]
    return row


def _is_for(rule: str, exact: bool, path: str) -> bool:
    if not exact:
        return path.startswith(rule)
    return path == rule or path.startswith(rule + "?")


@settings(max_examples=300, deadline=None)
@given(_rules, _paths, st.booleans(), st.booleans(), st.booleans())
@example("/health", "/health", True, True, False)
@example("/health", "/health?x", True, True, False)
@example("/health", "/health~", True, True, False)
@example("/" + "a" * 63, "/" + "a" * 63 + "b", True, False, True)
def test_a_rule_is_for_the_same_paths_in_any_form(
    rule: str, path: str, exact: bool, coded: bool, related: bool
) -> None:
    """Those that begin with its path, or, where it is exact, are it with any query: plain or in the
    Huffman code, whatever lies behind it in the buffer."""
    asked = rule + path[1:] if related else path
    block = hpack.Encoder().encode([(":method", "GET"), (":path", asked)], huffman=coded)
    if asked in ("/", "/index.html"):
        return
    assert block_path(block, _row(rule, exact).tobytes()).suits == _is_for(rule, exact, asked)


@pytest.mark.parametrize("coded", [True, False])
@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("spelled", [True, False])
def test_where_a_path_stands(coded: bool, indexed: bool, spelled: bool) -> None:
    """With its name's index or the name itself, as C-core has it; and the number of the entry that
    it becomes, where it becomes one."""
    value = hpack.Encoder().encode([("x", "/health")], huffman=coded)[1:]
    name_length = 1 + (value[0] & 0x7F)
    value = value[name_length:]
    first = bytes([0x40 if indexed else 0x00])
    if spelled:
        text = b":path"
        if coded:
            text = bytes.fromhex("b958d33f")
        name = first + bytes([len(text) | (0x80 if coded else 0)]) + text
    else:
        name = bytes([first[0] | 4])
    told = block_path(b"\x83" + name + value, _row("/health", True).tobytes(), known=7)
    assert told == (1, 0, 8 if indexed else 0, 0)


def test_paths_without_a_string() -> None:
    """The two of the static table; and, of what only an index tells, the number of its entry."""
    root, index = _row("/", True), _row("/index.html", True)
    assert (root["static_paths"], index["static_paths"]) == (1 << 4, 1 << 5)
    assert _row("/", False)["static_paths"] == 1 << 4 | 1 << 5
    assert _row("/i", False)["static_paths"] == 1 << 5
    assert block_path(b"\x83\x84", root.tobytes()) == (0, 4, 0, 0)
    assert block_path(b"\x83\xbe", root.tobytes(), known=9) == (0, 0, 0, 9)
    assert block_path(b"\x83\xc0", root.tobytes(), known=9) == (0, 0, 0, 7)
