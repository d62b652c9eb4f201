"""What is fixed when the programs are loaded: the settings in the object, the bounds of its maps,
and the rules by which the kernel samples.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from waggle import tcp_option
from waggle.flavours import HANDOVER_MAPS, INJECT_MAPS, LOG_MAPS, TLS_MAPS, probes_with
from waggle.libbpf import Object, possible_cpus
from waggle.propagators import Propagators
from waggle.sampling import Rule, Sampling, threshold_of

if TYPE_CHECKING:  # loading needs none of these, and begins before they are imported
    import numpy as np
    import numpy.typing as npt

_FEW = 64  # entries of a map that nobody uses


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """What is fixed when the programs are loaded.

    capture: auto or a flavour's name. trace_all: record whoever is in no entry.
    watch_processes: record every new program until it is decided about.
    ring_bytes: of the ring of ordinary records, a power of two. log_rate: records of 0.9 KB
    a second that one process may write to its logs, 0: logs are not looked at. inject: load what
    writes headers into requests (injecting.py). headers_first: where the parent of a request would
    have to wait for its proof it has none, and a header. tls: load what reads plaintext of TLS
    libraries. max_entries:
    other bounds than the maps have by themselves, by name of the map. sampling: who decides
    what is recorded, and how (see Sampling). propagators: which headers say whose child a
    request is. baggage: whether that header is recorded. tcp_option: tell other machines by the
    TCP option, if that can be had. handover: load what follows items through Go's channels.
    """

    capture: str = "auto"
    trace_all: bool = False
    watch_processes: bool = False
    ring_bytes: int = 8 << 20
    log_rate: int = 0
    inject: bool = False
    headers_first: bool = False
    max_entries: Mapping[str, int] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)
    propagators: Propagators = field(default_factory=Propagators)
    baggage: bool = False
    tcp_option: bool = False
    tls: bool = False
    handover: bool = False

    @property
    def probes(self) -> tuple[str, ...]:
        """Programs that are attached to processes."""
        return probes_with(tls=self.tls, handover=self.handover)


def configure(bpf: Object, options: CaptureOptions) -> None:
    settings: Mapping[str, int | bytes] = {
        "agent_tgid": os.getpid(),
        "keep_baggage": int(options.baggage),
        "tcp_option_on": int(options.tcp_option),
        "trace_all": int(options.trace_all),
        "watch_processes": int(options.watch_processes),
        "sampling_mode": options.sampling.mode,
        "sample_rules_for_all": options.sampling.rules_for_all,
        "shape_seed": int.from_bytes(os.urandom(8), "little") | 1,
    }
    settings = {**settings, **_of_extras(bpf, options)}
    settings = {**settings, **options.propagators.variables()}
    for name, value in settings.items():
        bpf.rodata[name] = value
    bpf.map("exchange_ring").max_entries = options.ring_bytes
    for name, entries in options.max_entries.items():
        bpf.map(name).max_entries = entries


def _of_extras(bpf: Object, options: CaptureOptions) -> dict[str, int]:
    """Settings of what is only loaded when it is wanted; the maps of what is not take no room."""
    settings: dict[str, int] = {}
    without: list[str] = []
    if not options.tcp_option:
        without += tcp_option.MAPS
    if options.log_rate:
        settings["log_rate"] = options.log_rate
    else:
        without += LOG_MAPS
    if options.inject:
        settings["inject_wanted"] = 1
        settings["headers_first"] = int(options.headers_first)
        bpf.map("leavers").max_entries = possible_cpus()
    else:
        without += INJECT_MAPS
    for name in without:
        bpf.map(name).leave_out()
    if not options.sampling.by_path:
        bpf.map("stream_paths").max_entries = _FEW
    if not options.propagators.beside_traceparent:
        bpf.map("table_texts").max_entries = _FEW
    unused: list[str] = []
    if options.tls:
        settings["tls_wanted"] = 1
    else:
        unused += TLS_MAPS
        bpf.map("handshake_ring").max_entries = mmap.PAGESIZE
    if options.handover:
        settings["go_handover_wanted"] = 1
    else:
        unused += HANDOVER_MAPS
    for name in unused:
        bpf.map(name).max_entries = _FEW
    return settings


def mapped_rules(bpf: Object) -> npt.NDArray[np.void]:
    """The map of rules in our own memory, for as long as the array is referred to."""
    import numpy as np

    from waggle import layout

    rules = bpf.map("sample_rules")
    memory = mmap.mmap(rules.fd, rules.max_entries * layout.SAMPLE_RULE.itemsize)
    return np.frombuffer(memory, layout.SAMPLE_RULE)


def write_rules(rules: npt.NDArray[np.void], sampling: Sampling) -> None:
    """What each rule is for, and its threshold."""
    import numpy as np

    for number, rule in enumerate(sampling.rules, 1):
        path = np.frombuffer(rule.path, np.uint8)
        rules["path"][number, : len(path)] = path
        rules["mask"][number, : len(path)] = 0xFF
        rules["path_len"][number] = len(path)
        rules["exact"][number] = rule.exact
        if rule.path:
            _write_codes(rules[number], rule)
    for number, probability in enumerate(sampling.probabilities):
        rules["threshold"][number] = threshold_of(probability)


def _write_codes(row: np.void, rule: Rule) -> None:
    """How HTTP/2 writes the rule's path."""
    import numpy as np

    from waggle.path_codes import code_bits, code_of, static_paths

    code, mask = code_of(rule.path)
    row["coded"][: len(code)] = np.frombuffer(code, np.uint8)
    row["coded_mask"][: len(mask)] = np.frombuffer(mask, np.uint8)
    row["coded_bits"] = code_bits(rule.path)
    row["static_paths"] = static_paths(rule.path, exact=rule.exact)
