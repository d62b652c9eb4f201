"""The programs that boot a kernel: Debian's packages, and virtme-ng in its own environment."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .errors import ToolMissingError
from .paths import REQUIREMENTS, VENV

# Program -> Debian package. Without udevd no output comes back from inside; busybox is
# the initramfs of a kernel whose 9p is a module; strings tells an image's version.
PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "udevadm": "udev",
    "depmod": "kmod",
    "busybox": "busybox-static",
    "strings": "binutils",
    "timeout": "coreutils",
}

VNG = VENV / "bin" / "vng"


def search_path() -> str:
    """PATH with virtme-ng's own programs first and the administrator's included."""
    own = os.environ.get("PATH", "/usr/bin:/bin").split(":")
    system = [folder for folder in ("/usr/sbin", "/sbin") if folder not in own]
    return ":".join([str(VENV / "bin"), *own, *system])


def missing_packages() -> list[str]:
    """The Debian packages whose program is not on the path."""
    path = search_path()
    return [
        package for program, package in PACKAGES.items() if not shutil.which(program, path=path)
    ]


def require() -> None:
    """Raises ToolMissingError, with the command that helps, unless everything is here."""
    packages = missing_packages()
    if packages:
        raise ToolMissingError(
            f"not installed: {' '.join(packages)}; run: python -m tests.vm prepare"
        )
    if not _environment_is_current():
        raise ToolMissingError(f"no virtme-ng in {VENV.name}; run: python -m tests.vm prepare")


def prepare() -> None:
    """Install what is missing; quick when nothing is. Raises ToolMissingError."""
    packages = missing_packages()
    if packages:
        _install_packages(packages)
    if not _environment_is_current():
        _make_environment()


def _install_packages(packages: list[str]) -> None:
    if os.geteuid() != 0:
        raise ToolMissingError(
            f"not installed: {' '.join(packages)}; as root: apt-get install them"
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    for command in (["apt-get", "update"], install):
        _run(command, environment)


def _environment_is_current() -> bool:
    """True when the environment holds exactly what requirements.txt says now."""
    stamp = _stamp()
    return VNG.exists() and stamp.exists() and stamp.read_text() == REQUIREMENTS.read_text()


def _make_environment() -> None:
    shutil.rmtree(VENV, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(VENV)])
    _run([str(VENV / "bin" / "pip"), "install", "--quiet", "-r", str(REQUIREMENTS)])
    _stamp().write_text(REQUIREMENTS.read_text())


def _stamp() -> Path:
    return VENV / "installed-requirements.txt"


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise ToolMissingError(
            f"{' '.join(command)} failed: {' '.join(last)}; is the network there?"
        )
