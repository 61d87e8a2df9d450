"""An app that fails when it is asked to: what stands behind seawall in compose.yaml. Python's own library is enough.

    python app.py [PORT]
"""

import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>An app behind seawall</title>
<h1>It works</h1>
<p>What shall fail?
<ul>
<li><a href="/crash">the process, before it answers</a>
<li><a href="/cut">the process, in the middle of an answer</a>
<li><a href="/hang">nothing, but it takes a minute</a>
<li><a href="/trace">the code, with a stack trace</a>
<li><a href="/database">the database behind it</a>
</ul>
<p>Then look at <a href="http://localhost:3000/">Grafana</a> and at
<a href="http://localhost:9900/">seawall's own page</a>; that one asks for the content of <code>admin.token</code>.
</html>
"""


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):  # noqa: N802
        story = {"/": self.page, "/healthz": self.healthy, "/crash": self.crash, "/cut": self.cut, "/hang": self.hang}
        story |= {"/trace": self.trace, "/database": self.database}
        story.get(self.path, self.nothing)()

    def page(self):
        self.answer(200, "text/html; charset=utf-8", PAGE)

    def healthy(self):
        self.answer(200, "text/plain", "well\n")

    def nothing(self):
        self.answer(404, "text/plain", "There is no such page.\n")

    def crash(self):
        # As a segmentation fault would: nothing is closed in order. Compose starts it again.
        os._exit(139)

    def cut(self):
        self.begin(200, "application/json", 1000)
        self.wfile.write(b'{"items": [')
        os._exit(139)

    def hang(self):
        time.sleep(60)
        self.healthy()

    def trace(self):
        trace = 'Traceback (most recent call last):\n  File "/srv/app.py", line 7, in cart\nKeyError: \'secret\'\n'
        self.answer(500, "text/plain", trace)

    def database(self):
        self.answer(503, "text/plain", "psycopg.OperationalError: connection to server at 10.0.0.9 failed\n")

    def answer(self, status, kind, text):
        content = text.encode()
        self.begin(status, kind, len(content))
        self.wfile.write(content)

    def begin(self, status, kind, length):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.flush()


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    ThreadingHTTPServer(("", port), App).serve_forever()
