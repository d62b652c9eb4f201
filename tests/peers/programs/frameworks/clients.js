// The clients of Node.js, each with a pool of its own.
import http from 'node:http';
import https from 'node:https';

export const called = new URL(process.env.CALLED);

// By the two modules of Node.js itself; with a callback, which gets (error, text).
const ways = {
  http: [http, new http.Agent({ keepAlive: true })],
  https: [https, new https.Agent({ keepAlive: true })],
};

export function getWithCallback(client, path, callback) {
  const [how, agent] = ways[client];
  const outgoing = how.get(new URL(path, called), { agent }, (answer) => {
    const pieces = [];
    answer.on('data', (piece) => pieces.push(piece));
    answer.on('end', () => callback(null, Buffer.concat(pieces).toString()));
    answer.on('error', callback);
  });
  outgoing.on('error', callback);
}

function promised(client, path) {
  return new Promise((resolve, reject) => {
    getWithCallback(client, path, (error, text) => (error ? reject(error) : resolve(text)));
  });
}

// Loaded before the first request; not each runs on each version of Node.js.
async function library(name) {
  try {
    return (await import(name)).default;
  } catch (error) {
    return () => Promise.reject(error);
  }
}
const axios = await library('axios');
const got = await library('got');

export async function get(client, path) {
  const url = new URL(path, called);
  switch (client) {
    case 'fetch':
      return (await fetch(url)).text();
    case 'axios':
      return (await axios.get(url.href, { httpAgent: ways.http[1] })).data;
    case 'got':
      return got(url, { agent: { http: ways.http[1] }, retry: { limit: 0 } }).text();
    default:
      return promised(client, path);
  }
}
