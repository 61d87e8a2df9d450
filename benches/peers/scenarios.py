"""What run.py measures: a request, how it is sent, and the app behind the proxy."""

from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True)
class Scenario:
    """One table of the report."""

    name: str
    title: str
    # Requests a second for the percentiles: modest, far below what the slowest proxy can do.
    rate: int
    # What stands behind the proxy: a location of the origin, `upload` (an app that reads all content before it
    # answers), `refuse` (nobody listens) or `crash` (the connection is closed after the request has been read).
    app: str = "small"
    content: int = 0
    tls: bool = False
    http2: bool = False
    # A connection of the client's for each request.
    close: bool = False
    # What HTTP/1.1 requests have beside Host.
    fields: tuple = ()

    @property
    def fails(self):
        """Whether every answer must be a 5xx, instead of a 2xx."""
        return self.app in ("refuse", "crash")

    @property
    def path(self):
        return f"/{self.app}"


# What Firefox sends when a link of a page is followed.
BROWSER = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language: en-US,en;q=0.5",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Referer: https://shop.example/catalogue?page=3",
    "Cookie: session=8f14e45fceea167a5a36dedd4bea2543; theme=dark",
    "Upgrade-Insecure-Requests: 1",
    "Sec-Fetch-Dest: document",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Site: same-origin",
    "Priority: u=0, i",
)

ALL = [
    Scenario("small", "GET of 22 bytes", 1000),
    Scenario("browser", "GET of 22 bytes, asked for by a browser", 1000, fields=BROWSER),
    Scenario("16k", "GET of 16 KiB", 1000, app="16k"),
    Scenario("1m", "GET of 1 MiB", 50, app="1m"),
    Scenario("post", "POST of 16 KiB", 1000, app="upload", content=16 * KIB),
    Scenario("close", "a connection per request, GET of 22 bytes", 500, close=True),
    Scenario("tls", "TLS, HTTP/1.1, GET of 22 bytes", 1000, tls=True),
    Scenario("tls-h2", "TLS, HTTP/2, GET of 22 bytes", 1000, tls=True, http2=True),
    Scenario("refused", "a failing upstream: every connection refused", 500, app="refuse"),
    Scenario("crash", "a failing upstream: crashes after reading each request", 500, app="crash"),
]
# What the origin answers at the path of an app.
SIZES = {"16k": 16 * KIB, "1m": 1024 * KIB}
