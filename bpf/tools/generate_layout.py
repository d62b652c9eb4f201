"""Write agent/waggle/layout.py from the BTF of the compiled BPF object.

Usage: generate_layout.py OBJECT > layout.py

The C header is the only place where a shared struct or enumerator is written
by hand. Needs bpftool; the generated file is checked in and CI compares it.
"""

import json
import subprocess
import sys
from typing import Any

# C struct -> (name in Python, whether records of it lie in a ring buffer).
STRUCTS = {
    "waggle_exchange": ("EXCHANGE", True),
    "waggle_large_exchange": ("LARGE_EXCHANGE", True),
    "waggle_process_event": ("PROCESS_EVENT", True),
    "waggle_table_event": ("TABLE_EVENT", True),
    "waggle_http2": ("HTTP2", False),
    "waggle_told": ("TOLD", False),
    "waggle_process": ("PROCESS", False),
    "waggle_sample_rule": ("SAMPLE_RULE", False),
    "waggle_python": ("PYTHON", False),
    "waggle_scheduler": ("SCHEDULER", False),
    "waggle_java": ("JAVA", False),
    "waggle_go": ("GO", False),
    "waggle_go_function_key": ("GO_FUNCTION_KEY", False),
    "waggle_go_function": ("GO_FUNCTION", False),
    "waggle_tls_layout": ("TLS_LAYOUT", False),
    "waggle_evidence": ("EVIDENCE", True),
    "waggle_log": ("LOG", True),
    "waggle_handshake": ("HANDSHAKE", True),
    "waggle_code_layout": ("CODE_LAYOUT", False),
    "waggle_code_event": ("CODE_EVENT", True),
    "waggle_inject_settings": ("INJECT_SETTINGS", False),
    "waggle_inject_rule": ("INJECT_RULE", False),
}
# Of a map's values what user space reads: C struct -> (name in Python, members by their paths).
PARTS = {
    "connection": (
        "CONNECTION",
        (
            "requests",
            "responses",
            "tgid",
            "role",
            "current_used",
            "current.record.facts.method",
        ),
    ),
}
# Ring records are preceded by the kernel's own header: u32 length, u32 page.
RING_HEADER = [("ring_length", "<u4", 0), ("ring_page", "<u4", 4)]
RING_HEADER_SIZE = 8

HEADER = '''"""Layouts and enumerators shared with the kernel. Generated from bpf/waggle.h
by `make generate`: do not edit.

Ring records (EXCHANGE, LARGE_EXCHANGE, PROCESS_EVENT, TABLE_EVENT, EVIDENCE, CODE_EVENT,
LOG) include the 8 byte header the kernel puts before each record, so a batch of them is one array.
"""

from enum import IntEnum

import numpy as np
'''


class Types:
    """The types of one object file, by id, as bpftool prints them."""

    def __init__(self, path: str) -> None:
        out = subprocess.run(
            ["bpftool", "--json", "btf", "dump", "file", path],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        self._by_id: dict[int, dict[str, Any]] = {t["id"]: t for t in json.loads(out)["types"]}

    def named(self, kind: str, name: str) -> dict[str, Any]:
        for t in self._by_id.values():
            if t["kind"] == kind and t["name"] == name:
                return t
        raise SystemExit(f"generate_layout: no {kind.lower()} {name} in the object's BTF")

    def enums(self) -> list[dict[str, Any]]:
        found = [
            t
            for t in self._by_id.values()
            if t["kind"] == "ENUM" and t["name"].startswith("waggle_")
        ]
        return sorted(found, key=lambda t: str(t["name"]))

    def resolve(self, type_id: int) -> dict[str, Any]:
        t = self._by_id[type_id]
        while t["kind"] in ("TYPEDEF", "CONST", "VOLATILE"):
            t = self._by_id[t["type_id"]]
        return t

    def fields(self, struct: dict[str, Any], base: int = 0) -> list[tuple[str, str, int]]:
        """Flattened members as (name, numpy format, byte offset)."""
        found: list[tuple[str, str, int]] = []
        for member in struct["members"]:
            offset = base + member["bits_offset"] // 8
            t = self.resolve(member["type_id"])
            if t["kind"] == "STRUCT":
                found += self.fields(t, offset)
            else:
                found.append((member["name"], self._format(t), offset))
        return found

    def at(self, struct: dict[str, Any], path: str, base: int = 0) -> tuple[str, str, int]:
        """One member, which may lie in a member, as fields() has it."""
        first, _, rest = path.partition(".")
        for member in struct["members"]:
            if member["name"] == first:
                offset = base + member["bits_offset"] // 8
                t = self.resolve(member["type_id"])
                return self.at(t, rest, offset) if rest else (first, self._format(t), offset)
        raise SystemExit(f"generate_layout: no member {path} in {struct['name']}")

    def _format(self, t: dict[str, Any]) -> str:
        if t["kind"] == "ARRAY":
            return f"({t['nr_elems']},){self._format(self.resolve(t['type_id']))}"
        if t["kind"] == "INT":
            sign = "i" if t["encoding"] == "SIGNED" else "u"
            return f"<{sign}{t['size']}" if t["size"] > 1 else f"{sign}1"
        raise SystemExit(f"generate_layout: cannot lay out a {t['kind']}")


# Enumerators that are not called after their enum.
_PREFIXES = {
    "code_event_kind": "CODE",
    "code_kind": "CODE",
    "counter": "COUNT",
    "evidence_kind": "EVIDENCE",
    "go_verdict": "GO",
    "inject_mode": "INJECT",
    "process_event_kind": "PROCESS",
    "process_mode": "PROCESS",
    "table_event_kind": "TABLE",
}


def enum_class(enum: dict[str, Any]) -> str:
    """An IntEnum: enum waggle_link, WAGGLE_LINK_NONE -> Link.NONE."""
    words = enum["name"].removeprefix("waggle_").split("_")
    values = enum["values"]
    prefix = "WAGGLE_" + _PREFIXES.get("_".join(words), "_".join(words).upper()) + "_"
    lines = [f"class {''.join(w.capitalize() for w in words)}(IntEnum):"]
    lines += [
        f"    {v['name'].removeprefix(prefix)} = {v['val']}"
        for v in values
        if v["name"].startswith(prefix)
    ]
    return "\n".join(lines)


def dtype(types: Types, c_name: str) -> str:
    name, in_ring = STRUCTS[c_name]
    struct = types.named("STRUCT", c_name)
    shift = RING_HEADER_SIZE if in_ring else 0
    fields = (RING_HEADER if in_ring else []) + types.fields(struct, shift)
    return _written(name, struct["size"] + shift, fields)


def part(types: Types, c_name: str) -> str:
    name, paths = PARTS[c_name]
    struct = types.named("STRUCT", c_name)
    return _written(name, struct["size"], [types.at(struct, path) for path in paths])


def _written(name: str, size: int, fields: list[tuple[str, str, int]]) -> str:
    rows = "\n".join(f'        ("{n}", "{f}", {o}),' for n, f, o in fields)
    return f"{name} = _dtype(\n    {size},\n    [\n{rows}\n    ],\n)"


HELPER = """def _dtype(size: int, fields: list[tuple[str, str, int]]) -> "np.dtype[np.void]":
    return np.dtype(
        {
            "names": [f[0] for f in fields],
            "formats": [f[1] for f in fields],
            "offsets": [f[2] for f in fields],
            "itemsize": size,
        }
    )"""


def main() -> None:
    types = Types(sys.argv[1])
    parts = [HEADER]
    parts += [enum_class(e) for e in types.enums()]
    parts.append(HELPER)
    parts += [dtype(types, c_name) for c_name in STRUCTS]
    parts += [part(types, c_name) for c_name in PARTS]
    print("\n\n".join(p.rstrip("\n") if i else p for i, p in enumerate(parts)))


if __name__ == "__main__":
    main()
