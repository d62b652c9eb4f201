// A target program: what Node's console writes. The number in the URL is in every line.
'use strict';

const http = require('node:http');

const [host, port] = process.argv[2].split(':');
const server = http.createServer((request, response) => {
  const n = request.url.split('/').pop();
  if (n === 'ready') return response.end('ready\n');
  console.log(`request=${n} begins`);
  setTimeout(() => {
    console.error(`ERROR: request=${n} ends`);
    response.end(`n=${n}\n`);
  }, 2);
});
server.listen(Number(port), host);
