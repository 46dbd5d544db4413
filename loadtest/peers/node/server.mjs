// A Socket.IO server on Node.js as its users would write it: every client may join and publish to any
// room.
//
//   node server.mjs --port N [--engine ws|uws] [--redis PORT]

import { createServer } from 'node:http';
import { parseArgs } from 'node:util';

import { Server } from 'socket.io';

const { values: { port, engine, redis } } = parseArgs({
  options: { port: { type: 'string' }, engine: { type: 'string', default: 'ws' }, redis: { type: 'string' } },
});
const io = new Server({ perMessageDeflate: false, adapter: redis && await redisAdapter(Number(redis)) });
const relay = io.of('/relay');

relay.on('connection', (socket) => {
  socket.on('join', async ({ room }, ack) => {
    await socket.join(room);
    ack?.({ success: true });
  });
  socket.on('leave', async ({ room }, ack) => {
    await socket.leave(room);
    ack?.({ success: true });
  });
  socket.on('publish', ({ room, event, data }, ack) => {
    relay.to(room).emit(event, data);
    ack?.({ success: true });
  });
  socket.on('echo', (data, ack) => ack?.(data));
});

if (engine === 'uws') await listenOnUws(Number(port));
else if (engine === 'ws') listenOnWs(Number(port));
else throw new Error(`--engine ${engine}: expected ws or uws`);

function listenOnWs(port) {
  const http = createServer();
  io.attach(http);
  http.listen(port, '127.0.0.1');
}

async function listenOnUws(port) {
  const { default: uws } = await import('uWebSockets.js');
  const app = uws.App();
  io.attachApp(app);
  app.listen('127.0.0.1', port, (listening) => {
    if (!listening) throw new Error(`cannot listen on port ${port}`);
  });
}

async function redisAdapter(port) {
  const [{ createAdapter }, { createClient }] = await Promise.all([import('@socket.io/redis-adapter'), import('redis')]);
  const publisher = createClient({ url: `redis://127.0.0.1:${port}` });
  const subscriber = publisher.duplicate();
  await Promise.all([publisher.connect(), subscriber.connect()]);
  return createAdapter(publisher, subscriber);
}
