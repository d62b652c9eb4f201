"""BTF: what the running kernel has, and an object's variables."""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from waggle.closing import Closing
from waggle.libbpf.calls import SIZE, captured_log, fail, library
from waggle.libbpf.failures import LoadError

if TYPE_CHECKING:  # numpy is imported where it is used: loading need not wait for it
    import numpy as np
    import numpy.typing as npt

    Value = int | bool | bytes | npt.NDArray[Any] | np.generic

KIND_FUNC, KIND_TYPEDEF, KIND_DATASEC = 12, 8, 15
_BTF_TYPE = struct.Struct("=III")  # name_off, info, size
_SECINFO = struct.Struct("=III")  # type, offset, size


class KernelTypes(Closing):
    """The running kernel's BTF, to ask what it has. Raises LoadError when there is none."""

    def __init__(self) -> None:
        with captured_log() as log:
            self._btf: int | None = library().btf__load_vmlinux_btf()
            if not self._btf:
                fail("read the kernel's BTF", ctypes.get_errno(), log)

    def find(self, name: str, kind: int) -> int:
        """The type's id, or 0 when this kernel has no such type."""
        found = library().btf__find_by_name_kind(self._btf, name.encode(), kind)
        return max(0, int(found))

    def close(self) -> None:
        """Give the memory back (some megabytes)."""
        btf, self._btf = self._btf, None
        if btf:
            library().btf__free(btf)


@dataclass(frozen=True, slots=True)
class _Variable:
    offset: int
    size: int


def _variables(btf: int, section: str) -> dict[str, _Variable]:
    """The variables of a data section by name, from the object's BTF."""
    lib = library()
    section_id = lib.btf__find_by_name_kind(btf, section.encode(), KIND_DATASEC)
    if section_id < 0:
        return {}
    base = lib.btf__type_by_id(btf, section_id)
    _name, info, _size = _BTF_TYPE.unpack(ctypes.string_at(base, _BTF_TYPE.size))
    raw = ctypes.string_at(base + _BTF_TYPE.size, (info & 0xFFFF) * _SECINFO.size)
    found = {}
    for kind, offset, size in _SECINFO.iter_unpack(raw):
        variable = lib.btf__type_by_id(btf, kind)
        name_offset, *_ = _BTF_TYPE.unpack(ctypes.string_at(variable, _BTF_TYPE.size))
        name = lib.btf__name_by_offset(btf, name_offset).decode()
        found[name] = _Variable(offset, size)
    return found


class ReadOnlyData:
    """The `const volatile` variables of an object, written before load().

        bpf.rodata["agent_tgid"] = 4121          # an integer of any width
        bpf.rodata["seed"] = os.urandom(16)      # bytes of exactly its size
        bpf.rodata["table"] = np.arange(8, dtype=np.uint32)

    Raises LoadError for an unknown name, a value that does not fit, and after load().
    """

    def __init__(self, object_pointer: int, name: str) -> None:
        self._object_name = name
        self._sealed = False
        lib = library()
        self._variables: dict[str, _Variable] = {}
        self._base = 0
        section = lib.bpf_object__find_map_by_name(object_pointer, b".rodata")
        btf = lib.bpf_object__btf(object_pointer)
        if section and btf:
            size = SIZE()
            self._base = lib.bpf_map__initial_value(section, size) or 0
            self._variables = _variables(btf, ".rodata")

    def __contains__(self, name: str) -> bool:
        return name in self._variables

    def __getitem__(self, name: str) -> bytes:
        variable = self._variable(name)
        return ctypes.string_at(self._base + variable.offset, variable.size)

    def __setitem__(self, name: str, value: Value) -> None:
        if self._sealed:
            raise LoadError(f"{self._object_name}: {name} cannot change after load")
        variable = self._variable(name)
        raw = self._encode(name, value, variable.size)
        ctypes.memmove(self._base + variable.offset, raw, len(raw))

    def seal(self) -> None:
        """The kernel has its copy: further writes would change nothing."""
        self._sealed = True

    def _variable(self, name: str) -> _Variable:
        if name not in self._variables:
            raise LoadError(
                f"{self._object_name}: no read-only variable {name}: "
                "agent and BPF object are of different builds; run make build"
            )
        return self._variables[name]

    def _encode(self, name: str, value: Value, size: int) -> bytes:
        # A numpy scalar counts as its number.
        if isinstance(value, int) or getattr(value, "shape", None) == ():
            number = int(value)
            if size > 8 or not -(1 << (8 * size - 1)) <= number < 1 << (8 * size):
                raise LoadError(f"{self._object_name}: {number} does not fit into {name}")
            return (number & ((1 << (8 * size)) - 1)).to_bytes(size, "little")
        raw = value if isinstance(value, bytes) else value.tobytes()
        if len(raw) != size:
            raise LoadError(
                f"{self._object_name}: {name} takes {size} bytes, not {len(raw)}: "
                "agent and BPF object are of different builds; run make build"
            )
        return raw
