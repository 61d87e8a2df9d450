// A server of the node package `ws`: node ws_server.js PORT
"use strict";
const fs = require("fs");
const http = require("http");
const { WebSocketServer } = require("../node_modules/ws");

const MESSAGES = 20;
const LARGE = 150_000; // longer than a proxy may want to forward in one piece
const events = fs.openSync(process.env.EVENTS, "a");
const announce = (name, detail) => fs.writeSync(events, `${name} ${detail}\n`);

const server = http.createServer((request, response) => {
  request.resume();
  response.end("ok");
});
const sockets = new WebSocketServer({ server, perMessageDeflate: true });

sockets.on("connection", (socket, request) => {
  socket.on("error", () => {});
  socket.once("message", (data) => {
    const who = data.toString();
    if (request.url === "/half") return halfMessage(socket, who);
    if (request.url === "/fragment") return halfFragments(socket, who);
    // The callback says that the kernel has the message: from then on it is sent.
    for (let number = 0; number < MESSAGES; number++) {
      const text = number === MESSAGES / 2 ? `${who}:${number}`.padEnd(LARGE, ".") : `${who}:${number}`;
      const last = number === MESSAGES - 1;
      socket.send(number % 2 ? text : Buffer.from(text), () => last && announce("sent", who));
    }
    socket.on("message", (message, binary) => socket.send(message, { binary }));
  });
});

// A whole message, then the first half of one frame: its header promises 1000 bytes.
function halfMessage(socket, who) {
  socket.send(`${who}:whole`);
  const frame = Buffer.concat([Buffer.from([0x81, 126, 1000 >> 8, 1000 & 255]), Buffer.alloc(500, "h")]);
  socket._socket.write(frame, () => announce("sent", who));
}

// A whole message, then the first two fragments of one that never ends.
function halfFragments(socket, who) {
  socket.send(`${who}:whole`);
  socket.send("first", { fin: false, compress: false });
  socket.send("second", { fin: false, compress: false }, () => announce("sent", who));
}

server.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 511 });
