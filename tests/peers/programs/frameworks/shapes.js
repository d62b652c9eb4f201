// What a request does before it is answered.
import { Worker } from 'node:worker_threads';

import { get, getWithCallback } from './clients.js';
import { isDatabase, query } from './databases.js';

const WORKERS = 4;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Threads that call for the one that serves.
const workers = [];
const waiting = new Map();
let turn = 0;
function byWorker(client, path) {
  while (workers.length < WORKERS) {
    const worker = new Worker(new URL('./worker.js', import.meta.url));
    worker.on('message', ([key, text]) => {
      waiting.get(key)(text);
      waiting.delete(key);
    });
    workers.push(worker);
  }
  return new Promise((resolve) => {
    waiting.set(++turn, resolve);
    workers[turn % WORKERS].postMessage([turn, client, path]);
  });
}

function byCallbacks(client, path) {
  return new Promise((resolve, reject) => {
    getWithCallback(client, path, (error) => {
      if (error) return reject(error);
      return getWithCallback(client, path, (late) => (late ? reject(late) : resolve()));
    });
  });
}

// One immediate calls for all that have asked since the last one: whose it is says nothing of them.
let batch = null;
function byBatch(client, path) {
  if (!batch) {
    batch = [];
    setImmediate(() => {
      const all = batch;
      batch = null;
      for (const [each, done] of all) getWithCallback(client, each, done);
    });
  }
  return new Promise((resolve, reject) => {
    batch.push([path, (error) => (error ? reject(error) : resolve())]);
  });
}

export async function shape(name, client, path) {
  const call = () => get(client, path);
  switch (name) {
    case 'one':
      return call();
    case 'mixed':
      await call();
      return Promise.all([call(), call()]);
    case 'callbacks':
      return byCallbacks(client, path);
    case 'batch':
      return byBatch(client, path);
    case 'timer':
      await call();
      await pause(2);
      return call();
    case 'worker':
      await byWorker(client, path);
      return call();
    default:
      if (!isDatabase(name)) throw new Error(`no shape ${name}`);
      await query(name, path);
      await call();
      await query(name, path);
      return call();
  }
}
