"""A server of the Python package `websockets`: ws_server.py PORT HOST…"""

import asyncio
import sys
from http import HTTPStatus

from announce import announce
from websockets.asyncio.server import serve

MESSAGES = 20
# Longer than a proxy may want to forward in one piece.
LARGE = 150_000


async def session(websocket):
    who = await websocket.recv()
    for number in range(MESSAGES):
        text = f"{who}:{number}"
        if number == MESSAGES // 2:
            text = text.ljust(LARGE, ".")
        await websocket.send(text if number % 2 else text.encode())
    # `send` may leave bytes in this process, where a SIGKILL would destroy them: they were not sent.
    while websocket.transport.get_write_buffer_size():
        await asyncio.sleep(0.005)
    announce("sent", who)
    async for message in websocket:
        await websocket.send(message)


def plain_http(connection, request):
    if request.headers.get("Upgrade") is None:
        return connection.respond(HTTPStatus.OK, "ok")
    return None


async def main():
    port, *hosts = sys.argv[1:]
    async with serve(session, hosts, int(port), process_request=plain_http, backlog=512):
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
