"""An app whose failures are full of markup, for whoever shows them: python hostile_app.py PORT"""

import http.server
import sys

MARKUP = "</pre><img src=x onerror=\"window.hurt='evidence'\"><script>window.hurt='script'</script>"
TRACE = f"""Traceback (most recent call last):
  File "/srv/app/cart.py", line 12, in cart
    raise RuntimeError("{MARKUP}")
RuntimeError: {MARKUP}
"""


class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        status, text = (200, "ok") if self.path == "/ok" else (500, TRACE)
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), App).serve_forever()
