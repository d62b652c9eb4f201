"""An HTTPS server on asyncio or uvloop, by aiohttp, that may call another by aiohttp or httpx.

GET /call/N?url=URL: as threads.py. --client: which library calls.
"""

import argparse
import ssl

import aiohttp
import httpx
from aiohttp import web


def trusting() -> ssl.SSLContext:
    """Takes any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Service:
    def __init__(self, client: str) -> None:
        self.client = client
        self.session: aiohttp.ClientSession | None = None
        self.httpx: httpx.AsyncClient | None = None

    async def call(self, request: web.Request) -> web.Response:
        url = request.query["url"]
        if self.client == "httpx":
            if self.httpx is None:
                self.httpx = httpx.AsyncClient(verify=trusting())
            return web.Response(text=str((await self.httpx.get(url)).status_code))
        if self.session is None:
            self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False))
        async with self.session.get(url) as answer:
            await answer.read()
            return web.Response(text=str(answer.status))

    async def plain(self, request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--client", choices=("aiohttp", "httpx"), default="aiohttp")
    options = parser.parse_args()
    if options.loop == "uvloop":
        import uvloop

        uvloop.install()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate)
    service = Service(options.client)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_get("/call/{number}", service.call)
    app.router.add_route("*", "/{rest:.*}", service.plain)
    web.run_app(app, host="127.0.0.1", port=options.port, ssl_context=context, print=None)


main()
