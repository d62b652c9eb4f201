"""Where the fields are that the probes read, for one version of Go or of a module.

The tables are table.py's, measured by make_table.py.
"""

import itertools
from collections.abc import Iterable, Mapping

from waggle.attach import RefusedError
from waggle.probes.go.table import GO, GRPC, ROUTERS

_OLDEST = (1, 17)


def offsets_of(version: str) -> tuple[Mapping[str, int], bool]:
    """The row of a version of Go, and whether it is only that of the newest that is known.

    Raises RefusedError for what is too old, or says nothing of its version.
    """
    parts = version.split(".")
    minor = "".join(itertools.takewhile(str.isdigit, parts[1])) if len(parts) > 1 else ""
    if not parts[0].isdigit() or not minor:
        raise RefusedError(f"its version of Go makes no sense ({version!r}): no parents")
    number = (int(parts[0]), int(minor))
    if number < _OLDEST:
        raise RefusedError(f"Go {version} is older than 1.17: its calls have no parents")
    known = {tuple(int(part) for part in key.split(".")): row for key, row in GO.items()}
    if number in known:
        return known[number], False
    return known[max(known)], True


def grpc_offsets_of(version: str) -> Mapping[str, int] | None:
    """What is known of a version of grpc-go. What is read there must be a stream of that very
    socket, so newer ones may be taken for the newest; but for the name of a call, which
    nothing would tell from another text."""
    found = _module_offsets(GRPC, version)
    if found is None or not _is_newer(GRPC, version):
        return found
    return {field: at for field, at in found.items() if field != "grpc_method"}


def router_offsets_of(module: str, version: str) -> Mapping[str, int] | None:
    """What is known of a version of a router. Nothing would tell a wrong text from the right one,
    so only releases of the newest minor version that is known may be newer than it."""
    table = ROUTERS[module]
    return None if _is_newer(table, version) else _module_offsets(table, version)


def _is_newer(table: Iterable[str], version: str) -> bool:
    """Whether a version is of a newer minor version than all that are known, or makes no sense."""
    newest, number = max(_number(key) or () for key in table), _number(version)
    return number is None or number[:2] > newest[:2]


def _module_offsets(
    table: Mapping[str, Mapping[str, int]], version: str
) -> Mapping[str, int] | None:
    """What is known of a version of a module: measured, or the same before and after it. Newer
    ones are taken for the newest. None where it is not known."""
    number = _number(version)
    if number is None:
        return None
    known = sorted(((_number(key) or (), row) for key, row in table.items()), key=_by_number)
    before = [row for at, row in known if at <= number]
    after = [row for at, row in known if at >= number]
    if not before or (after and after[0] != before[-1]):
        return None
    return before[-1]


def _by_number(row: tuple[tuple[int, ...], Mapping[str, int]]) -> tuple[int, ...]:
    return row[0]


def _number(version: str) -> tuple[int, ...] | None:
    """v1.70.0-dev as (1, 70, 0)."""
    words = version.removeprefix("v").split("-")[0].split("+")[0].split(".")
    return tuple(int(word) for word in words) if all(w.isdigit() for w in words) else None
