"""A target program that logs to journald and syslog, and journald's end of it.

Usage: journal_logs.py PORT RECEIVED. Its own /run/systemd/journal must be writable (a mount
namespace of its own). What comes out of the sockets is appended to RECEIVED, in hex, by lines.
"""

import socket
import sys
import syslog
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

JOURNAL = "/run/systemd/journal/socket"
SYSLOG = "/dev/log"


def receive(path: str, received: Path) -> None:
    end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    Path(path).unlink(missing_ok=True)
    end.bind(path)

    def work() -> None:
        with received.open("a", buffering=1) as file:
            while True:
                file.write(end.recv(65536).hex() + "\n")

    threading.Thread(target=work, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        n = self.path.rpartition("/")[2]
        if self.path.startswith("/journal"):
            message = f"request={n}\nof two lines".encode()
            size = len(message).to_bytes(8, "little")
            fields = [b"PRIORITY=4\nCODE_LINE=31\nMESSAGE\n", size, message, b"\n"]
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendmsg(fields, [], 0, JOURNAL)
        elif self.path.startswith("/syslog"):
            syslog.syslog(syslog.LOG_ERR, f"request={n}")
        body = f"n={n}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


def main() -> None:
    receive(JOURNAL, Path(sys.argv[2]))
    receive(SYSLOG, Path(sys.argv[2]))
    syslog.openlog("shop")
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    server.serve_forever()


main()
