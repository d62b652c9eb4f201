"""A thin typed binding to libbpf: objects, programs, maps, links.

    with Object.open("waggle.bpf.o") as bpf:
        bpf.rodata["agent_tgid"] = os.getpid()
        bpf.map("exchanges").max_entries = 1 << 22
        bpf.load()
        bpf.attach("on_send")
        totals = bpf.map("counters").sum_over_cpus()

Works with libbpf.so.1 from 1.1 on; the library is loaded at first use, so that
what needs no kernel runs without it. Nothing is ever printed: what libbpf says
goes into the `full_log` of the LoadError that the same call raises.
"""

from waggle.libbpf.btf import KIND_DATASEC, KIND_FUNC, KIND_TYPEDEF, KernelTypes, ReadOnlyData
from waggle.libbpf.calls import MAX_LOG_BYTES, library, possible_cpus
from waggle.libbpf.failures import (
    ENOTSUPP,
    LoadError,
    explain_failure,
    missing_library,
    useful_line,
)
from waggle.libbpf.links import DescriptorLink, Link
from waggle.libbpf.maps import ANY, EXIST, NO_EXIST, Map
from waggle.libbpf.objects import Object
from waggle.libbpf.programs import Program, ProgramInfo, RunTimeStats

__all__ = [
    "ANY",
    "ENOTSUPP",
    "EXIST",
    "KIND_DATASEC",
    "KIND_FUNC",
    "KIND_TYPEDEF",
    "MAX_LOG_BYTES",
    "NO_EXIST",
    "DescriptorLink",
    "KernelTypes",
    "Link",
    "LoadError",
    "Map",
    "Object",
    "Program",
    "ProgramInfo",
    "ReadOnlyData",
    "RunTimeStats",
    "explain_failure",
    "library",
    "missing_library",
    "possible_cpus",
    "useful_line",
]
