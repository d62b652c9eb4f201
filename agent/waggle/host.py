"""What this machine says about itself: the host.* and os.* attributes of every resource."""

import os
import platform
import shlex
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from waggle.spans import Attributes

# host.arch has well-known values of its own.
_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv6l": "arm32",
    "armv7l": "arm32",
    "armv8l": "arm32",
    "i386": "x86",
    "i586": "x86",
    "i686": "x86",
    "ppc64le": "ppc64",
    "ppc": "ppc32",
    "s390x": "s390x",
}


@dataclass(frozen=True, slots=True)
class Host:
    """attributes: host.* and os.* by the resource conventions. identity: what tells one boot of
    one machine from every other, for ids that must not repeat."""

    attributes: Attributes
    identity: str


@lru_cache(maxsize=1)
def this_host() -> Host:
    """Reads the machine once; what cannot be read is left out."""
    system = os.uname()
    machine_id = _first_line("/etc/machine-id") or _first_line("/var/lib/dbus/machine-id")
    release = _os_release()
    attributes: Attributes = {
        "host.name": system.nodename,
        "host.id": machine_id,
        "host.arch": architecture(system.machine),
        "os.type": system.sysname.lower(),
        "os.name": release.get("NAME", ""),
        "os.version": release.get("VERSION_ID", ""),
        "os.description": release.get("PRETTY_NAME", f"{system.sysname} {system.release}"),
    }
    boot_id = _first_line("/proc/sys/kernel/random/boot_id")
    return Host(
        attributes={key: value for key, value in attributes.items() if value},
        identity=f"{machine_id or system.nodename}/{boot_id}",
    )


def architecture(machine: str) -> str:
    """host.arch for what uname calls the machine."""
    return _ARCHITECTURES.get(machine, machine or platform.machine())


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace").partition("\n")[0].strip()
    except OSError:
        return ""


def _os_release() -> dict[str, str]:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            text = Path(path).read_text("utf-8", "replace")
        except OSError:
            continue
        pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
        return {key: _unquoted(value) for key, _, value in pairs}
    return {}


def _unquoted(value: str) -> str:
    try:
        return " ".join(shlex.split(value))
    except ValueError:
        return value
