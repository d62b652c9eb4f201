"""Names that lie in files beside a program: of a jar's manifest, of nginx's configuration.

Bounded and by hand, since the files are anybody's: a manifest is one of the first two entries of
a jar, as every tool writes it, so the heads of a few are all that is read.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterable

JAR_LIMIT = 64 * 1024  # of a jar's first bytes
CONFIG_LIMIT = 256 * 1024  # of one file of nginx's configuration
_MANIFEST = b"META-INF/MANIFEST.MF"
_HEAD = struct.Struct("<4sHHHHHIIIHH")
_ENTRIES = 4
_STORED, _DEFLATED = 0, 8
_NAME_LIMIT = 128
# Spring Boot's own main class runs the one in Start-Class.
_LAUNCHERS = ("org.springframework.boot.loader.",)


def jar_name(head: bytes) -> str | None:
    """What the manifest of a jar calls it: its title, else the class that it starts.

    head: its first JAR_LIMIT bytes.
    """
    fields = _fields(_manifest(head))
    if title := fields.get("Implementation-Title"):
        return title
    main = fields.get("Start-Class") or fields.get("Main-Class", "")
    return _of_class(main) if main and not main.startswith(_LAUNCHERS) else None


def _of_class(name: str) -> str | None:
    """Shop for com.acme.ShopApplication; Main says nothing."""
    word = name.rpartition(".")[2]
    return word.removesuffix("Application") or None if word != "Main" else None


def _manifest(head: bytes) -> bytes:
    at = 0
    for _ in range(_ENTRIES):
        if len(head) < at + _HEAD.size:
            return b""
        magic, _, flags, method, *_, packed, _, name_size, more = _HEAD.unpack_from(head, at)
        if magic != b"PK\3\4":
            return b""
        begin = at + _HEAD.size + name_size + more
        if head[at + _HEAD.size :][:name_size] == _MANIFEST:
            return _unpacked(head[begin:], method, packed)
        if flags & 8:  # its size comes after it
            return b""
        at = begin + packed
    return b""


def _unpacked(data: bytes, method: int, size: int) -> bytes:
    if method == _STORED:
        return data[:size]
    if method != _DEFLATED:
        return b""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, JAR_LIMIT)
    except zlib.error:
        return b""


def _fields(manifest: bytes) -> dict[str, str]:
    """Of a manifest's main section, the fields: a line that goes on begins with a blank."""
    text = manifest.decode("utf-8", "replace").replace("\r\n", "\n").replace("\n ", "")
    section = text.partition("\n\n")[0]
    pairs = (line.partition(":") for line in section.split("\n"))
    return {
        name.strip(): value.strip()
        for name, separator, value in pairs
        if separator and len(value) <= _NAME_LIMIT and value.isprintable()
    }


FileReader = Callable[[str], bytes]
Glob = Callable[[str], Iterable[str]]

_FILES = 64  # of a configuration
_COMMENT = re.compile(r"(?m)(?:^|(?<=\s))#.*$")
_DIRECTIVE = re.compile(r"(?:^|(?<=[;{}]))\s*(server_name|include)\s+([^;{}]+);")
_HOST = re.compile(r"[A-Za-z0-9][\w.-]{0,127}(?<!\.)")
_ADDRESS = re.compile(r"[\d.]+")


def nginx_name(config: str, read: FileReader, glob: Glob) -> str | None:
    """The one name that nginx serves, None where it has several or none.

    config: its absolute path; read, glob: files as the process sees them. Patterns
    and addresses are no names; www.shop.example is shop.example.
    """
    found: set[str] = set()
    folder = config.rpartition("/")[0]
    waiting, seen = [config], {config}
    while waiting:
        text = _COMMENT.sub("", read(waiting.pop()).decode("utf-8", "replace"))
        for directive, value in _DIRECTIVE.findall(text):
            if directive == "server_name":
                found.update(_plain(value))
                continue
            pattern = value.strip().strip("\"'")
            for path in glob(pattern if pattern.startswith("/") else f"{folder}/{pattern}"):
                if path not in seen and len(seen) < _FILES:
                    seen.add(path)
                    waiting.append(path)
    return found.pop() if len(found) == 1 else None


def _plain(value: str) -> Iterable[str]:
    for word in value.split():
        name = word.strip("\"'").removeprefix("www.")
        if _HOST.fullmatch(name) and name != "localhost" and not _ADDRESS.fullmatch(name):
            yield name
