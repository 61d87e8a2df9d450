"""The clients of the soak test: each of many tasks does one thing after the other, by its own seeded generator."""

import asyncio
import hashlib
import itertools
import random

import h2.config
import h2.connection
import h2.events
import tally as ledger
import upstream
import wire

# A client that has got no answer for so long has found a hang.
PATIENCE = 30


class Clients:
    """The tasks, and what they share."""

    def __init__(self, port, origin, tally, seed):
        self.port, self.origin, self.tally, self.seed = port, origin, tally, seed
        self.numbers = itertools.count(1)
        self.over = False
        self.doing = {}

    async def run(self, tasks, seconds, part):
        self.over = False
        running = [asyncio.ensure_future(self._task(f"{part} {number}")) for number in range(tasks)]
        done, _ = await asyncio.wait(running, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        self.over = True
        done, pending = await asyncio.wait(running, timeout=60)
        for task in pending:
            self.tally.wrong(f"still waits: {self.doing.get(task)}")
            task.cancel()
        for task in done:
            task.result()

    async def _task(self, number):
        task = Task(self, random.Random(f"{self.seed} {number}"))
        names, weights = zip(*WEIGHTS.items(), strict=True)
        while not self.over:
            name = task.random.choices(names, weights)[0]
            self.doing[asyncio.current_task()] = name
            self.tally.asked[name] += 1
            try:
                async with asyncio.timeout(PATIENCE):
                    await getattr(task, name)()
            except (*wire.ENDS, h2.exceptions.ProtocolError, ValueError) as error:
                self.tally.wrong(f"{name}: {type(error).__name__} {error}")
                await task.hang_up()
        await task.hang_up()


class Task:
    """One client: what it does are its public methods; `kept` is its connection, while that lasts."""

    def __init__(self, clients, randomness):
        self.clients, self.tally, self.random = clients, clients.tally, randomness
        self.kept = None

    # -- connections and plans

    async def connection(self):
        if self.kept is None:
            self.kept = await wire.connect(self.clients.port)
        return self.kept

    async def hang_up(self):
        if self.kept is not None:
            self.kept.close()
            self.kept = None

    def plan(self, **settings):
        plan = upstream.Plan(next(self.clients.numbers), **settings)
        self.clients.origin.plans[plan.number] = plan
        return plan

    def done(self, *plans):
        for plan in plans:
            del self.clients.origin.plans[plan.number]

    def size(self):
        return self.random.choice([0, 22, 1000, 20_000, 65_536, 65_537, 300_000])

    def healthy(self):
        framing = self.random.choice(["length", "chunked", "close"])
        return self.plan(framing=framing, size=self.size(), pieces=self.random.randint(1, 4))

    def head(self, method, path, *fields):
        return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: soak.example", *fields, "", ""]).encode()

    async def ask(self, plan, method="GET", content=b"", fields=(), path=None, slow=None, stream=None):
        """A whole request and its answer, on the kept connection or on `stream`."""
        on = stream or await self.connection()
        await on.send(self.head(method, path or f"/h/{plan.number}", *fields) + content)
        answer = await wire.read_answer(on.reader, slow)
        if not stream and (not answer.complete or answer.fields.get("connection") == "close"):
            await self.hang_up()
        return answer

    # -- healthy

    async def get(self):
        plan = self.healthy()
        self.tally.answered("GET", plan, await self.ask(plan))
        self.done(plan)

    async def get_and_close(self):
        plan = self.healthy()
        await self.hang_up()
        answer = await self.ask(plan, fields=["Connection: close"])
        self.tally.answered("GET, close", plan, answer)
        self.done(plan)

    async def get_large(self):
        plan = self.plan(framing=self.random.choice(["length", "chunked"]), size=2_000_000, pieces=8)
        self.tally.answered("GET, large", plan, await self.ask(plan))
        self.done(plan)

    async def get_from_a_slow_upstream(self):
        plan = self.plan(framing="chunked", size=5000, pieces=5, pause=0.05)
        self.tally.injected["upstream: slow"] += 1
        self.tally.answered("GET, slow", plan, await self.ask(plan))
        self.done(plan)

    async def get_an_error_of_the_app(self):
        plan = self.plan(own_error=True, size=40)
        self.tally.answered("GET, the app's own 500", plan, await self.ask(plan))
        self.done(plan)

    async def post(self):
        plan = self.healthy()
        content = wire.content(plan.number, self.size())
        if self.random.random() < 0.5:
            fields, sent = [f"Content-Length: {len(content)}"], content
        else:
            step = self.random.choice([700, 9000, 70_000])
            pieces = [content[at : at + step] for at in range(0, len(content), step)]
            chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
            fields, sent = ["Transfer-Encoding: chunked"], b"".join([*chunks, b"0\r\n\r\n"])
        answer = await self.ask(plan, "POST", sent, fields)
        self.tally.answered("POST", plan, answer)
        if not plan.whole or plan.digest != hashlib.sha256(content).hexdigest():
            self.tally.wrong(f"POST {plan.number}: the upstream got other content")
        self.tally.bytes_checked += len(content)
        self.done(plan)

    async def events(self):
        pieces = self.random.randint(2, 10)
        plan = self.plan(framing="chunked", size=pieces, pieces=pieces, pause=0.02, events=True)
        self.tally.answered("SSE", plan, await self.ask(plan, fields=["Accept: text/event-stream"]))
        self.done(plan)

    async def pipelined(self):
        plans = [self.plan(size=self.random.choice([22, 3000])) for _ in range(self.random.randint(2, 5))]
        stream = await wire.connect(self.clients.port)
        await stream.send(b"".join(self.head("GET", f"/h/{plan.number}") for plan in plans))
        for plan in plans:
            self.tally.answered("GET, pipelined", plan, await wire.read_answer(stream.reader))
        stream.close()
        self.done(*plans)

    # -- faults of upstreams

    async def from_a_failing_upstream(self):
        fault = self.random.choice(list(upstream.FAULTS))
        framing = "chunked" if fault == "a bad chunk" else self.random.choice(["length", "chunked"])
        size = self.random.choice([1000, 40_000, 200_000])
        plan = self.plan(fault=fault, framing=framing, size=size, pieces=self.random.randint(1, 3))
        post = self.random.random() < 0.5
        method, fields = ("POST", ["Content-Length: 10"]) if post else ("GET", [])
        self.tally.answered(method, plan, await self.ask(plan, method, b"x" * 10 if post else b"", fields))
        self.done(plan)

    async def events_cut_off(self):
        fault = self.random.choice(["crash in the content", "reset in the content", "stall in the content"])
        plan = self.plan(fault=fault, framing="chunked", size=10, pieces=3, pause=0.02, events=True)
        self.tally.answered("SSE", plan, await self.ask(plan))
        self.done(plan)

    async def from_a_dead_upstream(self):
        plan = self.plan()
        self.tally.injected["upstream: connection refused"] += 1
        answer = await self.ask(plan, path=f"/down/{plan.number}")
        self.tally.answered("GET, nobody listens", plan, answer, {"connection_refused"})
        self.done(plan)

    async def from_the_app(self):
        """A real app server, SIGKILLed now and then."""
        sized = "&sized=1" if self.random.random() < 0.5 else ""
        plan = self.plan(size=self.random.choice([100, 5000, 150_000]))
        path = f"/app/{plan.number}?size={plan.size}{sized}"
        method, fields = ("GET", []) if self.random.random() < 0.7 else ("POST", ["Content-Length: 0"])
        answer = await self.ask(plan, method, fields=fields, path=path)
        self.tally.answered("the app", plan, answer, ledger.KILLED, may_be_cut=True)
        self.done(plan)

    # -- faults of clients

    async def leaves_in_the_head(self):
        stream = await wire.connect(self.clients.port)
        await stream.send(b"GET /h/0 HTTP/1.1\r\nHost: soak.exam")
        self.end(stream)
        self.tally.injected["client: left in the head"] += 1

    async def leaves_in_content(self):
        plan = self.plan(size=100)
        stream = await wire.connect(self.clients.port)
        await stream.send(self.head("POST", f"/h/{plan.number}", "Content-Length: 100000") + bytes(50_000))
        await plan.seen.wait()
        self.end(stream)
        self.tally.gone("left in content")
        await asyncio.sleep(0.05)
        if plan.whole:
            self.tally.wrong(f"POST {plan.number}: cut content looked whole to the upstream")
        self.done(plan)

    async def leaves_before_the_answer(self):
        plan = self.plan(fault="hang before the head")
        stream = await wire.connect(self.clients.port)
        await stream.send(self.head("GET", f"/h/{plan.number}"))
        await plan.seen.wait()
        self.end(stream)
        self.tally.gone("left before the answer")
        self.done(plan)

    async def leaves_in_the_answer(self):
        plan = self.plan(size=20_000_000, framing=self.random.choice(["length", "chunked"]), pieces=100)
        stream = await wire.connect(self.clients.port, receive_buffer=16384)
        await stream.send(self.head("GET", f"/h/{plan.number}"))
        await stream.reader.readexactly(1000)
        self.end(stream)
        self.tally.gone("left in the answer")
        self.done(plan)

    def end(self, stream):
        """A FIN or a RST."""
        if self.random.random() < 0.5:
            stream.close()
        else:
            stream.reset()

    async def half_closes(self):
        plan = self.plan(size=self.random.choice([22, 300_000]), pieces=3, pause=0.02, framing="chunked")
        stream = await wire.connect(self.clients.port)
        await stream.send(self.head("GET", f"/h/{plan.number}"))
        await plan.seen.wait()
        stream.writer.write_eof()
        # A client that will not send any more counts as gone; an answer that was there already is whole.
        try:
            answer = await wire.read_answer(stream.reader)
        except wire.ENDS:
            answer = None
        if answer and answer.complete:
            self.tally.injected["client: half close"] += 1
            self.tally.answered("GET, half close", plan, answer)
        else:
            self.tally.gone("half close")
        stream.close()
        self.done(plan)

    async def reads_slowly(self):
        plan = self.plan(size=600_000)
        stream = await wire.connect(self.clients.port, receive_buffer=8192)

        async def pause():
            await asyncio.sleep(0.01)

        self.tally.injected["client: reads slowly"] += 1
        answer = await self.ask(plan, slow=pause, stream=stream)
        self.tally.answered("GET, slow reader", plan, answer)
        stream.close()
        self.done(plan)

    async def sends_slowly(self):
        plan = self.plan(size=100)
        stream = await wire.connect(self.clients.port)
        for byte in self.head("GET", f"/h/{plan.number}"):
            await stream.send(bytes([byte]))
            await asyncio.sleep(0.005)
        self.tally.injected["client: sends slowly"] += 1
        self.tally.answered("GET, slow sender", plan, await wire.read_answer(stream.reader))
        stream.close()
        self.done(plan)

    async def speaks_nonsense(self):
        stream = await wire.connect(self.clients.port)
        garbage = [b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"hello\r\n\r\n"]
        await stream.send(self.random.choice(garbage))
        answer = await wire.read_answer(stream.reader)
        if answer.status != 400:
            self.tally.wrong(f"nonsense was answered {answer.status}")
        self.tally.whole(answer)
        self.tally.refused += 1
        self.tally.injected["client: not HTTP"] += 1
        self.tally.outcomes["400"] += 1
        stream.close()

    async def sends_a_bad_chunk(self):
        plan = self.plan()
        stream = await wire.connect(self.clients.port)
        await stream.send(self.head("POST", f"/h/{plan.number}", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n")
        await plan.seen.wait()
        await stream.send(b"zz\r\n")
        answer = await wire.read_answer(stream.reader)
        self.tally.whole(answer)
        if answer.status != 400 or not answer.complete or plan.whole:
            self.tally.wrong(f"a bad chunk was answered {answer.status}; whole to the upstream: {plan.whole}")
        self.tally.injected["client: bad chunk"] += 1
        self.tally.outcomes["400"] += 1
        stream.close()
        self.done(plan)

    # -- HTTP/2

    async def http2(self):
        await Http2(self).run()

    # -- WebSockets

    async def shake_hands(self, path):
        stream = await wire.connect(self.clients.port)
        await stream.send(wire.handshake(path))
        start, fields = await wire.read_head(stream.reader)
        if start.split(" ")[1] == "101":
            return stream, None
        answer = wire.Answer(int(start.split(" ")[1]), fields)
        content = []
        await wire.read_content(stream.reader, fields, content.append)
        answer.content, answer.complete = b"".join(content), True
        stream.close()
        return None, answer

    async def to_the_close(self, stream):
        """Reads the messages up to the Close, answers it; (messages, code)."""
        messages, parts = [], []
        while True:
            fin, opcode, payload = await wire.read_frame(stream.reader)
            if opcode == wire.CLOSE:
                await stream.send(wire.frame(wire.CLOSE, payload[:2], masked=True))
                stream.close()
                return messages, int.from_bytes(payload[:2])
            if opcode == wire.PING:
                await stream.send(wire.frame(wire.PONG, payload, masked=True))
            elif opcode != wire.PONG:
                parts.append(payload)
                if fin:
                    messages.append(b"".join(parts))
                    parts = []

    async def websocket_echo(self, path="/h", expected=(1000,), kinds=()):
        plan = self.plan(websocket="echo")
        stream, refusal = await self.shake_hands(f"{path}/{plan.number}")
        if refusal:
            self.tally.handshake_failed("WebSocket", refusal, kinds)
            return self.done(plan)
        count = self.random.randint(1, 8)
        sent = [wire.content(number, self.random.choice([0, 10, 1000, 70_000])) for number in range(count)]
        try:
            for message in sent:
                await stream.send(wire.frame(wire.BINARY, message, masked=True))
                await asyncio.sleep(self.random.choice([0, 0.05]))
            await stream.send(wire.frame(wire.CLOSE, b"\x03\xe8", masked=True))
        except ConnectionError:
            # What came before is still to be read.
            pass
        messages, code = await self.to_the_close(stream)
        # uvicorn answers a Close before it has echoed what came ahead of it.
        all_due = code == 1000 and path == "/h"
        if messages != (sent if all_due else sent[: len(messages)]):
            self.tally.wrong(f"WebSocket {plan.number}: {len(messages)} messages that are not those sent")
        self.tally.bytes_checked += sum(map(len, messages))
        self.tally.closed(f"WebSocket {plan.number}, echo", code, expected)
        if code == 1011:
            self.tally.websocket_faults["the app was killed"] += 1
        self.done(plan)

    async def websocket_with_the_app(self):
        await self.websocket_echo("/app", (1000, 1011), ledger.KILLED)

    async def websocket_stream(self):
        plan = self.plan(websocket="stream", messages=self.random.randint(0, 30), size=self.size())
        stream, _ = await self.shake_hands(f"/h/{plan.number}")
        await self.streamed(stream, plan, 1000)

    async def streamed(self, stream, plan, code, lost=False):
        messages, seen = await self.to_the_close(stream)
        expected = [wire.content(number, plan.size) for number in range(plan.messages)]
        if messages != (expected[: len(messages)] if lost else expected):
            self.tally.wrong(f"WebSocket {plan.number} ({plan.fault}): {len(messages)} of {plan.messages} messages")
        self.tally.bytes_checked += sum(map(len, messages))
        self.tally.closed(f"WebSocket {plan.number} ({plan.fault})", seen, (code,))
        self.done(plan)

    async def websocket_idle(self):
        plan = self.plan(websocket="idle")
        stream, _ = await self.shake_hands(f"/h/{plan.number}")
        await asyncio.sleep(self.random.uniform(1, 3))
        await stream.send(wire.frame(wire.CLOSE, b"\x03\xe8", masked=True))
        await self.streamed(stream, plan, 1000)

    async def websocket_of_a_failing_upstream(self):
        fault = self.random.choice(list(upstream.WEBSOCKET_FAULTS))
        plan = self.plan(websocket="stream", fault=fault, messages=self.random.randint(0, 10), size=5000)
        stream, _ = await self.shake_hands(f"/h/{plan.number}")
        self.tally.injected[f"upstream, WebSocket: {fault}"] += 1
        await self.streamed(stream, plan, 1011, lost=fault == "reset")

    async def websocket_that_is_refused(self):
        fault = self.random.choice(list(upstream.HANDSHAKE_FAULTS))
        plan = self.plan(websocket="stream", fault=fault)
        _, answer = await self.shake_hands(f"/h/{plan.number}")
        self.tally.injected[f"upstream, handshake: {fault}"] += 1
        self.tally.handshake_failed(f"handshake ({fault})", answer, upstream.HANDSHAKE_FAULTS[fault])
        self.done(plan)

    async def websocket_cut_off(self):
        plan = self.plan(websocket="idle")
        stream, _ = await self.shake_hands(f"/h/{plan.number}")
        where = self.random.choice(["between messages", "in a frame"])
        whole = wire.frame(wire.BINARY, bytes(5000), masked=True)
        await stream.send(whole if where == "between messages" else whole[:2500])
        self.end(stream)
        self.tally.injected[f"client, WebSocket: cut off {where}"] += 1
        self.tally.closed("cut off", 1006, (1006,))
        self.done(plan)

    async def websocket_bad_frame(self):
        plan = self.plan(websocket="idle")
        stream, _ = await self.shake_hands(f"/h/{plan.number}")
        await stream.send(self.random.choice([wire.frame(wire.TEXT, b"not masked"), wire.frame(3, b"?", masked=True)]))
        self.tally.injected["client, WebSocket: a bad frame"] += 1
        await self.streamed(stream, plan, 1002)


class Http2:
    """One HTTP/2 connection (prior knowledge) with some streams at once."""

    def __init__(self, task):
        self.task, self.tally = task, task.tally
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.plans, self.answers, self.posts, self.resets = {}, {}, {}, set()

    async def run(self):
        randomness = self.task.random
        self.stream = await wire.connect(self.task.clients.port)
        self.connection.initiate_connection()
        self.connection.increment_flow_control_window(1 << 24)
        for _ in range(randomness.randint(1, 6)):
            self._open(randomness)
        await self._flush()
        if randomness.random() < 0.1:
            number, leaving = await self._hanging()
            self.connection.reset_stream(number, error_code=8)
            await self._flush()
            self.tally.gone("left in HTTP/2 (RST_STREAM)")
            self.task.done(leaving)
        while self.answers:
            await self._receive()
        if randomness.random() < 0.1:
            _, leaving = await self._hanging()
            self.tally.gone("left in HTTP/2 (connection)")
            self.task.done(leaving)
        self.stream.close()

    async def _hanging(self):
        """A request that is on its way and will not be answered."""
        plan = self.task.plan(fault="hang before the head")
        number = self._request(plan, "GET", True)
        await self._flush()
        await plan.seen.wait()
        return number, plan

    def _request(self, plan, method, end):
        number = self.connection.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "http"), (":authority", "soak.example"), (":path", f"/h/{plan.number}")]
        self.connection.send_headers(number, fields, end_stream=end)
        return number

    def _open(self, randomness):
        if randomness.random() < 0.3:
            fault = randomness.choice(list(upstream.FAULTS))
            plan = self.task.plan(fault=fault, framing="chunked", size=randomness.choice([1000, 200_000]), pieces=2)
        else:
            plan = self.task.healthy()
        post = randomness.random() < 0.4
        number = self._request(plan, "POST" if post else "GET", not post)
        if post:
            # Within the first window of the stream.
            self.connection.send_data(number, wire.content(plan.number, 9000), end_stream=True)
        self.plans[number], self.answers[number] = plan, wire.Answer(0, {})

    async def _flush(self):
        await self.stream.send(self.connection.data_to_send())

    async def _receive(self):
        data = await self.stream.reader.read(65536)
        if not data:
            raise ConnectionResetError("the HTTP/2 connection ended")
        for event in self.connection.receive_data(data):
            number = getattr(event, "stream_id", None)
            answer = self.answers.get(number)
            if isinstance(event, h2.events.ConnectionTerminated):
                raise ConnectionResetError(f"GOAWAY {event.error_code}")
            if answer is None:
                continue
            if isinstance(event, h2.events.ResponseReceived):
                answer.fields = dict(event.headers)
                answer.status = int(answer.fields[":status"])
            elif isinstance(event, h2.events.DataReceived):
                answer.content += event.data
                self.connection.acknowledge_received_data(event.flow_controlled_length, number)
            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                answer.complete = isinstance(event, h2.events.StreamEnded)
                self._ended(number, answer)
        await self._flush()

    def _ended(self, number, answer):
        plan = self.plans.pop(number)
        del self.answers[number]
        self.tally.answered("HTTP/2", plan, answer)
        self.task.done(plan)


WEIGHTS = {
    "get": 24,
    "get_and_close": 5,
    "get_large": 2,
    "get_from_a_slow_upstream": 2,
    "get_an_error_of_the_app": 2,
    "post": 12,
    "events": 3,
    "pipelined": 3,
    "from_a_failing_upstream": 16,
    "events_cut_off": 2,
    "from_a_dead_upstream": 2,
    "from_the_app": 12,
    "leaves_in_the_head": 2,
    "leaves_in_content": 2,
    "leaves_before_the_answer": 2,
    "leaves_in_the_answer": 1,
    "half_closes": 2,
    "reads_slowly": 1,
    "sends_slowly": 1,
    "speaks_nonsense": 2,
    "sends_a_bad_chunk": 2,
    "http2": 8,
    "websocket_echo": 5,
    "websocket_with_the_app": 5,
    "websocket_stream": 3,
    "websocket_idle": 1,
    "websocket_of_a_failing_upstream": 4,
    "websocket_that_is_refused": 2,
    "websocket_cut_off": 2,
    "websocket_bad_frame": 2,
}
