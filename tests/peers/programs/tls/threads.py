"""An HTTPS server with a thread a connection, on blocking sockets, that may call another.

GET /call/N?url=URL asks URL by http.client, or as --client says, and answers with its status;
everything else is answered at once. POST echoes the length of what it read.
"""

import argparse
import http.client
import ssl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

ALLOW_CLIENT_RENEGOTIATION = 1 << 8  # ssl.h; Python's module has no name for it


def trusting() -> ssl.SSLContext:
    """Takes any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def ask(url: str) -> int:
    parts = urlsplit(url)
    if parts.scheme == "https":
        context = trusting()
        connection = http.client.HTTPSConnection(parts.netloc, context=context)
    else:
        connection = http.client.HTTPConnection(parts.netloc)
    connection.request("GET", parts.path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def ask_by_curl(url: str) -> int:
    """By the libcurl and the OpenSSL in pycurl's wheel."""
    import pycurl

    curl = pycurl.Curl()
    for option, value in (
        (pycurl.URL, url),
        (pycurl.SSL_VERIFYPEER, 0),
        (pycurl.SSL_VERIFYHOST, 0),
        (pycurl.NOSIGNAL, 1),
        (pycurl.WRITEFUNCTION, len),
    ):
        curl.setopt(option, value)
    curl.perform()
    status: int = curl.getinfo(pycurl.RESPONSE_CODE)
    curl.close()
    return status


def ask_by_curl_cffi(url: str) -> int:
    """By the BoringSSL within curl_cffi."""
    import curl_cffi

    return int(curl_cffi.get(url, verify=False).status_code)


def ask_by_pyopenssl(url: str) -> int:
    """By urllib3 on pyOpenSSL: the OpenSSL within cryptography."""
    import urllib3
    from urllib3.contrib.pyopenssl import inject_into_urllib3

    inject_into_urllib3()
    with urllib3.PoolManager(cert_reqs="CERT_NONE", assert_hostname=False) as pool:
        return pool.request("GET", url).status


CLIENTS = {
    "http.client": ask,
    "pycurl": ask_by_curl,
    "curl_cffi": ask_by_curl_cffi,
    "pyopenssl": ask_by_pyopenssl,
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    client = "http.client"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        body = b"fine"
        if parts.path.startswith("/call/"):
            body = str(CLIENTS[self.client](parse_qs(parts.query)["url"][0])).encode()
        elif parts.path.startswith("/large/"):
            body = b"x" * 300_000
        self.answer(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.answer(str(len(body)).encode())

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("set-cookie", "session=canary-set-cookie")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--tls", choices=("1.2", "1.3"), default="1.3")
    parser.add_argument("--client", choices=CLIENTS, default="http.client")
    options = parser.parse_args()
    Handler.client = options.client
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate)
    context.options |= ALLOW_CLIENT_RENEGOTIATION
    if options.tls == "1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    server.serve_forever()


main()
