"""TLS by libraries that come in wheels, beside the interpreter's own."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from .agent import started_agent
from .test_tls import COUNT, check_calls, complete, curl
from .tls_programs import make_certificate, python_server
from .toolchain import MATRIX_VENV, ensure_python_matrix


@pytest.mark.slow
def test_openssl_within_a_wheel(tmp_path: Path) -> None:
    """A server on the interpreter's OpenSSL calls by pycurl, which brings another: both are seen,
    and each call is the child of its request, and the parent of what it calls."""
    ensure_python_matrix()
    python = MATRIX_VENV / "bin" / "python"
    certificate = make_certificate(tmp_path)
    with ExitStack() as stack:
        (caller, port), (called, other) = (
            stack.enter_context(
                python_server("threads.py", certificate, f"--client={client}", python=python)
            )
            for client in ("pycurl", "http.client")
        )
        url = f"https://localhost:{port}/call/{{}}?url=https://localhost:{other}/n/"
        curl(url.format(0) + "0", number=1)  # pycurl is imported, and its library loaded
        assert "pycurl.libs/libssl" in Path(f"/proc/{caller.pid}/maps").read_text()
        agent = stack.enter_context(started_agent("--tls=auto", pids=[caller.pid, called.pid]))
        for n in range(1, COUNT + 1):
            curl(url.format(n) + str(n), number=1)
        agent.wait_for(lambda spans: len(spans) >= 3 * COUNT)
        spans = complete(agent)
    check_calls(spans, caller, called, "thread")
