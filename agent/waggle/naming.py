"""What a service is called, when nobody was asked: `service_name`, and the parts it uses.

In order: what the process says of itself in its environment (OTEL_SERVICE_NAME,
then service.name in OTEL_RESOURCE_ATTRIBUTES), its systemd unit, what its command
line says, its container's short id, its executable's name.

The rules for command lines are those of `waggle.commandline`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

from waggle.command_names import Command, PackageReader, no_package, script_stem, word_set
from waggle.commandline import (
    SHELLS,
    is_interpreter,
    name_from_command,
    script_path,
    title_program,
)


@dataclass(frozen=True, slots=True)
class ServiceName:
    """name, and where it comes from: environment, resource-attributes, systemd,
    command, container or executable."""

    name: str
    source: str


def service_name(
    *,
    exe: str,
    cmdline: Sequence[str],
    environ: Mapping[str, str],
    unit: str | None = None,
    container_id: str | None = None,
    cwd: str = "",
    comm: str = "",
    package: PackageReader = no_package,
) -> ServiceName:
    """The service a process belongs to.

    exe, cwd: absolute paths as the process sees them, or empty. cmdline: its
    arguments, argv[0] first. unit, container_id: of its control group. comm: its
    kernel name, used when nothing else is known. package: gives the name in the
    package.json of a folder, in a jar, or in nginx's configuration.
    """
    if name := environ.get("OTEL_SERVICE_NAME"):
        return ServiceName(name, "environment")
    if name := resource_attributes(environ.get("OTEL_RESOURCE_ATTRIBUTES", "")).get("service.name"):
        return ServiceName(name, "resource-attributes")
    if unit:
        return ServiceName(unit, "systemd")
    command = Command(exe, tuple(cmdline), environ, cwd, package)
    if name := name_from_command(command):
        return ServiceName(name, "command")
    file = PurePosixPath(exe).name
    if file and not exe.startswith("/memfd:") and file not in SHELLS:
        return ServiceName(file, "executable")
    if container_id:
        return ServiceName(container_id[:12], "container")
    return ServiceName(command.program or comm or "unknown_service", "executable")


def program_name(exe: str, cmdline: Sequence[str], runtime_word: str, service: str) -> str:
    """What a user would call the program of a service, or "" when the service's name says it.

    The first of these that is not the service's own name: the program in a rewritten title
    (`gunicorn: worker [shop:app]`), the script or module an interpreter runs (gunicorn, app.py),
    a compiled program's file name, and where all of them repeat the service, what it runs on
    (go for a Go program stock of the service stock).
    """
    interpreted = is_interpreter(exe)
    file = PurePosixPath(exe).name
    for candidate in (
        title_program(cmdline),
        PurePosixPath(script_path(cmdline) or "").name,
        "" if interpreted else file,
        runtime_word or file,
    ):
        if candidate and service not in (candidate, script_stem(candidate)):
            return candidate
    return ""


def resource_attributes(text: str) -> dict[str, str]:
    """The pairs of an OTEL_RESOURCE_ATTRIBUTES value, percent-decoded.

    By the specification a value that cannot be read is dropped as a whole.
    """
    pairs: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, separator, value = item.partition("=")
        if not separator or not key.strip():
            return {}
        pairs[key.strip()] = unquote(value.strip().strip('"'))
    return pairs


# --- control groups ---------------------------------------------------------

_CONTAINER = re.compile(r"(?:^|[-:/._])([0-9a-f]{64})(?:\.scope)?(?=/|$)")

# Units that run other people's programs: what runs in them has a name of its own.
_WRAPPER_UNITS = word_set(
    """
    user user-runtime-dir ssh sshd session getty serial-getty console-getty cron crond atd anacron
    docker containerd podman crio kubelet supervisor supervisord gdm gdm3 sddm lightdm
    display-manager systemd-nspawn init
    """
)
_WRAPPER_PATTERN = re.compile(
    r"run-(r?[0-9a-f]+|u\d+|p\d+-i\d+)"  # systemd-run
    r"|dbus-.*|actions\.runner\..*"
)


def unit_of(cgroup: str) -> str | None:
    """The systemd service in the text of /proc/PID/cgroup, or None.

    Scopes (sessions, containers), services that only wrap other people's programs
    (user@, ssh, cron, docker, transient run-*) and whatever is inside a container do not count.
    An instance is its template: shop@eu.service is shop.
    """
    for path in _cgroup_paths(cgroup):
        for part in reversed(path.split("/")):
            if _CONTAINER.search(part) or part.endswith(".scope"):
                break  # the service above it, if any, is the container's or session's keeper
            if part.endswith(".service"):
                desktop = part.startswith("app-") and "/user@" in path
                return None if desktop else _unit_name(part.removesuffix(".service"))
    return None


def container_of(cgroup: str) -> str | None:
    """The id (64 hexadecimal digits) of the container in /proc/PID/cgroup, or None."""
    for path in _cgroup_paths(cgroup):
        if found := _CONTAINER.findall(path):
            return str(found[-1])
    return None


def _cgroup_paths(cgroup: str) -> Iterable[str]:
    """Paths of the control groups that systemd and container engines name, v2 and v1."""
    lines = [line.split(":", 2) for line in cgroup.splitlines() if line.count(":") >= 2]
    lines.sort(key=lambda line: (line[1] != "", line[1] != "name=systemd"))
    return [line[2] for line in lines]


def _unit_name(unit: str) -> str | None:
    name, _, _ = unit.partition("@")
    if name in _WRAPPER_UNITS or _WRAPPER_PATTERN.fullmatch(name):
        return None
    return re.sub(r"\\x([0-9a-f]{2})", lambda code: chr(int(code.group(1), 16)), name) or None
