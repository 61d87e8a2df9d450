"""Django: python django_app.py PORT debug|production [gzip], or on a WSGI server with MODE=..."""

import os
import sys
from wsgiref.simple_server import WSGIRequestHandler, make_server

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

MODE = os.environ.get("MODE", "").split() or sys.argv[2:]

settings.configure(
    DEBUG="debug" in MODE,
    SECRET_KEY="not-a-secret",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.gzip.GZipMiddleware"] if "gzip" in MODE else [],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
    LOGGING_CONFIG=None,
)
django.setup()


class Order:
    def __init__(self, lines):
        self.lines = lines

    def total(self):
        return sum(line["price"] for line in self.lines)


def boom(request):
    order = Order([{"price": 12}, {}])
    return HttpResponse(f"{order.total()}")


def chained(request):
    try:
        Order([{}]).total()
    except KeyError as error:
        raise RuntimeError("order 7 has no total") from error


def template(request):
    from django.template import engines

    return HttpResponse(engines["django"].from_string("{% for line in order %}{% endif %}").render({}))


def streamed(request):
    """A page that an app makes itself and sends in pieces: chunked."""
    import traceback

    try:
        Order([{}]).total()
    except KeyError:
        lines = traceback.format_exc().splitlines(keepends=True)
    return StreamingHttpResponse(lines, status=500, content_type="text/plain")


def deliberate(request):
    return JsonResponse({"error": "out_of_stock", "article": 7, "note": "x" * 400}, status=500)


def ok(request):
    return HttpResponse("ok")


urlpatterns = [
    path("boom", boom),
    path("chained", chained),
    path("template", template),
    path("streamed", streamed),
    path("deliberate", deliberate),
    path("ok", ok),
]
application = WSGIHandler()


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


if __name__ == "__main__":
    make_server("127.0.0.1", int(sys.argv[1]), application, handler_class=Quiet).serve_forever()
