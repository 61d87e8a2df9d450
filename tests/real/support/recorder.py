"""An app that answers with what it was sent, and can read PROXY protocol headers itself."""

import contextlib
import ipaddress
import json
import socket
import struct
import threading

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def read_proxy_header(stream):
    """What a PROXY protocol header says, read by the letter of HAProxy's proxy-protocol.txt."""
    start = stream.read(12)
    if start == _SIGNATURE:
        command, family, length = struct.unpack("!BBH", stream.read(4))
        content = stream.read(length)
        if command == 0x20:
            return {"version": 2, "family": "LOCAL"}
        assert command == 0x21, hex(command)
        size, name = {0x11: (4, "TCP4"), 0x21: (16, "TCP6")}[family]
        addresses = [str(ipaddress.ip_address(content[at : at + size])) for at in (0, size)]
        ports = struct.unpack_from("!HH", content, 2 * size)
        return {"version": 2, "family": name, "from": [addresses[0], ports[0]], "to": [addresses[1], ports[1]]}
    line = start + stream.readline(107 - 12)
    assert line.endswith(b"\r\n"), line
    word, family, *rest = line.decode("ascii")[:-2].split(" ")
    assert word == "PROXY", line
    if family == "UNKNOWN":
        return {"version": 1, "family": family}
    source, destination, source_port, destination_port = rest
    told = {"from": [source, int(source_port)], "to": [destination, int(destination_port)]}
    return {"version": 1, "family": family} | told


class Recorder:
    """Each answer is JSON: the request's target and fields, the number of its connection, and the PROXY header."""

    def __init__(self, proxied=False):
        self.proxied, self.seen, self.connections, self.wrong = proxied, [], 0, []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        """Nobody is listened to any more. Open connections go on."""
        # Closing alone would not wake the thread that accepts, and the kernel would go on listening.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True).start()

    def _serve(self, connection, number):
        try:
            with connection, connection.makefile("rb") as stream:
                proxy = read_proxy_header(stream) if self.proxied else None
                self._answer(connection, stream, {"connection": number, "proxy": proxy})
        except (AssertionError, ValueError, KeyError, struct.error) as error:
            self.wrong.append(repr(error))
        except OSError:
            pass

    def _answer(self, connection, stream, seen):
        while request_line := stream.readline():
            fields = []
            while (line := stream.readline()) not in (b"\r\n", b""):
                name, _, value = line.decode("latin-1").partition(":")
                fields.append([name.lower(), value.strip()])
            stream.read(int(dict(fields).get("content-length", 0)))
            record = seen | {"target": request_line.decode().split(" ")[1], "fields": fields}
            self.seen.append(record)
            content = json.dumps(record).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
            connection.sendall(head.encode() + content)
