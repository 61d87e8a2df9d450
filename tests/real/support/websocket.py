"""WebSocket clients of the Python package `websockets`."""

import asyncio
from dataclasses import dataclass, field

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from .waiting import DEADLINE


@dataclass
class Session:
    """What one client saw, from its handshake to its end."""

    messages: list = field(default_factory=list)
    code: int | None = None
    reason: str | None = None
    clean: bool = False


def open_client(uri, **options):
    """A connection without a library's own pings or proxies, so that only the test decides."""
    waits = {"ping_interval": None, "open_timeout": DEADLINE, "close_timeout": DEADLINE}
    # No limit to unread messages: a test may look at them long after the server is dead.
    return connect(uri, proxy=None, max_queue=None, **waits, **options)


async def read_to_end(websocket, session=None):
    """Reads messages until the connection ends, however that is."""
    session = session or Session()
    try:
        while True:
            session.messages.append(await websocket.recv())
    except ConnectionClosed as closed:
        # No received Close frame is what browsers report as 1006.
        session.code = closed.rcvd.code if closed.rcvd else 1006
        session.reason = closed.rcvd.reason if closed.rcvd else ""
        session.clean = bool(closed.rcvd and closed.sent)
    return session


async def open_many(uri, count, **options):
    """`count` clients, all open; each says who it is."""
    clients = await asyncio.gather(*(open_client(uri, **options) for _ in range(count)))
    for number, client in enumerate(clients):
        await client.send(str(number))
    return clients


async def all_to_end(clients):
    """Reads every client to its end."""
    return await asyncio.wait_for(asyncio.gather(*(read_to_end(client) for client in clients)), DEADLINE)
