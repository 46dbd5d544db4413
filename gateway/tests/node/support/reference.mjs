// The Node.js server as a control beside the gateway: its behaviour for the same bytes is the correct one. It runs in a
// separate process, which can be ended with all its timers.

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';

import { load } from './packages.mjs';

const HERE = fileURLToPath(import.meta.url);

/** A Socket.IO server with the namespace `/relay`, whose event `echo` returns its argument: `{port, close()}`. */
export async function startReference(options = {}) {
  const child = fork(HERE, [JSON.stringify(options)]);
  const [port] = await once(child, 'message');
  return { port, close: () => child.kill('SIGKILL') };
}

if (process.argv[1] === HERE) {
  const { Server } = load('socket.io');
  const server = createServer();
  const io = new Server(server, JSON.parse(process.argv[2]));
  io.of('/relay').on('connection', (socket) => {
    socket.on('echo', (value, answer) => answer?.(value));
  });
  server.listen(0, '127.0.0.1', () => process.send(server.address().port));
  process.on('disconnect', () => process.exit(0));
}
