"""Stock kernels of Debian's suites, through apt with a source list and a state of its own.

Nothing is installed: the packages are unpacked under build/vm/SUITE, and of the modules
only those that a machine without hardware needs. The mirror is the one this machine uses.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import KernelMissingError
from .paths import BUILD

# Oldest first: what README's support table names.
SUITES = ("bullseye", "bookworm", "trixie", "sid")

# The image package of each suite's default kernel; it only depends on the real one.
META_PACKAGE = "linux-image-amd64"

# Modules kept: boot (9p over virtio, overlays), networking, namespaces' devices. With all
# of Debian's 4,000 modules udev spends half of the boot loading drivers for hardware that
# the machine only pretends to have.
KEPT_MODULES = (
    "kernel/net/",
    "kernel/lib/",
    "kernel/crypto/",
    "kernel/fs/9p/",
    "kernel/fs/fscache/",
    "kernel/fs/netfs/",
    "kernel/fs/overlayfs/",
    "kernel/fs/fuse/",
    "kernel/fs/autofs/",
    "kernel/drivers/virtio/",
    "kernel/drivers/char/virtio_console",
    "kernel/drivers/net/veth",
    "kernel/drivers/net/dummy",
    "kernel/drivers/net/net_failover",
    "kernel/drivers/net/virtio_net",
)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that is unpacked and can be booted.

    package: name and version as apt has them. root: holds boot/ and lib/modules/RELEASE.
    """

    suite: str
    release: str
    package: str
    root: Path

    @property
    def image(self) -> Path:
        return self.root / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        return self.root / "lib" / "modules" / self.release


def cached(suite: str) -> Kernel | None:
    """The suite's kernel if it was fetched before. Asks nobody."""
    record = BUILD / suite / "kernel.json"
    if not record.exists():
        return None
    found = json.loads(record.read_text())
    kernel = Kernel(suite, found["release"], found["package"], BUILD / suite)
    return kernel if kernel.image.exists() and kernel.modules.is_dir() else None


def fetch(suite: str, *, refresh: bool = False) -> Kernel:
    """The suite's kernel: from the cache, else (or with refresh) through apt.

    Raises KernelMissingError when apt cannot reach the suite or the suite has no such package.
    """
    if suite not in SUITES:
        raise KernelMissingError(f"no such suite: {suite}; known: {', '.join(SUITES)}")
    with _locked(suite):
        kernel = None if refresh else cached(suite)
        return kernel or _fetch_new(suite)


@contextmanager
def _locked(suite: str) -> Iterator[None]:
    """One process at a time changes a suite's folder."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / f".{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch_new(suite: str) -> Kernel:
    with tempfile.TemporaryDirectory(prefix=f".{suite}-", dir=BUILD) as scratch:
        apt = Apt(suite, Path(scratch))
        apt.update()
        packages = apt.kernel_packages()
        unpacked = Path(scratch) / "unpacked"
        for archive in apt.download(packages):
            _unpack(archive, unpacked)
            archive.unlink()
        description = f"{packages[0]} {apt.version(packages[0])}"
        return _install(suite, unpacked, description)


class Apt:
    """apt-get and apt-cache over one suite, none of the machine's own state touched."""

    def __init__(self, suite: str, state: Path) -> None:
        self._downloads = state / "downloads"
        lists = state / "lists"
        sources = state / "sources.list"
        for folder in (self._downloads, lists / "partial", state / "archives" / "partial"):
            folder.mkdir(parents=True)
        sources.write_text(_source_line(suite))
        self._options = [
            f"-oDir::Etc::SourceList={sources}",
            "-oDir::Etc::SourceParts=-",
            f"-oDir::State::Lists={lists}",
            "-oDir::State::Status=/dev/null",
            f"-oDir::Cache={state}",
            "-oAPT::Architecture=amd64",
            "-oAPT::Sandbox::User=root",
            "-oAcquire::Languages=none",
            "-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            "-oAcquire::Retries=2",
        ]

    def update(self) -> None:
        # A mirror that cannot be reached is only a warning to apt, unless told otherwise.
        self._run("apt-get", "-oAPT::Update::Error-Mode=any", "update")

    def kernel_packages(self) -> list[str]:
        """The image's package, then those that newer suites split off it."""
        image = next(iter(self._depends(META_PACKAGE, r"linux-image-\d")), None)
        if image is None:
            raise KernelMissingError(f"{META_PACKAGE} depends on no image: has its naming changed?")
        return [image, *self._depends(image, r"linux-(?:binary|modules)-\d")]

    def version(self, package: str) -> str:
        shown = self._run("apt-cache", "show", "--no-all-versions", package)
        found = re.search(r"^Version: (\S+)$", shown, re.MULTILINE)
        return found[1] if found else "(version unknown)"

    def download(self, packages: list[str]) -> list[Path]:
        self._run("apt-get", "download", *packages, folder=self._downloads)
        return sorted(self._downloads.glob("*.deb"))

    def _depends(self, package: str, pattern: str) -> list[str]:
        shown = self._run("apt-cache", "depends", package)
        return re.findall(rf"^\s*Depends: ({pattern}\S*)$", shown, re.MULTILINE)

    def _run(self, program: str, *arguments: str, folder: Path | None = None) -> str:
        command = [program, *self._options, *arguments]
        environment = {**os.environ, "LC_ALL": "C"}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            raise KernelMissingError(
                f"{program} {' '.join(arguments)}: {reason[0]}; is Debian's mirror reachable?"
            )
        return done.stdout


def _source_line(suite: str) -> str:
    uri, options = machine_mirror()
    return f"deb {options}{uri} {suite} main\n"


def machine_mirror(folder: Path = Path("/etc/apt")) -> tuple[str, str]:
    """The archive this machine installs Debian itself from: address, and options as "[..] ".

    Raises KernelMissingError when this machine names none, as on other distributions.
    """
    for file in sorted(folder.glob("sources.list.d/*.sources")):
        for stanza in re.split(r"\n\s*\n", file.read_text()):
            fields = dict(re.findall(r"^([A-Za-z-]+):\s*(.+)$", stanza, re.MULTILINE))
            if _is_archive(fields.get("URIs", ""), fields.get("Components", "")):
                key = fields.get("Signed-By", "").strip()
                options = f"[signed-by={key}] " if key.startswith("/") else ""
                return fields["URIs"].split()[0], options
    for file in [folder / "sources.list", *sorted(folder.glob("sources.list.d/*.list"))]:
        lines = file.read_text() if file.exists() else ""
        for options, uri, components in re.findall(
            r"^deb\s+(\[[^\]]*\]\s+)?(\S+)\s+\S+\s+(.+)$", lines, re.MULTILINE
        ):
            if _is_archive(uri, components):
                return uri, options
    raise KernelMissingError(
        "apt's sources name no Debian archive: these tests need Debian's kernels"
    )


def _is_archive(uris: str, components: str) -> bool:
    """Debian's main archive, not its security updates and not somebody else's packages."""
    path = uris.split()[0].rstrip("/") if uris.split() else ""
    return path.endswith("/debian") and "main" in components.split()


def _unpack(archive: Path, target: Path) -> None:
    """Image and kept modules of one package, as ./boot and ./lib or ./usr/lib."""
    target.mkdir(exist_ok=True)
    wanted = ["*/boot/vmlinuz-*", "*/lib/modules/*/vmlinuz", "*/lib/modules/*/modules.*"]
    wanted += [f"*/lib/modules/*/{part}*" for part in KEPT_MODULES]
    contents = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE)
    command = ["tar", "--extract", "--wildcards", "--directory", str(target), *wanted]
    # tar fails for each pattern that this package does not have: what counts is checked below.
    subprocess.run(command, stdin=contents.stdout, stderr=subprocess.DEVNULL, check=False)
    if contents.stdout is not None:
        contents.stdout.close()
    if contents.wait() != 0:
        raise KernelMissingError(f"{archive.name} could not be unpacked: is the disk full?")


def _install(suite: str, unpacked: Path, package: str) -> Kernel:
    """Arrange what was unpacked the same way for every suite, and record it."""
    modules = next(
        iter([*unpacked.glob("lib/modules/*"), *unpacked.glob("usr/lib/modules/*")]), None
    )
    images = [*unpacked.glob("boot/vmlinuz-*"), *unpacked.glob("usr/lib/modules/*/vmlinuz")]
    if modules is None or not images:
        raise KernelMissingError(f"{package} holds no image or no modules: has its layout changed?")
    kernel = Kernel(suite, modules.name, package, BUILD / suite)
    shutil.rmtree(kernel.root, ignore_errors=True)
    kernel.image.parent.mkdir(parents=True)
    kernel.modules.parent.mkdir(parents=True)
    shutil.move(images[0], kernel.image)
    shutil.move(modules, kernel.modules)
    record = {"release": kernel.release, "package": package}
    (kernel.root / "kernel.json").write_text(json.dumps(record) + "\n")
    return kernel
