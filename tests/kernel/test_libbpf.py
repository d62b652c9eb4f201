"""The binding against the running kernel."""

import ctypes
import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kernel.support import compiled, unavailable
from waggle import features
from waggle.libbpf import LoadError, Object, RunTimeStats, library, possible_cpus

Opener = Callable[[str], Object]


@pytest.fixture
def binding(open_object: Opener) -> Object:
    """binding.bpf.c with this process as target, not loaded yet."""
    bpf = open_object("binding")
    bpf.rodata["target"] = os.getpid()
    return bpf


def call_getppid(times: int) -> None:
    for _ in range(times):
        os.getppid()


def test_every_width_of_read_only_data_reaches_the_program(binding: Object) -> None:
    """What is written to a variable of any type before load is what the program reads."""
    binding.rodata["one"] = 200
    binding.rodata["two"] = np.uint16(60_000)
    binding.rodata["four"] = -1
    binding.rodata["eight"] = 1 << 40
    binding.rodata["seed"] = np.arange(16, dtype=np.uint8)
    binding.load()
    binding.attach("on_getppid")
    call_getppid(1)
    expected = 200 + 60_000 + 0xFFFFFFFF + (1 << 40) + sum(range(16))
    assert binding.map("per_cpu").sum_over_cpus()[1].tolist() == [1, expected]


def test_read_only_data_refuses_what_does_not_fit(binding: Object) -> None:
    """An unknown name, too large a number, too few bytes and a late write are errors."""
    with pytest.raises(LoadError, match="no read-only variable nonsense"):
        binding.rodata["nonsense"] = 1
    with pytest.raises(LoadError, match="256 does not fit into one"):
        binding.rodata["one"] = 256
    with pytest.raises(LoadError, match="seed takes 16 bytes, not 3"):
        binding.rodata["seed"] = b"abc"
    binding.load()
    with pytest.raises(LoadError, match="cannot change after load"):
        binding.rodata["one"] = 1


def test_elements_come_back_as_they_were_stored(binding: Object) -> None:
    """lookup, items and keys show exactly what update stored and delete left."""
    binding.load()
    table = binding.map("table")
    stored = {i.to_bytes(8, "little"): (i * i).to_bytes(4, "little") for i in range(10)}
    for key, value in stored.items():
        table.update(key, value)
    gone = (3).to_bytes(8, "little")
    assert table.delete(gone)
    assert not table.delete(gone)
    del stored[gone]
    assert table.lookup(gone) is None
    assert {key: table.lookup(key) for key in stored} == stored
    assert sorted(table.keys()) == sorted(stored)
    keys, values = table.items()
    assert {k.tobytes(): v.tobytes() for k, v in zip(keys, values, strict=True)} == stored


def test_batch_and_single_reads_agree(binding: Object) -> None:
    """The way for kernels without batch operations gives the same elements."""
    binding.load()
    table = binding.map("table")
    for i in range(16):
        table.update(os.urandom(8), i.to_bytes(4, "little"))

    def as_set(found: tuple[np.ndarray, np.ndarray]) -> set[tuple[bytes, bytes]]:
        return {(k.tobytes(), v.tobytes()) for k, v in zip(*found, strict=True)}

    batch = next(table._batches(), None)
    assert batch is not None
    assert len(batch[0]) == 16
    assert as_set(batch) == as_set(table._items_by_key())


def test_a_map_has_the_size_it_was_given(binding: Object) -> None:
    """max_entries set before load is the bound, and a full map says E2BIG."""
    table = binding.map("table")
    table.max_entries = 3
    binding.load()
    for i in range(3):
        table.update(i.to_bytes(8, "little"), bytes(4))
    with pytest.raises(LoadError, match="update map table") as caught:
        table.update(bytes([9] * 8), bytes(4))
    assert caught.value.errno == errno.E2BIG


def test_a_walk_ends_though_its_keys_are_deleted(binding: Object) -> None:
    """Deleting each key as it is met empties the map and meets every key once."""
    binding.load()
    table = binding.map("table")
    for i in range(16):
        table.update(i.to_bytes(8, "little"), bytes(4))
    met = list(filter(table.delete, table.keys()))
    assert len(set(met)) == len(met) == 16
    assert list(table.keys()) == []


def test_wrong_sizes_are_refused_before_the_kernel_reads_past_them(binding: Object) -> None:
    """A key or value of another size than the map's is an error, not a read out of bounds."""
    binding.load()
    with pytest.raises(LoadError, match="keys of 8 bytes, not 4"):
        binding.map("table").lookup(bytes(4))
    with pytest.raises(LoadError, match="values of 4 bytes, not 8"):
        binding.map("table").update(bytes(8), bytes(8))


def test_per_cpu_values_are_summed(binding: Object) -> None:
    """A total counts every CPU the calls were made on."""
    binding.load()
    binding.attach("on_getppid")
    allowed = os.sched_getaffinity(0)
    try:
        for cpu in sorted(allowed):
            os.sched_setaffinity(0, {cpu})
            call_getppid(100)
    finally:
        os.sched_setaffinity(0, allowed)
    narrow = binding.map("narrow")
    assert narrow.sum_over_cpus().tolist() == [0, 100 * len(allowed), 0, 0]
    raw = narrow.lookup((1).to_bytes(4, "little"))
    assert raw is not None
    assert len(raw) == 8 * possible_cpus()
    assert sorted(np.frombuffer(raw, np.uint64))[-len(allowed) :] == [100] * len(allowed)


def test_a_closed_link_counts_nothing(binding: Object) -> None:
    """close() of a link detaches its program; the rest of the object lives on."""
    binding.load()
    with binding.attach("on_getppid"):
        call_getppid(10)
    call_getppid(1000)
    assert binding.map("narrow").sum_over_cpus()[1] == 10


def test_a_closed_object_leaves_nothing_attached(binding: Object) -> None:
    """close() of an object detaches what was attached through it."""
    binding.load()
    binding.attach("on_getppid")
    program = binding.program("on_getppid").info().id
    assert program in loaded_programs()
    binding.close()
    assert gone_within(program, 30.0)


def test_a_killed_process_leaves_nothing_attached() -> None:
    """After SIGKILL of the process that attached, the program is gone from the kernel."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        bpf = Object.open(compiled("binding"))
        bpf.load()
        bpf.attach("on_getppid")
        os.write(write, bpf.program("on_getppid").info().id.to_bytes(4, "little"))
        signal.pause()
    program = int.from_bytes(os.read(read, 4), "little")
    assert program in loaded_programs()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert gone_within(program, 30.0)
    os.close(read)
    os.close(write)


def loaded_programs() -> set[int]:
    """The ids of all programs in the kernel."""
    found: set[int] = set()
    current = ctypes.c_uint32(0)
    while (
        ctypes.CDLL("libbpf.so.1").bpf_prog_get_next_id(current.value, ctypes.byref(current)) == 0
    ):
        found.add(current.value)
    return found


def gone_within(program: int, seconds: float) -> bool:
    """The kernel frees a program after a grace period."""
    deadline = time.monotonic() + seconds
    while program in loaded_programs():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_uprobe_hands_its_cookie_to_the_program(binding: Object) -> None:
    """attach_uprobe places the program at a file offset of one process, with a cookie."""
    if not (uprobe := features.uprobe()):
        unavailable(f"needs uprobes: {uprobe.reason}")
    libc = ctypes.CDLL(None)
    path, offset = place_in_file(ctypes.cast(libc.getppid, ctypes.c_void_p).value or 0)
    binding.load()
    binding.attach_uprobe("on_function", path, offset=offset, pid=os.getpid(), cookie=0xC0FFEE)
    libc.getppid()
    found = binding.map("cookies").lookup(bytes(4))
    assert found is not None
    assert int.from_bytes(found, "little") == 0xC0FFEE


def place_in_file(address: int) -> tuple[str, int]:
    """Which file an address of this process comes from, and where in it."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _mode, offset, _device, _inode, *path = line.split(maxsplit=5)
        start, end = (int(x, 16) for x in span.split("-"))
        if start <= address < end:
            return path[0], address - start + int(offset, 16)
    raise AssertionError(f"{address:#x} is not mapped")


def test_a_cgroup_program_attaches_to_a_directory(binding: Object) -> None:
    """attach_cgroup attaches to the cgroup v2 tree wherever it is mounted."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    cgroup = next((m[1] for m in mounts if m[2] == "cgroup2"), None)
    if cgroup is None:
        unavailable("needs a mounted cgroup v2")
    binding.load()
    with binding.attach_cgroup("on_packet", cgroup) as link:
        assert link.fd >= 0


def test_an_iterator_is_read_to_its_end(binding: Object) -> None:
    """read_iterator gives everything the program wrote, afresh each time."""
    binding.load()
    link = binding.attach("list_maps")
    first = link.read_iterator()
    assert set(first.splitlines()) == {b"map"}
    assert len(first.splitlines()) >= len(binding.maps)
    assert link.read_iterator().startswith(b"map\n")


def test_costs_are_measured_while_asked_for(binding: Object) -> None:
    """Inside RunTimeStats runs and nanoseconds of a program are counted."""
    binding.load()
    binding.attach("on_getppid")
    with RunTimeStats():
        call_getppid(1000)
        info = binding.program("on_getppid").info()
    assert info.run_cnt >= 1000
    assert info.run_time_ns > 1000
    assert info.name == "on_getppid"
    assert info.verified_insns > 10


REFUSALS = [
    ("unchecked_pointer", r"map_value_or_null.*\(\d+ lines omitted\)"),
    ("reads_missing_field", "this kernel has not the type or field"),
    ("missing_hook", "this kernel has no hook no_such_tracepoint"),
    ("missing_raw_hook", "cannot attach missing_raw_hook .*no_such_tracepoint"),
]


@pytest.mark.parametrize(("program", "message"), REFUSALS)
def test_a_refusal_is_one_useful_line(
    open_object: Opener, capfd: pytest.CaptureFixture[str], program: str, message: str
) -> None:
    """What this kernel refuses is told in one line, in full on request, and never printed."""
    bpf = open_object("refused")
    bpf.load_only(program)
    with pytest.raises(LoadError, match=message) as caught:
        bpf.load()
        bpf.attach(program)
    assert "\n" not in str(caught.value)
    assert "libbpf:" in caught.value.full_log
    assert capfd.readouterr() == ("", "")


def test_a_kernel_without_btf_is_named() -> None:
    """Where the kernel's types are hidden, the error says what the kernel was built without."""
    child = os.fork()
    if child == 0:
        os._exit(_load_without_btf())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _load_without_btf() -> int:
    """In a mount namespace of its own: 0 when the error is the right one."""
    new_mounts, private_recursive = 0x00020000, 1 << 18 | 1 << 14
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(new_mounts) or libc.mount(b"none", b"/", None, private_recursive, None):
        return 2
    if libc.mount(b"none", b"/sys/kernel/btf", b"tmpfs", 0, None):
        return 3
    bpf = Object.open(compiled("refused"))
    bpf.load_only("missing_hook")
    try:
        bpf.load()
    except LoadError as error:
        return 0 if "CONFIG_DEBUG_INFO_BTF" in str(error) and error.exit_code == 4 else 4
    return 5


def test_a_file_that_is_no_object_is_named(tmp_path: Path) -> None:
    """A missing file and a file of something else are errors that name it."""
    with pytest.raises(LoadError, match=r"no BPF object at .*: run make build"):
        Object.open(tmp_path / "missing.bpf.o")
    (tmp_path / "text.bpf.o").write_text("not an object")
    with pytest.raises(LoadError, match=r"cannot open text\.bpf\.o"):
        Object.open(tmp_path / "text.bpf.o")


def test_using_what_is_not_there_is_an_error(binding: Object) -> None:
    """Unknown names, and descriptors before load, raise instead of crashing the process."""
    with pytest.raises(LoadError, match="no program nonsense"):
        binding.attach("nonsense")
    with pytest.raises(LoadError, match="no map nonsense"):
        binding.map("nonsense")
    with pytest.raises(LoadError, match="before load"):
        binding.map("table").lookup(bytes(8))
    binding.close()
    with pytest.raises(LoadError, match="is closed"):
        binding.load()


def test_the_library_is_declared_once() -> None:
    """library() gives the same handle, so libbpf's print callback is set once."""
    assert library() is library()
