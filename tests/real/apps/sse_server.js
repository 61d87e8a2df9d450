// Server-sent events, numbered on from Last-Event-ID: node sse_server.js PORT
"use strict";
const fs = require("fs");
const http = require("http");

const events = fs.openSync(process.env.EVENTS, "a");
const announce = (name, detail) => fs.writeSync(events, `${name} ${detail}\n`);

const PAGE = `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><script>
window.messages = [];
window.told = [];
window.opened = 0;
let last = 0;
function listen() {
  window.opened++;
  const source = new EventSource("/events?after=" + last);
  source.onmessage = ({ data, lastEventId }) => {
    last = lastEventId;
    window.messages.push([lastEventId, data]);
  };
  source.onerror = ({ data }) => {
    // A lost connection is an error event too; only one from the stream has data.
    if (data !== undefined) window.told.push(JSON.parse(data));
    // A browser reconnects by itself, until an answer is not a 200: then it gives up.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 100);
  };
}
listen();
</script>`;

http
  .createServer((request, response) => {
    if (request.url === "/page") {
      response.writeHead(200, { "Content-Type": "text/html" });
      return response.end(PAGE);
    }
    const after = new URL(request.url, "http://app").searchParams.get("after");
    const last = Number(request.headers["last-event-id"] ?? after);
    announce("asked", last);
    // Only a browser that reconnects by itself says so in this field.
    if (request.headers["last-event-id"]) announce("resumed", request.headers["last-event-id"]);
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.write("retry: 100\n\n");
    for (let number = last + 1; number <= last + 3; number++) {
      response.write(`id: ${number}\ndata: event ${number}\n\n`);
    }
    // The next event stays unfinished.
    response.write(`id: ${last + 4}\ndata: eve`, () => announce("sent", process.pid));
  })
  .listen(Number(process.argv[2]), "127.0.0.1");
