"""What the kernel that runs this offers to Waggle, tried one by one. Runs inside, as root.

.venv/bin/python -m tests.vm.features       # JSON: {"release": .., "answers": {..}, ..}
"""

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from waggle import features
from waggle.capture import Capture
from waggle.capture_options import CaptureOptions
from waggle.errors import WaggleError
from waggle.features import Feature
from waggle.flavours import FLAVOURS
from waggle.libbpf import KernelTypes

TRACEPOINTS = (
    "tcp_sendmsg_locked",
    "sock_recv_length",
    "sk_data_ready",
    "inet_sock_set_state",
    "tcp_destroy_sock",
    "sched_process_fork",
)

# Where the flavour `probe` enters, fentry or fexit: both are the same trampoline.
FUNCTIONS = (
    "tcp_sendmsg_locked",
    "inet_recvmsg",
    "inet6_recvmsg",
    "unix_stream_sendmsg",
    "unix_stream_recvmsg",
)


def see() -> dict[str, object]:
    """Everything the table shows of one kernel."""
    with KernelTypes() as types:
        answers = {feature.name: _answer(feature) for feature in _features(types)}
    flavours = {flavour.name: _flavour(flavour.name) for flavour in FLAVOURS}
    return {
        "release": platform.release(),
        "lockdown": features.lockdown()[0].value,
        "answers": answers,
        "flavours": flavours,
    }


def _features(types: KernelTypes) -> Iterator[Feature]:
    untyped: tuple[Callable[[], Feature], ...] = (
        features.btf,
        features.ring_buffer,
        features.bpf_loop,
        features.raw_tracepoint,
        features.kprobe,
        features.uprobe,
    )
    for ask in untyped:
        yield ask()
    for name in TRACEPOINTS:
        yield features.typed_tracepoint(name, types)
    for name in FUNCTIONS:
        yield features.function_entry(name, types)


def _answer(feature: Feature) -> dict[str, str]:
    return {"answer": feature.answer.value, "reason": feature.reason}


def _flavour(name: str) -> dict[str, object]:
    """Whether the agent's own programs of one flavour load and attach here."""
    started = time.monotonic()
    try:
        Capture.open(CaptureOptions(capture=name)).close()
    except WaggleError as error:
        return {"works": False, "reason": str(error), "exit_code": error.exit_code}
    return {"works": True, "seconds": round(time.monotonic() - started, 2)}


def main() -> None:
    text = json.dumps(see(), indent=1)
    folder = os.environ.get("VM_OUT")
    if folder:
        (Path(folder) / "features.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
