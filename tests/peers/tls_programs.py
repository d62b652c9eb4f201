"""Real programs that speak TLS, for tests: a certificate, servers, clients."""

import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .harness import lease_port, tool
from .processes import ROOT, Program

HERE = Path(__file__).parent / "programs" / "tls"
PYTHON = ROOT / "build" / "peers-venv" / "bin" / "python"
READY_WITHIN_S = 60.0


def make_certificate(folder: Path) -> Path:
    """Key and certificate of localhost, in one file."""
    path = folder / "both.pem"
    if not path.exists():
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
                *("ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
                *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"),
                *("-keyout", str(key), "-out", str(certificate)),
            ],
            check=True,
            capture_output=True,
        )
        path.write_bytes(key.read_bytes() + certificate.read_bytes())
    return path


def trusting() -> ssl.SSLContext:
    """Takes any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def answers(port: int) -> bool:
    """Whether a TLS server takes connections there."""
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as plain:
            context = trusting()
            with context.wrap_socket(plain, server_hostname="localhost"):
                return True
    except OSError:
        return False


@contextmanager
def leased_port() -> Iterator[int]:
    lease = lease_port()
    try:
        yield lease.port
    finally:
        lease.release()


@contextmanager
def started(
    name: str, command: Sequence[str | Path], port: int, env: Mapping[str, str] | None = None
) -> Iterator[Program]:
    program = Program(name, command, env=env)
    try:
        program.wait_until(lambda: answers(port), READY_WITHIN_S)
        yield program
    finally:
        program.stop()


@contextmanager
def python_server(
    script: str,
    certificate: Path,
    *flags: str,
    python: str | Path = PYTHON,
    env: Mapping[str, str] | None = None,
) -> Iterator[tuple[Program, int]]:
    """One of programs/tls/*.py, and its port. env: added to this process's environment."""
    with leased_port() as port:
        command = [python, HERE / script, f"--port={port}", f"--certificate={certificate}", *flags]
        with started(script, command, port, env) as program:
            yield program, port


@contextmanager
def nginx_server(
    folder: Path, certificate: Path, location: str = "return 200 fine;", *, listen: str = "ssl"
) -> Iterator[tuple[Program, int]]:
    """nginx with one worker, which answers everything as `location` says."""
    with leased_port() as port:
        temporary = "\n".join(
            f"{kind}_temp_path {folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = folder / f"nginx-{port}.conf"
        config.write_text(
            f"daemon off; worker_processes 1; pid {folder}/nginx-{port}.pid;\n"
            f"error_log stderr; events {{ worker_connections 512; }}\n"
            f"http {{ access_log off; {temporary} keepalive_requests 100000000;\n"
            f"server {{ listen 127.0.0.1:{port} {listen}; ssl_certificate {certificate};\n"
            f"ssl_certificate_key {certificate}; location / {{ {location} }} }} }}\n"
        )
        command: list[str | Path] = [tool("nginx"), "-e", "stderr", "-c", config]
        with started("nginx-tls", command, port) as program:
            yield program, port


@contextmanager
def node_server(certificate: Path, node: Path | None = None) -> Iterator[tuple[Program, int]]:
    """node: another than the system's."""
    with leased_port() as port:
        command: list[str | Path] = [node or tool("node"), HERE / "server.js"]
        command += [str(port), certificate]
        with started("node-tls", command, port) as program:
            yield program, port


def build_go(folder: Path) -> Path:
    """programs/tls/go, compiled."""
    made = folder / "go-tls"
    if not made.exists():
        command = [tool("go"), "build", "-trimpath", "-p=1", "-o", str(made), "."]
        subprocess.run(command, cwd=HERE / "go", check=True)
    return made


@contextmanager
def go_server(folder: Path, certificate: Path, *flags: str) -> Iterator[tuple[Program, int]]:
    with leased_port() as port:
        command: list[str | Path] = [
            build_go(folder),
            f"--port={port}",
            f"--certificate={certificate}",
            *flags,
        ]
        with started("go-tls", command, port) as program:
            yield program, port
