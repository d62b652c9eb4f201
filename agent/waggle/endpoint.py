"""A small HTTP server of the agent's own: its health, and metrics for whoever pulls them.

    server = LocalServer("127.0.0.1:9464", {"/metrics": page})
    server.start()                 # binds before: a port that is taken is an error at once
    server.close()

For monitoring on a trusted network: no TLS, no authentication, a bounded number of answers at once.
"""

import http.server
import socket
import socketserver
import threading
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from waggle.errors import UsageError
from waggle.pages import Address, Answer, Page

AT_ONCE = 8
TIMEOUT_S = 10.0


class LocalServer:
    """Answers GET and HEAD on one address. Nothing runs before start()."""

    def __init__(self, address: Address, pages: Mapping[str, Page]) -> None:
        """Binds. Raises UsageError when that is not possible."""
        self.pages = dict(pages)
        try:
            self._server = _Server(address, self.pages)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(
                f"{address.said}: cannot listen there ({reason.lower()}); name another address"
            ) from None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="waggle-endpoint", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, address: Address, pages: Mapping[str, Page]) -> None:
        self.pages = pages
        self._places = threading.BoundedSemaphore(AT_ONCE)
        if ":" in address.host or not address.host:
            self.address_family = socket.AF_INET6
        super().__init__((address.host, address.port), _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            with suppress(OSError):  # "every address" means IPv4 too
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Not HTTPServer's: that asks the resolver for our own name.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "waggle", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)  # whoever asks so often asks again
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked has gone: nothing to tell anybody."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    timeout = TIMEOUT_S
    server_version = "waggle"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            known = "\n".join(sorted(self.server.pages))
            body = f"waggle; there is\n{known}\n".encode()
            answer = Answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", [body])
        else:
            answer = page(self.headers.get("accept", ""))
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(sum(map(len, answer.body))))
        self.end_headers()
        if with_body:
            for piece in answer.body:
                self.wfile.write(piece)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """stderr is for the user, not for scrapes."""
