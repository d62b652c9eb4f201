"""An HTTPS server on Twisted, whose TLS is pyOpenSSL's: the OpenSSL within cryptography, which
is given bytes and no socket. Answers everything with `fine`.
"""

import argparse

from OpenSSL import SSL
from twisted.internet import reactor, ssl
from twisted.web import resource, server


class Service(resource.Resource):
    isLeaf = True  # noqa: N815

    def render_GET(self, request: server.Request) -> bytes:  # noqa: N802
        return b"fine"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--tls", choices=("1.2", "1.3"), default="1.3")
    options = parser.parse_args()
    factory = ssl.DefaultOpenSSLContextFactory(
        options.certificate, options.certificate, sslmethod=SSL.TLS_METHOD
    )
    if options.tls == "1.2":
        factory.getContext().set_max_proto_version(SSL.TLS1_2_VERSION)
    site = server.Site(Service())
    reactor.listenSSL(options.port, site, factory, interface="127.0.0.1")
    reactor.run()


main()
