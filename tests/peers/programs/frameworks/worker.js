// A thread that calls for another one.
import { parentPort } from 'node:worker_threads';

import { get } from './clients.js';

parentPort.on('message', async ([key, client, path]) => {
  parentPort.postMessage([key, await get(client, path)]);
});
