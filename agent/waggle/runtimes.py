"""What kind of program a process is, found cheaply, and which parent rules may be tried on it.

Files are never loaded: of an executable only its headers, its table of section
headers and the few bytes of Go's build information are read, whatever its size; of a
CPython its table of exported symbols too.
"""

import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

from waggle.layout import ProcessMode


@dataclass(frozen=True, slots=True)
class Runtime:
    """name is one of GO, CPYTHON, ...; version is None where it could not be told."""

    name: str
    version: str | None = None


GO = "go"
CPYTHON = "cpython"
PYPY = "pypy"
NODEJS = "nodejs"
DENO = "deno"
BUN = "bun"
JVM = "jvm"
RUBY = "ruby"
PHP = "php"
DOTNET = "dotnet"
NGINX = "nginx"
HAPROXY = "haproxy"
HTTPD = "httpd"
VARNISH = "varnish"
OTHER = "other"

# telemetry.sdk.language, by the runtime that was watched.
LANGUAGES = {
    GO: "go",
    CPYTHON: "python",
    PYPY: "python",
    NODEJS: "nodejs",
    DENO: "nodejs",
    BUN: "nodejs",
    JVM: "java",
    RUBY: "ruby",
    PHP: "php",
    DOTNET: "dotnet",
    NGINX: "c",
    HAPROXY: "c",
    HTTPD: "c",
    VARNISH: "c",
}

# Programs, or what we do not know: nothing that runs others' programs.
NO_RUNTIMES = frozenset({NGINX, HAPROXY, HTTPD, VARNISH, OTHER})

_PROPER_NAMES = {
    GO: "Go",
    CPYTHON: "CPython",
    PYPY: "PyPy",
    NODEJS: "Node.js",
    DENO: "Deno",
    BUN: "Bun",
    JVM: "Java virtual machine",
    RUBY: "Ruby",
    PHP: "PHP",
    DOTNET: ".NET",
}

# What people call a runtime, where that is not our name for it. nginx is a program.
_WORDS = {
    CPYTHON: "python",
    NODEJS: "node",
    JVM: "java",
    OTHER: "",
    **dict.fromkeys((NGINX, HAPROXY, HTTPD, VARNISH), ""),
}

# Many requests share a thread on these, one after the other within microseconds:
# the thread says nothing about whose request a call is part of.
_NO_THREAD_RULE = frozenset({GO, NODEJS, DENO, BUN, NGINX, HAPROXY, RUBY})

# Whoever reads a request serves it to its end here, though his sockets do not block.
_THREAD_READS = frozenset({HTTPD, PHP})

# Asked by FastCGI, which nobody reads: whoever asked has handed over whose request it is.
_CARRIED = frozenset({PHP})

# Of these an answer tells who has served the request: a thread, or what a probe knows of.
_WORKERS = {
    RUBY: ProcessMode.RULE_WORKER,
    JVM: ProcessMode.RULE_WORKER,  # Undertow's threads, by their names
    HAPROXY: ProcessMode.RULE_WORKER | ProcessMode.WORKER_TOLD,
}

# Where nothing else is known: one request at a time leaves little choice.
_ALONE = frozenset({NODEJS, JVM, RUBY, PHP, DENO, BUN, DOTNET, PYPY, VARNISH, OTHER})

# Loops whose programs may keep to rule `turn` or not: answers tell. A probe tells where turns end.
_PROVE_TURN = frozenset({NODEJS})

_EXECUTABLES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"python(?P<version>\d+\.\d+)?[\d.]*t?d?", CPYTHON),
        (r"pypy[\d.]*(-c)?", PYPY),  # that is the language's version, not the runtime's
        (r"node(js)?(-?(?P<version>\d+))?", NODEJS),
        (r"deno", DENO),
        (r"bun", BUN),
        (r"java", JVM),
        (r"(nginx|openresty|tengine|angie)(-debug)?", NGINX),
        (r"haproxy", HAPROXY),
        (r"apache2|httpd", HTTPD),
        (r"varnishd", VARNISH),
        (r"ruby(?P<version>\d+\.\d+)?[\d.]*", RUBY),
        (r"php(-fpm|-cgi)?(?P<version>\d+\.\d+)?", PHP),
        (r"dotnet", DOTNET),
    )
)

_LIBRARIES = re.compile(
    r"/lib(?:python(?P<cpython>\d+\.\d+)|(?P<jvm>jvm)|(?P<nodejs>node)|(?P<dotnet>coreclr))"
    r"[^/\s]*\.so"
)
_PYTHON_IN_MAPS = re.compile(r"/(?:lib)?python(\d+\.\d+)[/.t]")
_LIBPYTHON_IN_MAPS = re.compile(r" (/\S*/libpython\d+\.\d+\S*\.so\S*)$", re.MULTILINE)

# A version that stands as a folder in the path: version managers install that way.
_VERSION_IN_PATH = re.compile(r"/(?:[a-z]+-|pypy\d\.\d+-)*v?(\d+\.\d+\.\d+)[^/]*/bin/")


def detect(
    exe: str,
    cmdline: Sequence[str],
    maps: Callable[[], str],
    image: str | None = None,
    root: str = "",
) -> Runtime:
    """The runtime of a process.

    exe: its path as the process sees it. image: a path that opens that very file
    from here (/proc/PID/exe), by default exe. maps: gives the text of
    /proc/PID/maps; called only when the executable's name and headers say nothing.
    root: where the paths in maps begin (/proc/PID/root).
    """
    runtime = _detect(exe, cmdline, maps, image)
    if runtime.name == CPYTHON and (runtime.version or "").count(".") < 2:
        return Runtime(CPYTHON, _exact_python(runtime.version, image or exe, maps, root))
    if runtime.name == JVM:
        return Runtime(JVM, java_version(root + exe) or runtime.version)
    if runtime.name == NODEJS:
        return Runtime(NODEJS, node_version(image or exe) or runtime.version)
    return runtime


def _detect(
    exe: str, cmdline: Sequence[str], maps: Callable[[], str], image: str | None
) -> Runtime:
    name = PurePosixPath(exe or (cmdline[0] if cmdline else "")).name
    for pattern, runtime in _EXECUTABLES:
        if match := pattern.fullmatch(name):
            return Runtime(runtime, _version(runtime, match, exe, maps))
    go = go_build(image or exe)
    if go is not None:
        return go
    if match := _LIBRARIES.search(maps()):
        return Runtime(str(match.lastgroup), match.groupdict()[CPYTHON])
    return Runtime(OTHER)


def allowed_rules(runtime: Runtime) -> int:
    """Which parent rules the kernel may try on a process of this runtime: ProcessMode bits.

    `turn` is believed at once on nginx: there it was measured right 4,000 of 4,000
    times. On Node it is right or wildly wrong depending on how the program pools
    its connections; there each call waits for proof.
    """
    rules = 0
    if runtime.name not in _NO_THREAD_RULE:
        rules |= ProcessMode.RULE_THREAD
    if runtime.name in _THREAD_READS:
        rules |= ProcessMode.THREAD_READS
    if runtime.name == JVM:
        rules |= ProcessMode.NAMED_THREADS
    rules |= _WORKERS.get(runtime.name, 0)
    if runtime.name in _ALONE:
        rules |= ProcessMode.RULE_ALONE
    if runtime.name == NGINX:
        rules |= ProcessMode.RULE_TURN
    if runtime.name in _PROVE_TURN:
        rules |= ProcessMode.RULE_TURN | ProcessMode.PROVE_TURN
    if runtime.name == CPYTHON:
        rules |= ProcessMode.RULE_TASK
    if runtime.name == GO:
        rules |= ProcessMode.RULE_GOROUTINE
    if runtime.name in _CARRIED:
        rules |= ProcessMode.CARRIED
    return rules


def language(runtime: Runtime) -> str:
    """telemetry.sdk.language for spans of this runtime; `generic` when we do not know."""
    return LANGUAGES.get(runtime.name, "generic")


def description(runtime: Runtime) -> str:
    """process.runtime.description: the runtime as its makers write it, with its version."""
    name = _PROPER_NAMES.get(runtime.name, runtime.name)
    return f"{name} {runtime.version}" if runtime.version else name


def word(runtime: Runtime) -> str:
    """What people call the runtime: python, node, java, go; empty when we do not know."""
    return _WORDS.get(runtime.name, runtime.name)


def _version(runtime: str, match: re.Match[str], exe: str, maps: Callable[[], str]) -> str | None:
    if in_path := _VERSION_IN_PATH.search(exe):
        return in_path.group(1)
    version = match.groupdict().get("version")
    if version is None and runtime == CPYTHON and (found := _PYTHON_IN_MAPS.search(maps())):
        return found.group(1)
    return version


_RELEASE_LIMIT = 65_536
_JAVA_VERSION = re.compile(rb'^JAVA_VERSION="([\w.+-]+)"', re.MULTILINE)


def java_version(path: str) -> str | None:
    """17.0.21 of the JDK whose bin/java is at `path`: the file `release` beside bin says it."""
    with _opened(str(PurePosixPath(path).parent.parent / "release")) as file:
        return _java_version(file) if file else None


@lru_cache(maxsize=256)
def _java_version(file: "_File") -> str | None:
    try:
        found = _JAVA_VERSION.search(file.at(0, _RELEASE_LIMIT))
    except OSError:
        return None
    return found.group(1).decode() if found else None


_NODE_VERSION = b"napi_get_node_version"
# What it does on x86-64: a pointer to the version is put where its second argument points to.
_AT_ADDRESS = re.compile(rb"\x48\xc7\x06(?P<address>....)", re.DOTALL)
_NODE_CODE = 64


def node_version(path: str) -> str | None:
    """20.20.2 for the Node.js whose executable is at `path`: the function by which its addons ask
    knows. None elsewhere, as where Node.js is a library. The answer is kept per file."""
    with _opened(path) as file:
        return _node_version(file) if file else None


@lru_cache(maxsize=256)
def _node_version(file: "_File") -> str | None:
    try:
        elf = _Elf.read(file)
        at = elf.symbol(_NODE_VERSION) if elf else None
        code = _AT_ADDRESS.search(file.at(at, _NODE_CODE)) if at else None
        found = elf.offset_of(int.from_bytes(code["address"], "little")) if elf and code else None
        if not found:
            return None
        return ".".join(map(str, struct.unpack("<3I", file.at(found, 12))))
    except (OSError, OverflowError, struct.error, ValueError):
        return None


def _exact_python(
    version: str | None, image: str, maps: Callable[[], str], root: str
) -> str | None:
    """3.11.2 for 3.11, where the executable or its libpython says so (since 3.11)."""
    if exact := python_version(image):
        return exact
    library = _LIBPYTHON_IN_MAPS.search(maps())
    return (python_version(root + library.group(1)) if library else None) or version


def python_version(path: str) -> str | None:
    """The version of the CPython in the ELF file at `path`, by its exported constant Py_Version,
    which came with 3.11; else None. The answer is kept per file, as that of `go_build` is."""
    with _opened(path) as file:
        return _python_version(file) if file else None


@lru_cache(maxsize=256)
def _python_version(file: "_File") -> str | None:
    try:
        elf = _Elf.read(file)
        at = elf.symbol(b"Py_Version") if elf else None
        if at is None:
            return None
        value = struct.unpack("<Q", file.at(at, 8))[0]
    except (OSError, OverflowError, struct.error, ValueError):
        return None
    return _version_text(value)


_RELEASE_LEVELS = {0xA: "a", 0xB: "b", 0xC: "rc", 0xF: ""}


def _version_text(value: int) -> str | None:
    """3.11.2 for 0x030b02f0 (PY_VERSION_HEX), 3.14.0rc2 for 0x030e00c2."""
    major, minor, micro = value >> 24, value >> 16 & 255, value >> 8 & 255
    level = _RELEASE_LEVELS.get(value >> 4 & 15)
    if major != 3 or level is None:
        return None
    return f"{major}.{minor}.{micro}" + (f"{level}{value & 15}" if level else "")


def go_build(path: str) -> Runtime | None:
    """Runtime(go, version) when the ELF file at `path` was built by Go, else None.

    Reads the headers and at most 96 bytes of the file itself; the answer is kept
    per file (device, inode, size, time of change).
    """
    with _opened(path) as file:
        return _go_build(file) if file else None


@contextmanager
def _opened(path: str) -> "Iterator[_File | None]":
    """The file, or None where it cannot be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        yield None
        return
    try:
        state = os.fstat(descriptor)
        identity = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        yield _File(descriptor, identity)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class _File:
    """An open file that hashes as what it is, not as the descriptor it has now."""

    descriptor: int
    identity: tuple[int, int, int, int]

    def __hash__(self) -> int:
        return hash(self.identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _File) and self.identity == other.identity

    def at(self, offset: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, offset)


@lru_cache(maxsize=4096)
def _go_build(file: _File) -> Runtime | None:
    try:
        elf = _Elf.read(file)
        if elf is None:
            return None
        section = elf.section(b".go.buildinfo")
        if section is not None:
            return Runtime(GO, _go_version(file.at(section[0], 96)))
        return Runtime(GO) if elf.has_go_note() else None
    except (OSError, OverflowError, struct.error, ValueError):  # not a file, cut short, or nonsense
        return None


def _go_version(info: bytes) -> str | None:
    """The version in Go's build information, where it stands inline (since Go 1.18)."""
    if not info.startswith(b"\xff Go buildinf:") or not info[15] & 2:
        return None
    length = info[32]  # a varint; a version is shorter than 128 bytes
    text = info[33 : 33 + length].decode("ascii", "replace")
    return text.removeprefix("go").split(" ")[0] or None


_MAX_SECTIONS = 4096
_MAX_SEGMENTS = 64
_MAX_NOTE = 4096
_MAX_SYMBOLS = 4 << 20  # bytes of a table
_PT_LOAD = 1
_PT_NOTE = 4


@dataclass(frozen=True, slots=True)
class _Elf:
    """The headers of a 64 bit little-endian ELF file."""

    file: _File
    segments: tuple[int, int]  # offset, count
    sections: tuple[int, int]
    names_index: int

    @classmethod
    def read(cls, file: _File) -> "_Elf | None":
        head = file.at(0, 64)
        if len(head) < 64 or head[:6] != b"\x7fELF\x02\x01":
            return None
        phoff, shoff = struct.unpack_from("<QQ", head, 32)
        phnum, _, shnum, shstrndx = struct.unpack_from("<HHHH", head, 56)
        segments = (phoff, min(phnum, _MAX_SEGMENTS))
        return cls(file, segments, (shoff, min(shnum, _MAX_SECTIONS)), shstrndx)

    def section(self, name: bytes) -> tuple[int, int] | None:
        """Offset and size in the file of the section called `name`."""
        offset, count = self.sections
        if not offset or self.names_index >= count:
            return None
        table = self.file.at(offset, 64 * count)
        rows = [struct.unpack_from("<IIQQQQ", table, 64 * i) for i in range(count)]
        *_, names_at, names_size = rows[self.names_index]
        names = self.file.at(names_at, min(names_size, 1 << 20))
        for row in rows:
            if names[row[0] : row[0] + len(name) + 1] == name + b"\0":
                return row[4], row[5]
        return None

    def symbol(self, name: bytes) -> int | None:
        """Offset in the file of what the dynamic symbol `name` stands for."""
        table, names = self.section(b".dynsym"), self.section(b".dynstr")
        if table is None or names is None:
            return None
        texts = self.file.at(names[0], min(names[1], _MAX_SYMBOLS))
        wanted = texts.find(b"\0" + name + b"\0") + 1
        rows = self.file.at(table[0], min(table[1], _MAX_SYMBOLS) // 24 * 24)
        for row in struct.iter_unpack("<IBBHQQ", rows) if wanted else ():
            if row[0] == wanted:
                return self.offset_of(row[4])
        return None

    def offset_of(self, address: int) -> int | None:
        """Where in the file a virtual address lies."""
        for kind, offset, start, size in self._segments():
            if kind == _PT_LOAD and start <= address < start + size:
                return address - start + offset
        return None

    def _segments(self) -> Iterator[tuple[int, int, int, int]]:
        """(kind, offset, address, size in the file) of each."""
        offset, count = self.segments
        table = self.file.at(offset, 56 * count)
        for i in range(count):
            kind, _, at, address, _, size = struct.unpack_from("<IIQQQQ", table, 56 * i)
            yield kind, at, address, size

    def has_go_note(self) -> bool:
        """Whether a note of the owner "Go" is there: it outlives the section table."""
        for kind, at, _, size in self._segments():
            if kind == _PT_NOTE and b"\x04\0\0\0Go\0\0" in self._note(at, size):
                return True
        return False

    def _note(self, at: int, size: int) -> bytes:
        # namesz (4), descsz, type 4, name "Go\0\0": type and name stand side by side.
        return self.file.at(at, min(size, _MAX_NOTE))
