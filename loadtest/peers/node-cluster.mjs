// A Socket.IO server on Node.js with its Redis adapter, as its users would write it: rooms that anybody may join and
// publish to. `node node-cluster.mjs PORT REDIS_PORT`; the packages are those of the tests.

import { createServer } from 'node:http';
import { createRequire } from 'node:module';

const require = createRequire(new URL('../../gateway/tests/node/package.json', import.meta.url));
const { Server } = require('socket.io');
const { createAdapter } = require('@socket.io/redis-adapter');
const { createClient } = require('redis');

const [port, redisPort] = process.argv.slice(2).map(Number);
const publisher = createClient({ url: `redis://127.0.0.1:${redisPort}` });
const subscriber = publisher.duplicate();
await Promise.all([publisher.connect(), subscriber.connect()]);

const http = createServer();
const io = new Server(http, { adapter: createAdapter(publisher, subscriber), perMessageDeflate: false });
const relay = io.of('/relay');
relay.on('connection', (socket) => {
  socket.on('join', async ({ room }, ack) => {
    await socket.join(room);
    ack?.({ success: true });
  });
  socket.on('publish', ({ room, event, data }) => relay.to(room).emit(event, data));
});
http.listen(port, '127.0.0.1');
