// An echo server of the node package `ws`, without limits of its own: node autobahn_echo.js PORT
"use strict";
const { WebSocketServer } = require("../node_modules/ws");

const options = { host: "127.0.0.1", port: Number(process.argv[2]), backlog: 511 };
const limits = { maxPayload: 0, maxFragments: 0, maxBufferedChunks: 0 };
const sockets = new WebSocketServer({ ...options, ...limits, perMessageDeflate: { threshold: 0 } });

sockets.on("connection", (socket) => {
  socket.on("error", () => {});
  socket.on("message", (message, binary) => socket.send(message, { binary }));
});
