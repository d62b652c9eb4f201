'use strict';
// A target program: one handler in many shapes, calling by many clients, in one event loop.
// Usage: CALLED=URL node matrix.js HOST:PORT; GET /m/<shape>/<client>/<n> calls CALLED/n/<n>.
const crypto = require('node:crypto');
const http = require('node:http');
const net = require('node:net');

const called = new URL(process.env.CALLED);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const random = () => new Promise((resolve) => crypto.randomBytes(65536, resolve)); // by libuv's pool
const immediate = () => new Promise((resolve) => setImmediate(resolve));

const agents = {
  agent: new http.Agent({ keepAlive: true }),
  close: new http.Agent({ keepAlive: false }),
  // More wait than there are connections: what one request frees another one takes.
  queue: new http.Agent({ keepAlive: true, maxSockets: 6 }),
  dns: new http.Agent({ keepAlive: true }), // its host has a name, which libuv's pool looks up
};

function get(client, path) {
  if (client === 'fetch') return fetch(new URL(path, called)).then((answer) => answer.text());
  const host = client === 'dns' ? 'localhost' : called.hostname;
  return new Promise((resolve, reject) => {
    const options = { host, port: called.port, path, agent: agents[client], family: 4 };
    const outgoing = http.get(options, (answer) => {
      const pieces = [];
      answer.on('data', (piece) => pieces.push(piece));
      answer.on('end', () => resolve(Buffer.concat(pieces).toString()));
      answer.on('error', reject);
    });
    outgoing.on('error', reject);
  });
}

// A protocol of our own: a line is answered by a line, in order. One connection for each query at
// a time, as a pool of a database has it, or one for all.
const idle = [];
let shared = null;
function connectLines() {
  const [host, port] = process.env.LINES.split(':');
  const socket = net.connect({ host, port: Number(port), noDelay: true });
  const waiting = [];
  socket.on('data', (data) => {
    for (const byte of data) if (byte === 10) waiting.shift()();
  });
  return (text) =>
    new Promise((resolve) => {
      waiting.push(resolve);
      socket.write(`${text}\n`);
    });
}
async function query(text) {
  const ask = idle.pop() ?? connectLines();
  await ask(text);
  idle.push(ask);
}
function queryShared(text) {
  shared ??= connectLines();
  return shared(text);
}

// Work that is nobody's, while requests are served.
let background = null;
let nobodys = 9_000_000;
function startBackground(client) {
  background ??= setInterval(() => {
    if (nobodys < 9_000_400) get(client, `/n/${nobodys++}`).catch(() => {});
  }, 2);
}

async function shape(name, client, path) {
  const call = () => get(client, path);
  switch (name) {
    case 'one':
      return call();
    case 'two':
      await call();
      return call();
    case 'three':
      await call();
      await call();
      return call();
    case 'parallel':
      return Promise.all([call(), call()]);
    case 'mixed':
      await call();
      return Promise.all([call(), call()]);
    case 'timer':
      await call();
      await pause(2);
      return call();
    case 'late': // only the answer waits for a timer
      await call();
      return pause(2);
    case 'pool':
      await call();
      await random();
      return call();
    case 'immediate':
      await call();
      await immediate();
      return call();
    case 'background':
      startBackground(client);
      return call();
    case 'query':
      await query(path);
      await call();
      await query(path);
      return call();
    case 'pipeline':
      await queryShared(path);
      await call();
      await queryShared(path);
      return call();
    case 'fire': // one call that nobody waits for
      call().catch(() => {});
      return call();
    default:
      throw new Error(`no shape ${name}`);
  }
}

function answerText(response, text, status = 200) {
  response.writeHead(status, { 'Content-Length': Buffer.byteLength(text) });
  response.end(text);
}

const server = http.createServer((request, response) => {
  const [, route, name, client, n] = request.url.split('/');
  if (route === 'ready') return answerText(response, 'ready\n');
  if (route === 'n') return answerText(response, `n=${name}\n`);
  return shape(name, client, `/n/${n}`).then(
    () => answerText(response, `n=${n}\n`),
    (error) => answerText(response, `n=${n} ${error}\n`, 502),
  );
});
server.keepAliveTimeout = 600_000; // tests wait with connections open
const [host, port] = process.argv[2].split(':');
server.listen(Number(port), host);
