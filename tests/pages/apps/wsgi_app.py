"""A bare WSGI app on Python's own server: python wsgi_app.py PORT traced|production"""

import cgitb
import sys
import traceback
from wsgiref.simple_server import make_server

MODE = sys.argv[2:]


def total(lines):
    return sum(line["price"] for line in lines)


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/boom" and "production" in MODE:
        total([{}])
    if path == "/group":
        try:
            raise ExceptionGroup("two orders failed", [ValueError("a"), OSError("b")])
        except ExceptionGroup:
            text, kind = traceback.format_exc(), "text/plain"
    else:
        try:
            total([{}])
        except KeyError:
            if path == "/cgitb":
                text, kind = cgitb.html(sys.exc_info()), "text/html"
            else:
                text, kind = traceback.format_exc(), "text/plain"
    start_response("500 Internal Server Error", [("Content-Type", kind)])
    return [text.encode()]


if __name__ == "__main__":
    make_server("127.0.0.1", int(sys.argv[1]), application).serve_forever()
