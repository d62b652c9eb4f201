"""A target program: plain_asyncio.py in a second interpreter of the process, on the main thread,
for any CPython from 3.12 on. `plain_inside.py PORT`."""

import sys
from pathlib import Path

if sys.version_info >= (3, 13):
    import _interpreters as interpreters
else:
    import _xxsubinterpreters as interpreters

PROGRAM = Path(__file__).with_name("plain_asyncio.py")
INSIDE = f"""
import runpy, sys
sys.argv = {[str(PROGRAM), *sys.argv[1:]]!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""

if __name__ == "__main__":
    interpreters.run_string(interpreters.create(), INSIDE)
