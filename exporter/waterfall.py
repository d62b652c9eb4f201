"""Drawing one finished trace as an indented waterfall.

    GET /checkout                200   184 ms  ▕████████████████████▏  nginx 3991
    └─ GET /checkout             200   183 ms  ▕████████████████████▏  shop 4121      hand-off

A pure function from a trace and the look of the terminal to text. Nothing a traced
program sent reaches the terminal before `printable` has seen it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import attrgetter

from rich.cells import cell_len, get_character_cell_size

from waggle.spans import Attributes, Span
from waggle.traces import LINK_METHOD, Row, Trace

SPAN_KIND_CLIENT = 3  # opentelemetry.proto.trace.v1.Span.SpanKind

_EVIDENCE = {"socket": "hand-off"}
_NAME_GOOD = 24  # cells a name keeps while columns can be made smaller
_NAME_LEAST = 16  # and while columns can be left out
_NAME_USUAL = 32  # traces below each other line up when there is room
_BAR_FROM = 60  # a terminal narrower than this has no bars
_PROCESS_USUAL = 23
_ERROR_MOST = 22
_CLOCKS_DIFFER_NS = 1_000_000


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What a picture is made of. `left[n]` fills n eighths of a cell from the left."""

    branch: str
    corner: str
    rail: str
    orphan: str
    ellipsis: str
    cross: str
    frame: tuple[str, str]
    left: str
    half_right: str


UNICODE = Glyphs("├─ ", "└─ ", "│  ", "┄ ", "…", "✗", ("▕", "▏"), " ▏▎▍▌▋▊▉█", "▐")
ASCII = Glyphs("|- ", "`- ", "|  ", "? ", "~", "x", ("|", "|"), "    =====", "=")


@dataclass(frozen=True, slots=True)
class Look:
    """What the place we draw on can do."""

    width: int = 100
    color: bool = False
    glyphs: Glyphs = UNICODE


class Style:
    """ANSI attributes, all of them ended by RESET."""

    RESET = "\x1b[0m"
    BOLD = "1"
    DIM = "2"
    REVERSE = "7"
    RED = "31"
    GREEN = "32"
    YELLOW = "33"
    BLUE = "34"
    CYAN = "36"


def printable(text: str) -> str:
    """`text` with a mark in place of everything that could act on a terminal.

    Control characters, escape sequences, direction marks, lone surrogates and every
    space but the plain one are what str.isprintable() refuses.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def cells(text: str) -> int:
    """Columns the text takes on a terminal; East Asian wide characters take two."""
    return len(text) if text.isascii() else cell_len(text)


def shorten(text: str, width: int, ellipsis: str = "…") -> str:
    """At most `width` cells of the text, with the ellipsis where its middle was."""
    if cells(text) <= width:
        return text
    if width <= 1:
        return ellipsis[:width]
    head = _fitting(text, (width - 1) // 2)
    tail = _fitting(text[::-1], width - 1 - cells(head))
    return head + ellipsis + tail[::-1]


def _fitting(text: str, width: int) -> str:
    if text.isascii():
        return text[:width]
    used = 0
    for position, char in enumerate(text):
        used += get_character_cell_size(char)
        if used > width:
            return text[:position]
    return text


_UNITS = (
    (1, "ns"),
    (10**3, "us"),
    (10**6, "ms"),
    (10**9, "s"),
    (60 * 10**9, "min"),
    (3600 * 10**9, "h"),
)


def duration(nanoseconds: int) -> str:
    """Three significant digits at most: `850 us`, `12.3 ms`, `1.2 s`, `3.5 min`."""
    if nanoseconds <= 0:
        return "0 us"
    for (size, unit), (next_size, _) in pairwise(_UNITS):
        text = _three_digits(nanoseconds / size)
        if float(text) * size < next_size:
            return f"{text} {unit}"
    size, unit = _UNITS[-1]
    return f"{_three_digits(nanoseconds / size)} {unit}"


def _three_digits(value: float) -> str:
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if decimals else text


def label(span: Span) -> str:
    """What the line is about: `GET /checkout`, or `GET stock:9000/stock/7` for a client."""
    attributes = span.attributes
    method = attributes.get("http.request.method_original") or attributes.get("http.request.method")
    if method is None:
        return printable(span.name)
    target = _client_target if span.kind == SPAN_KIND_CLIENT else _server_target
    return printable(f"{method} {target(attributes)}")


def _server_target(attributes: Attributes) -> str:
    return str(attributes.get("http.route") or attributes.get("url.path") or "")


def _client_target(attributes: Attributes) -> str:
    _, _, rest = str(attributes.get("url.full", "")).partition("://")
    rest = rest.split("?", 1)[0].split("#", 1)[0]
    authority, slash, path = rest.partition("/")
    if attributes.get("network.transport") == "unix":
        return slash + path
    return (authority.rpartition("@")[2] or _address(attributes)) + slash + path


def _address(attributes: Attributes) -> str:
    address, port = attributes.get("server.address", ""), attributes.get("server.port")
    return f"{address}:{port}" if port is not None else str(address)


@dataclass(frozen=True, slots=True)
class _Line:
    tree: str
    label: str
    status: str
    duration: str
    process: str
    program: str  # "(gunicorn)", when it says more than the service does
    code: str  # "shop.py:36", in the place of a process that need not be named again
    evidence: str
    error: str

    def name_cells(self) -> int:
        return cells(self.tree) + cells(self.label)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Cells of each column; 0 leaves it out, with the gap before it."""

    name: int
    status: int
    duration: int
    bar: int
    process: int
    program: bool
    evidence: int
    error: int

    def without_name(self) -> int:
        bar = self.bar and self.bar + 2
        others = (self.status, self.duration, bar, self.process, self.evidence)
        error = self.error and self.error + self.error_gap()
        return sum(width + 2 for width in others if width) + error

    def error_gap(self) -> int:
        return 1 if self.evidence else 2


def draw(trace: Trace, look: Look, *, max_rows: int = 200, notes: Sequence[str] = ()) -> str:
    """The trace as lines, each ended by a newline and none wider than the look says.

    notes: what the caller knows about this trace, for its last line.
    """
    lines = _lines(trace, look, max_rows)
    columns = _fit(lines, look.width)
    drawn = [
        _draw_line(trace, row, line, columns, look)
        for row, line in zip(trace.rows, lines, strict=False)
    ]
    note = _note(trace, len(lines), notes, look)
    if note:
        drawn.append(_paint(shorten(note, look.width, look.glyphs.ellipsis), Style.DIM, look))
    return "\n".join(drawn) + "\n"


def _lines(trace: Trace, look: Look, max_rows: int) -> list[_Line]:
    rails: list[str] = []
    lines = []
    for row in trace.rows[:max_rows]:
        del rails[max(row.depth - 1, 0) :]
        lines.append(_line(trace, row, _tree(row, rails, look), look.glyphs))
        if row.depth:
            rails.append("   " if row.last else look.glyphs.rail)
    return lines


def _tree(row: Row, rails: list[str], look: Look) -> str:
    """The rails before a name. A tree too deep to show gives its depth and its last steps."""
    if row.orphan:
        return look.glyphs.orphan
    if not row.depth:
        return ""
    own = look.glyphs.corner if row.last else look.glyphs.branch
    most = max(look.width // 12, 1)
    if row.depth <= most:
        return "".join(rails) + own
    return f"{look.glyphs.ellipsis}{row.depth} " + "".join(rails[len(rails) - most + 1 :]) + own


def _line(trace: Trace, row: Row, tree: str, glyphs: Glyphs) -> _Line:
    span = row.span
    attributes = span.attributes
    process, program = _process(row)
    if row.parent >= 0 and process == _process(trace.rows[row.parent])[0]:
        process = program = ""
    code = "" if process else _code(attributes)
    method = attributes.get(LINK_METHOD)
    status = attributes.get("http.response.status_code", "")
    return _Line(
        tree=tree,
        label=label(span),
        status=str(status),
        duration=duration(span.end_unix_ns - span.start_unix_ns),
        process=process,
        program=program,
        code=code,
        evidence=printable(_EVIDENCE.get(str(method), str(method))) if method else "",
        error=_error(span, glyphs) if span.error else "",
    )


def _error(span: Span, glyphs: Glyphs) -> str:
    attributes = span.attributes
    what = attributes.get("error.type") or attributes.get("http.response.status_code") or ""
    text = f"{glyphs.cross} {printable(str(what))}".rstrip()
    return shorten(text, _ERROR_MOST, glyphs.ellipsis)


def _process(row: Row) -> tuple[str, str]:
    attributes = row.resource.attributes
    service = str(attributes.get("service.name", "unknown_service"))
    named = f"{service} {attributes.get('process.pid', '')}".rstrip()
    return printable(named), printable(f"({row.resource.program})") if row.resource.program else ""


def _code(attributes: Attributes) -> str:
    """The line of code that made a call: its file's name and number."""
    line = attributes.get("code.line.number")
    name = str(attributes.get("code.file.path", "")).rpartition("/")[2]
    return printable(f"{name}:{line}") if name and line is not None else ""


def _fit(lines: list[_Line], width: int) -> _Columns:
    """Columns that fit the width: names are shortened first, then the rest gives way."""
    natural = max((line.name_cells() for line in lines), default=0)
    for columns, least in _choices(lines, width):
        room = width - columns.without_name()
        if room >= min(natural, least):
            break
    return _spread(replace(columns, name=max(min(natural, room), 1)), width)


def _choices(lines: list[_Line], width: int) -> Iterator[tuple[_Columns, int]]:
    """Columns in order of preference, each with the cells a name must have left with them."""

    def widest(text: Callable[[_Line], str]) -> int:
        return max(map(cells, map(text, lines)), default=0)

    full = _Columns(
        name=0,
        status=widest(attrgetter("status")),
        duration=max(widest(attrgetter("duration")), 7),
        bar=min(max(width // 6, 8), 20),
        process=widest(_with_program),
        program=True,
        evidence=widest(attrgetter("evidence")),
        error=widest(attrgetter("error")),
    )
    if width >= _BAR_FROM:
        yield full, _NAME_GOOD
        small = replace(full, bar=min(full.bar, 10))
        yield small, _NAME_GOOD
        plain = replace(small, process=widest(_without_program), program=False)
        yield plain, _NAME_GOOD
        full = replace(plain, process=min(plain.process, max(width // 5, 12)))
        yield full, _NAME_GOOD
        yield replace(full, bar=8), _NAME_LEAST
    no_bar = replace(full, bar=0, program=False, process=min(full.process, 12))
    yield no_bar, _NAME_LEAST
    no_process = replace(no_bar, process=0)
    yield no_process, _NAME_LEAST
    no_evidence = replace(no_process, evidence=0)
    yield no_evidence, _NAME_LEAST
    only_mark = replace(no_evidence, error=min(full.error, 1))
    yield only_mark, _NAME_LEAST
    yield replace(only_mark, status=0, duration=0, error=0), _NAME_LEAST


def _spread(columns: _Columns, width: int) -> _Columns:
    """Widen names and processes to their usual width where there is room for that."""
    room = width - columns.without_name() - columns.name
    name = max(min(columns.name + room, _NAME_USUAL), columns.name)
    room -= name - columns.name
    process = columns.process and max(min(columns.process + room, _PROCESS_USUAL), columns.process)
    return replace(columns, name=name, process=process)


def _with_program(line: _Line) -> str:
    return f"{line.process} {line.program}" if line.program else _without_program(line)


def _without_program(line: _Line) -> str:
    return line.process or line.code


class _Pen:
    """Writes one line; blanks are held back, so that none are left at the end."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._parts: list[str] = []
        self._blanks = 0

    def skip(self, width: int) -> None:
        self._blanks += width

    def put(self, text: str, style: str = "") -> None:
        if not text:
            return
        if self._blanks:
            self._parts.append(" " * self._blanks)
            self._blanks = 0
        self._parts.append(_paint(text, style, self._look))

    def column(self, text: str, width: int, *, gap: int = 2, style: str = "") -> None:
        """A field `width` cells wide, left aligned, after `gap` blanks; nothing for width 0."""
        if not width:
            return
        self.skip(gap)
        used = cells(text)
        if used > width:
            text = shorten(text, width, self._look.glyphs.ellipsis)
            used = cells(text)
        self.put(text, style)
        self.skip(width - used)

    def line(self) -> str:
        return "".join(self._parts)


def _draw_line(trace: Trace, row: Row, line: _Line, columns: _Columns, look: Look) -> str:
    pen = _Pen(look)
    _draw_name(pen, row, line, columns.name, look)
    pen.column(line.status, columns.status, style=_status_style(line.status))
    pen.column(line.duration.rjust(columns.duration), columns.duration)
    if columns.bar:
        pen.skip(2)
        _draw_bar(pen, trace, row.span, columns.bar, look)
    _draw_process(pen, line, columns)
    pen.column(line.evidence, columns.evidence, style=Style.DIM)
    pen.column(line.error, columns.error, gap=columns.error_gap(), style=Style.RED)
    return pen.line()


def _draw_name(pen: _Pen, row: Row, line: _Line, width: int, look: Look) -> None:
    tree = shorten(line.tree, max(width - 1, 0), look.glyphs.ellipsis)
    name = shorten(line.label, width - cells(tree), look.glyphs.ellipsis)
    pen.put(tree, Style.DIM)
    pen.put(name, "" if row.depth else Style.BOLD)
    pen.skip(width - cells(tree) - cells(name))


def _draw_process(pen: _Pen, line: _Line, columns: _Columns) -> None:
    text = _with_program(line) if columns.program else _without_program(line)
    pen.column(text, columns.process, style=Style.DIM if line.code else "")


def _status_style(status: str) -> str:
    return {"4": Style.YELLOW, "5": Style.RED, "3": Style.CYAN}.get(status[:1], Style.GREEN)


def _draw_bar(pen: _Pen, trace: Trace, span: Span, width: int, look: Look) -> None:
    opening, closing = look.glyphs.frame
    style = Style.RED if span.error else Style.BLUE if span.kind == SPAN_KIND_CLIENT else Style.CYAN
    first, end = _eighths(trace, span, width)
    left_cell, left = divmod(first, 8)
    right_cell, right = divmod(end, 8)
    pen.put(opening, Style.DIM)
    pen.skip(left_cell)
    if left_cell == right_cell:
        pen.put(_inner(left, right, look.glyphs), style)
        pen.skip(width - left_cell - 1)
    else:
        if left:
            _draw_left_end(pen, left, style, look)
            left_cell += 1
        full = look.glyphs.left[8] * (right_cell - left_cell)
        pen.put(full + (look.glyphs.left[right] if right else "").strip(), style)
        pen.skip(width - right_cell - (1 if right and look.glyphs.left[right] != " " else 0))
    pen.put(closing, Style.DIM)


def _eighths(trace: Trace, span: Span, width: int) -> tuple[int, int]:
    """Where the span begins and ends in the bar, in eighths of a cell, at least two apart."""
    whole = width * 8
    total = max(trace.duration_ns, 1)
    first = round((span.start_unix_ns - trace.start_unix_ns) * whole / total)
    end = round((span.end_unix_ns - trace.start_unix_ns) * whole / total)
    first = min(max(first, 0), whole - 2)
    return first, min(max(end, first + 2), whole)


def _inner(left: int, right: int, glyphs: Glyphs) -> str:
    """A bar that begins and ends within one cell, as near as the glyphs come to it."""
    if left >= 4:
        return glyphs.half_right
    return glyphs.left[right - left] if glyphs.left[right - left] != " " else glyphs.half_right


def _draw_left_end(pen: _Pen, empty: int, style: str, look: Look) -> None:
    """A cell of which the left `empty` eighths are blank.

    Fonts have no such blocks; where colours work, it is the opposite block reversed.
    """
    if look.color:
        pen.put(look.glyphs.left[empty], f"{style};{Style.REVERSE}")
    else:
        pen.put(look.glyphs.half_right if empty >= 4 else look.glyphs.left[8], style)


def _note(trace: Trace, shown: int, notes: Sequence[str], look: Look) -> str:
    """What has to be said about the trace as a whole, or nothing."""
    said = []
    more = trace.more + len(trace.rows) - shown
    if more:
        said.append(f"+{more:,} more")
    if any(row.orphan for row in trace.rows):
        said.append(f"{look.glyphs.orphan}parent not seen")
    early = _before_parents(trace)
    if early:
        said.append(f"{early:,} before their parent: clocks differ")
    if trace.continued:
        said.append("continues a trace shown above")
    said.extend(notes)
    return f"{look.glyphs.ellipsis} " + ", ".join(said) if said else ""


def _before_parents(trace: Trace) -> int:
    return sum(
        row.parent >= 0
        and row.span.start_unix_ns < trace.rows[row.parent].span.start_unix_ns - _CLOCKS_DIFFER_NS
        for row in trace.rows
    )


def _paint(text: str, style: str, look: Look) -> str:
    return f"\x1b[{style}m{text}{Style.RESET}" if style and text and look.color else text
