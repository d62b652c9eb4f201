"""A target program: Tornado. `matrix_tornado.py PORT`."""

import asyncio
import sys

import calls
import shapes_async
from tornado.web import Application, RequestHandler


class Ready(RequestHandler):
    def get(self) -> None:
        self.write("ready\n")


class Matrix(RequestHandler):
    async def prepare(self) -> None:
        """What stands for a middleware here."""
        shape, client, n = self.path_args
        if shape == "middleware":
            await shapes_async.after(client, int(n))

    async def get(self, shape: str, client: str, number: str) -> None:
        n = int(number)
        if shape == "sync":
            self.write(await asyncio.to_thread(calls.call, client, n))
        elif shape == "stream":
            async for piece in shapes_async.stream(client, n):
                self.write(piece)
                await self.flush()
        else:
            self.write(await shapes_async.run(shape, client, n))


async def main() -> None:
    application = Application(
        [("/ready", Ready), (r"/m/([\w-]+)/([\w.-]+)/(\d+)", Matrix)], log_function=lambda _: None
    )
    application.listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
