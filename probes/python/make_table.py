"""Write table.py from interpreters: make_table.py INTERPRETER... (`make python-offsets`).

Each interpreter measures itself (measure_offsets.py). Versions that are not at hand
keep the rows they have; two builds of one version that differ are an error.
"""

import json
import subprocess
import sys
from pathlib import Path

from waggle.probes.python.table import OFFSETS

HERE = Path(__file__).parent
MEASURE = HERE / "measure_offsets.py"
HEADER = '''"""Offsets per version of CPython. Written by `make python-offsets`: do not edit."""

# (version, free threaded): bytes. interpreters: of the newest interpreter's address in
# _PyRuntime; threads: of the newest thread's state in that; thread_id, context: in the
# thread's state; type: in any object. From 3.11 on, as in struct waggle_code_layout: c_frame
# and frame from the thread's state to a frame; frame_* in that; file_name, function,
# names, line_table, first_line and instructions in a code object; items in a tuple; text in a
# str of ASCII.
OFFSETS: dict[tuple[str, bool], dict[str, int]] = {
'''


def measure(interpreter: str) -> tuple[tuple[str, bool], dict[str, int]]:
    """What an interpreter says of itself. Raises CalledProcessError when it cannot."""
    done = subprocess.run(
        [interpreter, "-I", str(MEASURE)], check=True, capture_output=True, text=True
    )
    row = json.loads(done.stdout)
    return (row.pop("version"), row.pop("free_threaded")), row


def render(table: dict[tuple[str, bool], dict[str, int]]) -> str:
    order = sorted(table, key=lambda key: ([int(part) for part in key[0].split(".")], key[1]))
    return HEADER + "".join(f"    {key!r}: {table[key]!r},\n" for key in order) + "}\n"


def main() -> None:
    table: dict[tuple[str, bool], dict[str, int]] = {}
    for interpreter in sys.argv[1:]:
        version, row = measure(interpreter)
        if table.setdefault(version, row) != row:
            raise SystemExit(f"make_table: {interpreter} differs from another {version[0]}: {row}")
    (HERE / "table.py").write_text(render({**OFFSETS, **table}), "ascii")


if __name__ == "__main__":
    main()
