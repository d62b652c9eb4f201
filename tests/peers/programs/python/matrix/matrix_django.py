"""A target program: Django in one file. `matrix_django:wsgi`, or `matrix_django:asgi` with
MATRIX_ASGI set."""

import os

import calls
import django
import shapes
import shapes_async
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="nothing is kept here",  # noqa: S106
    MIDDLEWARE=["matrix_django.middleware"],
    USE_I18N=False,
)
django.setup(set_prefix=False)


def middleware(get_response):  # type: ignore[no-untyped-def]
    """Django adapts it to coroutines by a thread."""

    def handle(request: HttpRequest) -> HttpResponseBase:
        shapes.before_handler(request.path)
        return get_response(request)

    return handle


def ready(_request: HttpRequest) -> HttpResponse:
    return HttpResponse("ready\n", content_type="text/plain")


class AfterResponse(HttpResponse):
    """Makes a call when the response is closed, after it was sent."""

    def __init__(self, client: str, n: int) -> None:
        super().__init__(f"n={n}\n", content_type="text/plain")
        self._later = (client, n)

    def close(self) -> None:
        super().close()
        calls.call(*self._later)


def handle(_request: HttpRequest, shape: str, client: str, n: int) -> HttpResponseBase:
    """A synchronous view; under ASGI it runs in a thread."""
    if shape == "after":
        return AfterResponse(client, n)
    if shape == "sync":
        shape = "one"
    answer = shapes.run(shape, client, n)
    if isinstance(answer, str):
        return HttpResponse(answer, content_type="text/plain")
    return StreamingHttpResponse(answer, content_type="text/plain")


async def handle_async(_request: HttpRequest, shape: str, client: str, n: int) -> HttpResponseBase:
    if shape == "stream":
        return StreamingHttpResponse(shapes_async.stream(client, n), content_type="text/plain")
    return HttpResponse(await shapes_async.run(shape, client, n), content_type="text/plain")


_MATRIX = "m/<str:shape>/<str:client>/<int:n>"
_SYNC = [path(_MATRIX, handle)]
_ASYNC = [
    path("m/sync/<str:client>/<int:n>", handle, {"shape": "sync"}),
    path("m/middleware/<str:client>/<int:n>", handle, {"shape": "middleware"}),
    path(_MATRIX, handle_async),
]
urlpatterns = [path("ready", ready), *(_ASYNC if os.environ.get("MATRIX_ASGI") else _SYNC)]

wsgi = WSGIHandler()
asgi = ASGIHandler()
