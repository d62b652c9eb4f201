"""Finds which virtual thread a thread of Java runs: no probe is needed, six words of memory tell.

HotSpot describes its own structs in a table that it exports for debuggers, `gHotSpotVMStructs`.
There stands where its JavaThread points to the java.lang.Thread that it is (`_threadObj`) and to
the one that runs on it (`_vthread`, since JDK 20). A thread finds its JavaThread in one of its
pthread slots. A java.lang.Thread has `eetop`, which points back, and after it `tid`, a number that
is never given twice.

Nothing of that is believed: all threads that are there must agree, each by the words that point
from its pthread to the JavaThread, from there to the java.lang.Thread, and back. Where the
garbage collector writes pointers in colours and moves what they point to meanwhile, as ZGC does,
nothing is read.
"""

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from waggle import layout
from waggle.attach import MapEntry, NotYetError, RefusedError, Target
from waggle.elf import read_image
from waggle.probes.python.attach import Kernel
from waggle.process_memory import Memory, file_mappings
from waggle.runtimes import JVM

MACHINES = "java_machines"
FIRST_VERSION = 21  # virtual threads without a switch

_TABLE = "gHotSpotVMStructs"
_COLUMNS = ("TypeName", "FieldName", "Offset", "Address")
_STRIDE = "gHotSpotVMStructEntryArrayStride"
_ROWS_KEPT = 8192
_NAME_WORDS = 8  # names are cut at 64 bytes: those that are looked for are shorter
_THREADS_KEPT = 1024
# glibc on x86-64: struct pthread, on which its thread's pointer stands, has its slots of two words
# here, the value second.
_SLOTS_AT, _SLOT_SIZE, _SLOTS = 0x310, 16, 32
_OBJECT_WORDS = 16
_NUMBER_LIMIT = 1 << 48
# ZGC of one generation: one of these bits, and none above. Other heaps lie below or far above.
_COLOURED = range(1 << 42, 1 << 46)
_LEAST_THREADS = 2


class JavaProbe:
    """What virtual threads of Java run where."""

    name = "java"

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def wants(self, target: Target) -> bool:
        version = (target.runtime.version or "").split(".")[0]
        return target.runtime.name == JVM and version.isdigit() and int(version) >= FIRST_VERSION

    def attach(self, target: Target) -> MapEntry:
        """Raises NotYetError while the machine starts, RefusedError where it cannot be told."""
        row = find_machine(target.tgid)
        return MapEntry(self._kernel.map(MACHINES), target.tgid, row.tobytes())


@dataclass(frozen=True, slots=True)
class _Field:
    """offset in bytes within its struct; address of a static one, 0 for others."""

    offset: int
    address: int


_Fields = Mapping[tuple[str, str], _Field]


def find_machine(tgid: int) -> np.ndarray[tuple[()], np.dtype[np.void]]:
    """The entry of `java_machines` for a process: layout.JAVA."""
    if platform.machine() != "x86_64":
        raise RefusedError("where threads keep their slots is known for x86-64 only")
    try:
        with Memory(tgid) as memory:
            fields = _fields(memory, _exported(tgid, memory))
            return _verified(memory, fields)
    except OSError as error:
        raise NotYetError(str(error)) from error


def _exported(tgid: int, memory: Memory) -> dict[str, int]:
    """The words behind the names that libjvm.so exports for debuggers."""
    entry = [f"gHotSpotVMStructEntry{column}Offset" for column in _COLUMNS]
    names = (_TABLE, _STRIDE, *entry)
    mapping = next((one for one in file_mappings(tgid) if one.path.endswith("/libjvm.so")), None)
    if mapping is None:
        raise NotYetError("libjvm.so is not mapped yet")
    image = read_image(f"/proc/{tgid}/root{mapping.path}", names)
    bias = image.bias(mapping.start, mapping.offset) if image else None
    if image is None or bias is None or set(names) - image.symbols.keys():
        raise RefusedError(f"{mapping.path} does not describe itself as HotSpot does")
    found = {name: memory.word(bias + image.symbols[name]) for name in names}
    if not found[_TABLE] or not found[_STRIDE]:
        raise NotYetError("libjvm.so is not loaded yet")
    return {name: word or 0 for name, word in found.items()}


def _fields(memory: Memory, exported: Mapping[str, int]) -> _Fields:
    """(struct, field) -> where it is, of all that the table has."""
    table, stride = exported[_TABLE], exported[_STRIDE]
    at = {name: exported[f"gHotSpotVMStructEntry{name}Offset"] for name in _COLUMNS}
    fields: dict[tuple[str, str], _Field] = {}
    for row in range(table, table + _ROWS_KEPT * stride, stride):
        words = {name: memory.word(row + offset) or 0 for name, offset in at.items()}
        if not words["TypeName"]:
            break
        key = (_text(memory, words["TypeName"]), _text(memory, words["FieldName"]))
        fields[key] = _Field(words["Offset"], words["Address"])
    return fields


def _text(memory: Memory, address: int) -> str:
    text = memory.words(address, _NAME_WORDS).tobytes()
    return text.partition(b"\0")[0].decode("ascii", "replace")


def _verified(memory: Memory, fields: _Fields) -> np.ndarray[tuple[()], np.dtype[np.void]]:
    own, carried = (
        _offset(fields, "JavaThread", "_threadObj"),
        _offset(fields, "JavaThread", "_vthread"),
    )
    found = {
        (slot, number)
        for thread, pthread in _threads(memory, fields)
        for slot, number in [_places(memory, thread, pthread, own)]
    }
    if len(found) != 1:
        raise RefusedError("its threads do not show where they keep the virtual ones")
    [(slot, number)] = found
    row = np.zeros((), layout.JAVA)
    row["slot"], row["number_at"] = slot, number
    row["carrier_at"], row["mounted_at"] = own, carried
    return row


def _offset(fields: _Fields, struct: str, *names: str) -> int:
    for name in names:
        if field := fields.get((struct, name)):
            return field.offset
    raise RefusedError(f"it does not say where {struct} has {names[0]}")


def _threads(memory: Memory, fields: _Fields) -> Iterator[tuple[int, int]]:
    """Each JavaThread, and the pthread that it says it is."""
    known = fields.get(("ThreadsSMRSupport", "_java_thread_list"))
    list_at = memory.word(known.address) if known else None
    if not list_at:
        raise NotYetError("no thread of Java runs yet")
    # Since JDK 24 it is Thread that has it.
    struct = "Thread" if ("Thread", "_osthread") in fields else "JavaThread"
    system = _offset(fields, struct, "_osthread")
    pthread = _offset(fields, "OSThread", "_pthread_id")
    length = (memory.word(list_at + _offset(fields, "ThreadsList", "_length")) or 0) & 0xFFFFFFFF
    array = memory.word(list_at + _offset(fields, "ThreadsList", "_threads")) or 0
    threads = memory.words(array, min(length, _THREADS_KEPT)).tolist()
    if len(threads) < _LEAST_THREADS:
        raise NotYetError("hardly a thread of Java runs yet")
    for thread in threads:
        system_thread = memory.word(thread + system) or 0
        yield thread, memory.word(system_thread + pthread) or 0


def _places(memory: Memory, thread: int, pthread: int, own: int) -> tuple[int, int]:
    """The slot, from a thread's pointer on, in which a pthread has its JavaThread, and where its
    java.lang.Thread has its number."""
    slots = memory.words(pthread + _SLOTS_AT, _SLOTS * _SLOT_SIZE // 8)[1::2].tolist()
    instance = memory.word(memory.word(thread + own) or 0) or 0
    if instance in _COLOURED:
        raise RefusedError(
            "its garbage collector colours pointers (ZGC): the parents of what virtual threads "
            "call are not found"
        )
    words = memory.words(instance, _OBJECT_WORDS).tolist()
    if slots.count(thread) != 1 or words.count(thread) != 1:
        # A thread that just begins or ends does not show it either: the next look may.
        raise NotYetError(
            "a thread of Java does not point back to itself, as with a garbage collector that "
            "colours pointers (ZGC): the parents of what virtual threads call are not found"
        )
    number = words.index(thread) + 1
    if number == len(words) or not 0 < words[number] < _NUMBER_LIMIT:
        raise RefusedError("its threads have no numbers where they are looked for")
    return _SLOTS_AT + slots.index(thread) * _SLOT_SIZE + 8, 8 * number
