"""A bare WSGI app whose answers take a moment, so that a SIGKILL meets its workers at any byte of them.

/sized?size=N&id=I has a Content-Length, /chunked has not. Each execution is announced before a byte is sent.
"""

import json
import time
from urllib.parse import parse_qs

from announce import announce

PIECES = 8


def content_of(size, number):
    """JSON of exactly so many bytes, different for each number."""
    frame = json.dumps({"id": number, "fill": ""})
    return json.dumps({"id": number, "fill": "x" * (size - len(frame))}).encode()


def application(environ, start_response):
    query = parse_qs(environ["QUERY_STRING"])
    size, number = int(query["size"][0]), int(query["id"][0])
    environ["wsgi.input"].read()
    announce("executed", number)
    content = content_of(size, number)
    fields = [("Content-Type", "application/json")]
    if environ["PATH_INFO"] == "/sized":
        fields.append(("Content-Length", str(size)))
    start_response("200 OK", fields)
    step = -(-size // PIECES)
    for start in range(0, size, step):
        yield content[start : start + step]
        time.sleep(0.0005)
