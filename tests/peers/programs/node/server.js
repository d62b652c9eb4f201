'use strict';
// A target program: Node's http module, nothing else.
// Usage: node server.js HOST:PORT | [::1]:PORT | unix:PATH
const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');

const BIG_BODY = 1 << 20;
const CHUNK_COUNT = 5;
const agent = new http.Agent({ keepAlive: true });

const body = (n) => `n=${n}\n`;

function big(n) {
  const start = `n=${n} `;
  return start + '.'.repeat(BIG_BODY - start.length - 1) + '\n';
}

function answerText(response, text, status = 200) {
  response.writeHead(status, {
    'Content-Type': 'text/plain',
    'Content-Length': Buffer.byteLength(text),
  });
  response.end(text);
}

function fetchText(url, headers) {
  return new Promise((resolve, reject) => {
    const outgoing = http.get(url, { agent, headers }, (answer) => {
      const pieces = [];
      answer.on('data', (piece) => pieces.push(piece));
      answer.on('end', () => resolve([answer.statusCode, Buffer.concat(pieces).toString()]));
      answer.on('error', reject);
    });
    outgoing.on('error', reject);
  });
}

async function call(request, response, n, query) {
  const parent = request.headers.traceparent;
  const headers = query.get('forward') === '1' && parent ? { traceparent: parent } : {};
  const [status, text] =
    query.get('via') === 'fetch'
      ? await fetch(query.get('url'), { headers }).then(async (a) => [a.status, await a.text()])
      : await fetchText(query.get('url'), headers);
  answerText(response, `n=${n} status=${status} body=${text}`);
}

function writePieces(response, n) {
  response.writeHead(200, { 'Content-Type': 'text/plain' });
  response.write(body(n));
  let i = 1;
  const next = () => {
    if (i === CHUNK_COUNT) return response.end();
    return response.write(`piece ${i++} of ${n}\n`, next);
  };
  next();
}

// The end of the body is the end of the connection: no length, no chunks.
function answerUntilClose(response, n) {
  response.useChunkedEncodingByDefault = false;
  response.writeHead(200, { 'Content-Type': 'text/plain', Connection: 'close' });
  response.end(body(n));
}

function echo(request, response, n) {
  let size = 0;
  request.on('data', (piece) => {
    size += piece.length;
  });
  request.on('end', () => answerText(response, `n=${n} bytes=${size}\n`));
}

function answerStatus(response, code, n) {
  if (code === 204 || code === 304) {
    response.writeHead(code);
    response.end();
    return;
  }
  answerText(response, body(n), code);
}

async function answer(request, response) {
  const url = new URL(request.url, 'http://target');
  const [, route, first, second] = url.pathname.split('/');
  switch (route) {
    case 'ready':
      return answerText(response, 'ready\n');
    case 'n':
      return answerText(response, body(first));
    case 'slow':
      await new Promise((resolve) => setTimeout(resolve, Number(url.searchParams.get('ms'))));
      return answerText(response, body(first));
    case 'status':
      return answerStatus(response, Number(first), second);
    case 'chunked':
      return writePieces(response, first);
    case 'big':
      return answerText(response, big(first));
    case 'until-close':
      return answerUntilClose(response, first);
    case 'echo':
      return echo(request, response, first);
    case 'call':
      return call(request, response, first, url.searchParams);
    default:
      return answerText(response, 'no such path\n', 404);
  }
}

const serve = (request, response) => {
  answer(request, response).catch((error) => answerText(response, `${error}\n`, 502));
};
const given = process.env.PEER_CERTIFICATE; // with its key
const pem = given && fs.readFileSync(given);
const server = pem ? https.createServer({ key: pem, cert: pem }, serve) : http.createServer(serve);
server.keepAliveTimeout = 600_000; // tests wait with connections open
const address = process.argv[2];
if (address.startsWith('unix:')) {
  server.listen(address.slice('unix:'.length));
} else {
  const colon = address.lastIndexOf(':');
  server.listen(Number(address.slice(colon + 1)), address.slice(0, colon).replace(/[[\]]/g, ''));
}
