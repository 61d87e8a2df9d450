// Clients of the node package `ws`: node ws_client.js URL COUNT prints, when all have ended, a JSON list of
// what each saw.
"use strict";
const WebSocket = require("../node_modules/ws");

const [url, count] = [process.argv[2], Number(process.argv[3])];
const seen = [];
for (let number = 0; number < count; number++) {
  const socket = new WebSocket(url);
  const session = { who: String(number), messages: [], errors: [] };
  socket.addEventListener("open", () => socket.send(session.who));
  socket.addEventListener("message", ({ data }) => session.messages.push(data.toString()));
  socket.addEventListener("error", (event) => session.errors.push(event.message));
  socket.addEventListener("close", ({ code, reason, wasClean }) => {
    seen.push({ ...session, code, reason, wasClean });
    if (seen.length === count) process.stdout.write(JSON.stringify(seen) + "\n");
  });
}
