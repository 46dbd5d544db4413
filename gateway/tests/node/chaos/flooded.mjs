// A member who gets very much, on a thread of its own.

import { parentPort, workerData } from 'node:worker_threads';

import { load } from '../support/packages.mjs';

const { url, token, room } = workerData;
const socket = load('socket.io-client').io(url, { transports: ['websocket'], auth: { token }, reconnection: false });
let heard = 0;
socket.on('e', () => { heard += 1; });
socket.on('connect', async () => {
  await socket.emitWithAck('join', { room });
  parentPort.postMessage('joined');
});
socket.on('disconnect', (reason) => parentPort.postMessage(`${reason} after ${heard}`));
