"""A target program: writes to its logs as the lines of its standard input say, each a JSON list.

["write", WHERE, text in hex] makes one write, WHERE being "stdout" or a path; ["flood", WHERE,
bytes] writes lines of 1,000 bytes as fast as it can. Each is answered, through the pipe whose
descriptor is the argument, by a line: the bytes that were written.
"""

import json
import os
import sys

answers = int(sys.argv[1])
opened: dict[str, int] = {"stdout": 1}
for line in sys.stdin:
    action, where, what = json.loads(line)
    if where not in opened:
        opened[where] = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    written = 0
    if action == "write":
        written = os.write(opened[where], bytes.fromhex(what))
    else:
        block = b"".join(b"%06d %s\n" % (n, b"x" * 992) for n in range(60))
        while written < what:
            written += os.write(opened[where], block)
    os.write(answers, b"%d\n" % written)
