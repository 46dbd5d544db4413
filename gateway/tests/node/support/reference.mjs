// The Node.js server as a control beside the gateway: what it does with the same bytes is what is right.

import { once } from 'node:events';
import { createServer } from 'node:http';

import { load } from './packages.mjs';

const { Server } = load('socket.io');

/** A Socket.IO server with the namespace `/relay`, whose event `echo` is answered with its argument: `{port, close()}`. */
export async function startReference(options = {}) {
  const server = createServer();
  const io = new Server(server, options);
  io.of('/relay').on('connection', (socket) => {
    socket.on('echo', (value, answer) => answer?.(value));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: server.address().port,
    close() {
      io.close();
      server.closeAllConnections();
    },
  };
}
