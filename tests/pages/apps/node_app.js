// Node's own server, the stack as text: node node_app.js PORT
const http = require('node:http');

function price(article) {
  return JSON.parse(article).price;
}

http
  .createServer((request, response) => {
    try {
      response.end(String(price('{')));
    } catch (error) {
      const wrapped = new Error('order 7 has no price', { cause: error });
      response.writeHead(500, { 'Content-Type': 'text/plain' });
      response.end(request.url === '/inspect' ? require('node:util').inspect(wrapped) : error.stack);
    }
  })
  .listen(Number(process.argv[2]), '127.0.0.1');
