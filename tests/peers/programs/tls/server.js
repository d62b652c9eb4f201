'use strict';
// An HTTPS server of Node's own modules, that may call another: GET /call/N?url=URL.
// Usage: node server.js PORT CERTIFICATE
const fs = require('node:fs');
const https = require('node:https');

const [port, certificate] = process.argv.slice(2);
const pem = fs.readFileSync(certificate);
const agent = new https.Agent({ keepAlive: true, rejectUnauthorized: false });

function ask(url) {
  return new Promise((resolve, reject) => {
    const outgoing = https.get(url, { agent }, (answer) => {
      answer.on('data', () => {});
      answer.on('end', () => resolve(answer.statusCode));
    });
    outgoing.on('error', reject);
  });
}

async function answer(request, response) {
  const url = new URL(request.url, 'https://localhost');
  let text = 'fine';
  if (url.pathname.startsWith('/call/')) text = String(await ask(url.searchParams.get('url')));
  if (url.pathname.startsWith('/large/')) text = 'x'.repeat(300000);
  request.resume();
  request.on('end', () => {
    response.writeHead(200, { 'Content-Length': Buffer.byteLength(text) });
    response.end(text);
  });
}

https.createServer({ key: pem, cert: pem }, answer).listen(Number(port), '127.0.0.1');
