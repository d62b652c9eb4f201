"""BPF maps: sizes before they are made, elements after."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from waggle.libbpf.calls import U32, check, library, possible_cpus
from waggle.libbpf.failures import ENOTSUPP, LoadError

if TYPE_CHECKING:  # numpy is imported where it is used: loading need not wait for it
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

# Update flags of bpf_map_update_elem.
ANY, NO_EXIST, EXIST = 0, 1, 2

_PERCPU_TYPES = {5, 6, 10, 21}  # PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH, PERCPU_CGROUP_STORAGE
_BATCH = 4096  # elements a lookup_batch asks for at first
_NO_BATCH = {errno.EINVAL, errno.EOPNOTSUPP, ENOTSUPP, errno.EPERM}


class Map:
    """A BPF map. Keys and values are bytes of exactly the map's sizes.

    Every call that the kernel refuses raises LoadError with its errno.
    """

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer
        lib = library()
        self.name = str(lib.bpf_map__name(pointer).decode())
        self.type = int(lib.bpf_map__type(pointer))
        self.key_size = int(lib.bpf_map__key_size(pointer))
        self.value_size = int(lib.bpf_map__value_size(pointer))
        self.per_cpu = self.type in _PERCPU_TYPES

    @property
    def fd(self) -> int:
        """The descriptor, owned by the object. Raises LoadError before load()."""
        return check(library().bpf_map__fd(self._pointer), f"use map {self.name} before load")

    @property
    def max_entries(self) -> int:
        """Elements, or bytes of a ring buffer. Settable before load()."""
        return int(library().bpf_map__max_entries(self._pointer))

    @max_entries.setter
    def max_entries(self, entries: int) -> None:
        result = library().bpf_map__set_max_entries(self._pointer, entries)
        check(result, f"set max_entries of map {self.name} to {entries}")

    def leave_out(self) -> None:
        """Before load(): no program that is loaded uses it, so it takes no memory."""
        result = library().bpf_map__set_autocreate(self._pointer, False)
        check(result, f"leave out map {self.name}")

    @property
    def element_size(self) -> int:
        """Bytes that a lookup returns: a value, or one per possible CPU, 8-byte aligned."""
        if not self.per_cpu:
            return self.value_size
        return align8(self.value_size) * possible_cpus()

    def lookup(self, key: bytes) -> bytes | None:
        """The element under a key, or None."""
        value = ctypes.create_string_buffer(self.element_size)
        result = library().bpf_map_lookup_elem(self.fd, self._key(key), value)
        if result == -errno.ENOENT:
            return None
        check(result, f"look up in map {self.name}")
        return value.raw

    def update(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        """Store an element; E2BIG (on `errno` of the LoadError) means that the map is full."""
        if len(value) != self.element_size:
            raise LoadError(
                f"map {self.name} takes values of {self.element_size} bytes, not {len(value)}: "
                "agent and BPF object are of different builds; run make build"
            )
        result = library().bpf_map_update_elem(self.fd, self._key(key), value, flags)
        check(result, f"update map {self.name}")

    def delete(self, key: bytes) -> bool:
        """Remove an element; False when there was none."""
        result = library().bpf_map_delete_elem(self.fd, self._key(key))
        if result == -errno.ENOENT:
            return False
        check(result, f"delete an element of map {self.name}")
        return True

    def keys(self) -> Iterator[bytes]:
        """Each key once. What is added or removed meanwhile may or may not be seen.

        The kernel starts over when the key it continues from was deleted, so
        repeats are dropped and the walk ends after two full rounds.
        """
        seen: set[bytes] = set()
        previous: bytes | None = None
        key = ctypes.create_string_buffer(self.key_size)
        for _ in range(2 * self.max_entries + 1):
            result = library().bpf_map_get_next_key(self.fd, previous, key)
            if result == -errno.ENOENT:
                return
            check(result, f"walk map {self.name}")
            previous = key.raw
            if previous not in seen:
                seen.add(previous)
                yield previous

    def items(self) -> tuple[Bytes, Bytes]:
        """All elements: keys (n, key_size) and values (n, element_size) as bytes.

        One system call for thousands of elements where the kernel can, one per
        element where it cannot.
        """
        import numpy as np

        keys, values = zip(*self.chunks(), strict=True)
        return np.concatenate(keys), np.concatenate(values)

    def chunks(self) -> Iterator[tuple[Bytes, Bytes]]:
        """The same, a few thousand elements at a time (at least one chunk, which may be empty):
        for maps whose values are too large to hold them all."""
        read = False
        for chunk in self._batches():
            read = True
            yield chunk
        if not read:
            yield self._items_by_key()

    def sum_over_cpus(self, dtype: npt.DTypeLike = "<u8") -> npt.NDArray[Any]:
        """The totals of a per-cpu array: (max_entries,) or (max_entries, numbers a value)."""
        import numpy as np

        if not self.per_cpu:
            raise LoadError(f"map {self.name} is not a per-cpu map")
        keys, values = self.items()
        order = np.argsort(keys.copy().view(np.uint32)[:, 0])
        per_cpu = values[order].reshape(len(keys), possible_cpus(), align8(self.value_size))
        numbers = np.ascontiguousarray(per_cpu[:, :, : self.value_size]).view(dtype)
        totals: npt.NDArray[Any] = numbers.sum(axis=1, dtype=dtype)
        return totals[:, 0] if totals.shape[1] == 1 else totals

    def _key(self, key: bytes) -> bytes:
        if len(key) != self.key_size:
            raise LoadError(
                f"map {self.name} takes keys of {self.key_size} bytes, not {len(key)}: "
                "agent and BPF object are of different builds; run make build"
            )
        return key

    def _batches(self) -> Iterator[tuple[Bytes, Bytes]]:
        """Chunks through BPF_MAP_LOOKUP_BATCH; none where that is not to be had."""
        import numpy as np

        chunk = min(_BATCH, self.max_entries)
        position: bytes | None = None
        while True:
            some_keys = np.zeros((chunk, self.key_size), np.uint8)
            some_values = np.zeros((chunk, self.element_size), np.uint8)
            result, count, after = self._batch(position, some_keys, some_values)
            if result == -errno.ENOSPC and chunk < self.max_entries:
                chunk = min(2 * chunk, self.max_entries)  # one bucket held more than fits
                continue
            if -result in _NO_BATCH and position is None:
                return
            if result != -errno.ENOENT:
                check(result, f"read map {self.name}")
            yield some_keys[:count], some_values[:count]
            if result == -errno.ENOENT or count == 0:
                return
            position = after

    def _batch(self, position: bytes | None, keys: Bytes, values: Bytes) -> tuple[int, int, bytes]:
        after = ctypes.create_string_buffer(max(self.key_size, 8))
        count = U32(len(keys))
        result = library().bpf_map_lookup_batch(
            self.fd, position, after, keys.ctypes.data, values.ctypes.data, count, None
        )
        return int(result), count.value, after.raw

    def _items_by_key(self) -> tuple[Bytes, Bytes]:
        import numpy as np

        found = [(key, value) for key in self.keys() if (value := self.lookup(key)) is not None]
        keys = np.frombuffer(b"".join(key for key, _ in found), np.uint8)
        values = np.frombuffer(b"".join(value for _, value in found), np.uint8)
        return keys.reshape(-1, self.key_size), values.reshape(-1, self.element_size)


def align8(size: int) -> int:
    return (size + 7) & ~7
