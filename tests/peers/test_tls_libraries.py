"""TLS by libraries of other kinds and versions than the system's: OpenSSL 1.1 and 4.0, BoringSSL;
some of them parts of other files."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .agent import started_agent
from .harness import ensure_built
from .test_tls import (
    COUNT,
    SYSTEM_PYTHON,
    VERSIONS,
    check_calls,
    check_joined,
    check_node,
    client_of_tls,
    complete,
    curl,
    of,
    of_kind,
    paths,
    seen_of_native,
)
from .tls_programs import make_certificate, nginx_server, python_server
from .toolchain import ensure_node_16, ensure_tls_wheels, openssl_1_1


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ensure_built()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("tls", VERSIONS)
@pytest.mark.parametrize("client", ["curl_cffi", "pyopenssl"])
def test_library_within_another_file(certificate: Path, client: str, tls: str) -> None:
    """A server on the interpreter's OpenSSL calls by a library that is a part of another file and
    not exported: each call is the child of its request, and the parent of what it calls."""
    with ExitStack() as stack:
        (caller, port), (called, other) = (
            stack.enter_context(
                python_server("threads.py", certificate, *flags, python=ensure_tls_wheels())
            )
            for flags in ((f"--client={client}",), (f"--tls={tls}",))
        )
        url = f"https://localhost:{port}/call/{{}}?url=https://localhost:{other}/n/"
        curl(url.format(0) + "0", number=1)  # what calls is imported, and its library loaded
        agent = stack.enter_context(started_agent("--tls=auto", pids=[caller.pid, called.pid]))
        for n in range(1, COUNT + 1):
            curl(url.format(n) + str(n), number=1)
        agent.wait_for(lambda spans: len(spans) >= 3 * COUNT)
        spans = complete(agent)
    check_calls(spans, caller, called, "thread")


@pytest.mark.parametrize("tls", VERSIONS)
def test_twisted(certificate: Path, tls: str) -> None:
    """A server on Twisted and cryptography's OpenSSL, by BIOs in memory: every request has its
    span, the child of its client's."""
    with ExitStack() as stack:
        server, port = stack.enter_context(
            python_server("evented.py", certificate, f"--tls={tls}", python=ensure_tls_wheels())
        )
        command = client_of_tls(f"https://localhost:{port}/n/[1-{COUNT}]")
        agent = stack.enter_context(started_agent("--tls=auto", pids=[server.pid], command=command))
        agent.wait()
        spans = agent.spans()
    served = of(spans, "server", server.pid)
    check_joined(served, of_kind(spans, "client"), paths("/n"))
    for span in served.values():
        assert span.attributes["tls.protocol.version"] == tls


@pytest.mark.parametrize(
    ("way", "tls"),
    [("peeked", "1.3"), pytest.param("renegotiated", "1.2", marks=pytest.mark.slow)],
)
def test_openssl_1_1(certificate: Path, way: str, tls: str) -> None:
    """A client on the OpenSSL 1.1 of a wheel: each request has one span at both ends, joined."""
    with ExitStack() as stack:
        server, port = stack.enter_context(
            python_server("threads.py", certificate, f"--tls={tls}", python=SYSTEM_PYTHON)
        )
        spans = seen_of_native(stack, server, port, way, 10, library=openssl_1_1())
    client = next(span.pid for span in spans if span.kind == "client")
    check_joined(of(spans, "server", server.pid), of(spans, "client", client), paths("/n", 5))


def test_node_with_openssl_1_1(certificate: Path) -> None:
    """Node.js 16 serves and calls: every request and every call has its span, and they are
    joined."""
    check_node(certificate, ensure_node_16())


def test_kernel_tls_that_is_not_there(certificate: Path, tmp_path: Path) -> None:
    """A server that is told to let the kernel encrypt, and to send files that way, encrypts itself
    where the kernel cannot, and is seen as ever."""
    if "tls" in Path("/proc/sys/net/ipv4/tcp_available_ulp").read_text().split():
        pytest.skip("this kernel encrypts")
    listen = "ssl; ssl_conf_command Options KTLS; sendfile on"
    with ExitStack() as stack:
        files = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files.chmod(0o755)  # nginx gives its rights up
        (files / "n").mkdir()
        for n in range(1, COUNT + 1):
            (files / "n" / str(n)).write_bytes(b"x" * 100_000)
        server, port = stack.enter_context(
            nginx_server(tmp_path, certificate, f"root {files};", listen=listen)
        )
        command = client_of_tls(f"https://localhost:{port}/n/[1-{COUNT}]")
        agent = stack.enter_context(started_agent("--tls=auto", pids=[server.pid], command=command))
        agent.wait()
        spans = agent.spans()
    served = of_kind(spans, "server")
    assert len(spans) == 2 * COUNT
    check_joined(served, of_kind(spans, "client"), paths("/n"))
    for span in served.values():
        assert span.attributes["http.response.body.size"] == 100_000
