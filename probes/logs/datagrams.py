"""Records of what went to journald and syslog, by datagrams."""

import numpy as np

from waggle.layout import LogSource
from waggle.probes.logs import journal
from waggle.probes.logs.lines import FACTS, MAX_LINE, Entries
from waggle.spans import Records


def entries_of_datagrams(records: Records) -> tuple[Entries, int]:
    """One entry a datagram; and of how many nothing could be read.

    records: 1-d array of layout.LOG, of sources JOURNAL and SYSLOG only.
    """
    bodies: list[bytes] = []
    entries = Entries.none()
    heads, firsts, extra, lost = entries.heads, [], entries.extra, 0
    for first, datagram in _datagrams(records):
        if records["source"][first] == LogSource.JOURNAL:
            read = journal.read_entry(datagram)
        else:
            read = journal.read_syslog(datagram)
        if read is None or not read[0]:
            lost += 1
            continue
        body, head, attributes = read
        if attributes:
            extra[len(bodies)] = attributes
        bodies.append(body[:MAX_LINE])
        heads.append(head)
        firsts.append(first)
    lengths = np.array([len(body) for body in bodies], np.intp)
    facts = np.empty(len(firsts), FACTS)
    for name in FACTS.names or ():
        facts[name] = records[name][firsts]
    text = np.frombuffer(b"".join(bodies), np.uint8)
    cut = np.zeros(len(bodies), np.bool_)
    return Entries(text, np.cumsum(lengths) - lengths, lengths, facts, heads, cut, extra), lost


def _datagrams(records: Records) -> list[tuple[int, bytes]]:
    """The pieces of each write joined: row of the first, and all bytes."""
    found: dict[tuple[int, int], tuple[int, list[bytes]]] = {}
    for row in range(len(records)):
        key = (int(records["tid"][row]), int(records["time_ns"][row]))
        piece = records["bytes"][row][: int(records["length"][row])].tobytes()
        found.setdefault(key, (row, []))[1].append(piece)
    return [(row, b"".join(pieces)) for row, pieces in found.values()]
