// A target program: one handler in frameworks of Node.js.
// Usage: CALLED=URL node main.js HOST:PORT express|fastify|koa|nest|http|cluster
// GET /m/<shape>/<client>/<n> calls CALLED/n/<n>.
import cluster from 'node:cluster';
import http from 'node:http';

import { shape } from './shapes.js';

const [host, portText] = process.argv[2].split(':');
const port = Number(portText);
const PROCESSES = 2;
const IDLE_MS = 600_000; // tests wait with connections open

async function answer(name, client, n) {
  await shape(name, client, `/n/${n}`);
  return `n=${n}\n`;
}

function plain() {
  const server = http.createServer(async (request, response) => {
    const [, route, name, client, n] = request.url.split('/');
    const text = route === 'm' ? await answer(name, client, n) : 'ready\n';
    response.writeHead(200, { 'Content-Length': Buffer.byteLength(text) });
    response.end(text);
  });
  return server.listen(port, host);
}

async function express() {
  const { default: make } = await import('express');
  const app = make();
  app.get('/ready', (_, response) => response.send('ready\n'));
  app.get('/m/:name/:client/:n', async ({ params: { name, client, n } }, response) => {
    response.send(await answer(name, client, n));
  });
  return app.listen(port, host);
}

async function fastify() {
  const { default: make } = await import('fastify');
  const app = make();
  app.get('/ready', async () => 'ready\n');
  app.get('/m/:name/:client/:n', ({ params: { name, client, n } }) => answer(name, client, n));
  await app.listen({ port, host });
  return app.server;
}

async function koa() {
  const { default: Koa } = await import('koa');
  const app = new Koa();
  app.use(async (context) => {
    const [, route, name, client, n] = context.path.split('/');
    context.body = route === 'm' ? await answer(name, client, n) : 'ready\n';
  });
  return app.listen(port, host);
}

/** Decorators are calls here: this is no TypeScript. */
async function nest() {
  await import('reflect-metadata');
  const { Controller, Get, Module, Param } = await import('@nestjs/common');
  const { NestFactory } = await import('@nestjs/core');
  class Matrix {
    ready() {
      return 'ready\n';
    }
    answer(name, client, n) {
      return answer(name, client, n);
    }
  }
  const route = (path, method) => {
    const found = Object.getOwnPropertyDescriptor(Matrix.prototype, method);
    Get(path)(Matrix.prototype, method, found);
  };
  route('ready', 'ready');
  route('m/:name/:client/:n', 'answer');
  ['name', 'client', 'n'].forEach((name, at) => Param(name)(Matrix.prototype, 'answer', at));
  Controller()(Matrix);
  class Application {}
  Module({ controllers: [Matrix] })(Application);
  const app = await NestFactory.create(Application, { logger: false });
  await app.listen(port, host);
  return app.getHttpServer();
}

const frameworks = { express, fastify, koa, nest, http: plain, cluster: plain };

const [, , , framework] = process.argv;
if (framework === 'cluster' && cluster.isPrimary) {
  for (let i = 0; i < PROCESSES; i++) cluster.fork();
} else {
  const server = await frameworks[framework]();
  server.keepAliveTimeout = IDLE_MS;
}
