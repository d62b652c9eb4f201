"""A target program of the standard library alone, for any CPython from 3.7 on: a server with a
thread for each connection. GET /n/<n> calls $CALLED/n/<n>. `plain_threads.py PORT`."""

import http.client
import os
import socketserver
import sys
from http.server import BaseHTTPRequestHandler

CALLED = os.environ["CALLED"].replace("http://", "")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        number = self.path.rpartition("/")[2]
        body = b"ready\n" if self.path == "/ready" else self._call(number)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _call(self, number: str) -> bytes:
        connection = http.client.HTTPConnection(CALLED, timeout=30)
        try:
            connection.request("GET", "/n/" + number)
            return connection.getresponse().read()
        finally:
            connection.close()

    def log_message(self, *_words: object) -> None:
        pass


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
