"""A target program: http.server with a thread for each connection. `matrix_http_server.py PORT`."""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import calls
import shapes


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        parsed = shapes.parse(self.path)
        if parsed is None:
            self._answer("ready\n")
            return
        shapes.before_handler(self.path)
        shape, client, n = parsed
        answer = shapes.run(shape, client, n)
        if isinstance(answer, str):
            self._answer(answer)
        else:
            self._stream(answer)
        if shape == "after":
            self.wfile.flush()
            calls.call(client, n)

    def _answer(self, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, pieces: "shapes.Iterator[str]") -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(f"{len(piece):x}\r\n{piece}\r\n".encode())
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_words: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
