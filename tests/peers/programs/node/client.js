'use strict';
// A target program: requests each number once with Node's http.Agent or its fetch, and exits 0
// only if every answer began with its number.
// Usage: node client.js http|fetch URL_BASE COUNT CONCURRENCY [switches]
const fs = require('node:fs');
const plain = require('node:http');
const encrypted = require('node:https');
const readline = require('node:readline');
const { parseArgs } = require('node:util');

const { values: given, positionals } = parseArgs({
  args: process.argv.slice(2),
  allowPositionals: true,
  options: {
    first: { type: 'string', default: '1' },
    mode: { type: 'string', default: 'keepalive' },
    unix: { type: 'string' },
    path: { type: 'string', default: '/n/{}' },
    gate: { type: 'string' },
    traceparent: { type: 'boolean', default: false },
  },
});
const [how, base] = positionals;
const [count, concurrency] = positionals.slice(2).map(Number);
const close = given.mode === 'close';
const http = base.startsWith('https:') ? encrypted : plain;
const trusted = process.env.PEER_CERTIFICATE;
const ca = trusted && fs.readFileSync(trusted);
// A full agent that keeps nothing alive would still hand its sockets on to requests that wait.
const agent = new http.Agent({
  keepAlive: !close,
  maxSockets: close ? Infinity : concurrency,
  ca,
});

function headersOf(n) {
  const headers = close ? { Connection: 'close' } : {};
  if (given.traceparent) {
    const hex = n.toString(16);
    headers.traceparent = `00-7ace${hex.padStart(28, '0')}-5fa0${hex.padStart(12, '0')}-01`;
  }
  return headers;
}

function getWithAgent(url, headers) {
  const options = { agent, headers };
  if (given.unix) options.socketPath = given.unix;
  return new Promise((resolve, reject) => {
    const outgoing = http.get(url, options, (answer) => {
      const pieces = [];
      answer.on('data', (piece) => pieces.push(piece));
      answer.on('end', () => resolve(Buffer.concat(pieces).toString()));
      answer.on('error', reject);
    });
    outgoing.on('error', reject);
  });
}

const getWithFetch = (url, headers) => fetch(url, { headers }).then((answer) => answer.text());

async function request(n) {
  const url = base + given.path.replaceAll('{}', String(n));
  const get = how === 'fetch' ? getWithFetch : getWithAgent;
  const text = await get(url, headersOf(n));
  if (text.split(/\s/, 1)[0] !== `n=${n}`) {
    throw new Error(`request ${n}: the answer is not its own: ${text.slice(0, 80)}`);
  }
}

async function requestAll(first, end) {
  let next = first;
  const work = async () => {
    while (next < end) await request(next++);
  };
  await Promise.all(Array.from({ length: concurrency }, work));
}

async function passGate() {
  console.log('gate');
  const input = readline.createInterface({ input: process.stdin });
  const { done } = await input[Symbol.asyncIterator]().next();
  input.close();
  if (done) throw new Error('the gate was never opened: stdin ended');
}

async function main() {
  if (how === 'fetch' && (given.unix || close)) {
    throw new Error('fetch can neither use a UNIX socket nor close its connections');
  }
  const first = Number(given.first);
  const middle = first + Number(given.gate ?? 0);
  if (given.gate !== undefined) {
    await requestAll(first, middle);
    await passGate();
  }
  await requestAll(middle, first + count);
  agent.destroy();
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
