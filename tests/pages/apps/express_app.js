// Express: node express_app.js PORT [json] [gzip]; NODE_ENV=production hides the stack.
const compression = require('compression');
const express = require('express');

const [port, ...mode] = process.argv.slice(2);
const app = express();
if (mode.includes('gzip')) app.use(compression({ threshold: 0 }));

class Cart {
  constructor(items) { this.items = items; }
  first() { return this.items[0].price; }
}

app.get('/ok', (request, response) => response.send('ok'));
app.get('/boom', (request, response) => response.send(String(new Cart([]).first())));
app.get('/later', async () => { await null; return new Cart([]).first(); });
app.get('/deliberate', (request, response) => {
  response.status(500).json({ error: 'out_of_stock', article: 7, note: 'x'.repeat(400) });
});
// Sent in pieces, so chunked.
app.get('/streamed', (request, response) => {
  response.status(500).type('text/plain');
  try {
    new Cart([]).first();
  } catch (error) {
    for (const line of error.stack.split('\n')) response.write(`${line}\n`);
    response.end();
  }
});
if (mode.includes('json')) {
  app.use((error, request, response, next) => {
    response.status(500).json({ statusCode: 500, message: error.message, stack: error.stack });
  });
}
app.listen(Number(port), '127.0.0.1');
