'use strict';
// A target program of a protocol that is nobody's: GET /ready over HTTP, and beside it, on another
// port, a line for each line, in order, a millisecond later.
// Usage: LINES=HOST:PORT node lines.js HOST:PORT
const http = require('node:http');
const net = require('node:net');

function listen(server, address) {
  const [host, port] = address.split(':');
  server.listen(Number(port), host);
}

listen(
  net.createServer({ noDelay: true }, (socket) => {
    socket.on('data', (data) => setTimeout(() => socket.write(data), 1));
    socket.on('error', () => {});
  }),
  process.env.LINES,
);
listen(
  http.createServer((request, response) => response.end('ready\n')),
  process.argv[2],
);
