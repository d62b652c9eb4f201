// Pools of databases: one as large as the load, one that requests wait for, one of a single
// connection that all share.
import { randomUUID } from 'node:crypto';

import { Redis } from 'ioredis';
import mysql2 from 'mysql2/promise';
import pg from 'pg';

const LARGE = 40;
const SMALL = 4;

function place(name) {
  const [host, port] = process.env[name].split(':');
  return { host, port: Number(port) };
}

function postgres(max) {
  const options = { user: 'postgres', database: 'postgres', max, idleTimeoutMillis: 0 };
  const pool = new pg.Pool({ ...place('POSTGRES'), ...options });
  return (text) => pool.query('SELECT $1::text', [text]);
}

function mysql(limit) {
  const options = { user: 'root', connectionLimit: limit, maxIdle: limit };
  const pool = mysql2.createPool({ ...place('MYSQL'), ...options });
  return (text) => pool.query('SELECT ?', [text]);
}

function redis() {
  const connection = new Redis(place('REDIS'));
  const key = randomUUID();
  return (text) => connection.get(`${key}${text}`);
}

const pools = {
  pg: () => postgres(LARGE),
  'pg-queue': () => postgres(SMALL),
  mysql2: () => mysql(LARGE),
  'mysql2-queue': () => mysql(SMALL),
  ioredis: redis,
};
const opened = {};

/** Asks the database that `name` stands for. */
export function query(name, text) {
  opened[name] ??= pools[name]();
  return opened[name](text);
}

export const isDatabase = (name) => name in pools;
