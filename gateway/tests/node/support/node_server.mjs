// A Node.js Socket.IO server on the npm Redis adapter: a neighbour of the gateway's nodes, one of their backends, or
// the control.

import { createServer } from 'node:http';

import { keeper } from './clients.mjs';
import { load } from './packages.mjs';
import { eventually } from './wait.mjs';

const { Server } = load('socket.io');
const { createAdapter } = load('@socket.io/redis-adapter');
const jwt = load('jsonwebtoken');

/**
 * Starts one: `{io, pub, url, token, clients, stop()}`. `pub` is the connection that its adapter publishes on. Its
 * clients of `/relay` may join, leave and publish like those of the app `relay`; each is in the room of its user.
 */
export async function startNodeServer(redis, { token = (claims) => jwt.sign(claims, 'none') } = {}) {
  const [pub, sub] = await Promise.all([redis.connect(), redis.connect()]);
  const http = createServer();
  const io = new Server(http, { adapter: createAdapter(pub, sub) });
  const relay = io.of('/relay');
  relay.on('connection', (socket) => {
    socket.join(`user:${jwt.decode(socket.handshake.auth.token)?.sub}`);
    socket.on('join', ({ room }, ack) => { socket.join(room); ack({ success: true, room }); });
    socket.on('leave', ({ room }, ack) => { socket.leave(room); ack({ success: true, room }); });
    socket.on('publish', ({ room, event, data }, ack) => { relay.to(room).emit(event, data); ack?.({ success: true }); });
  });
  await new Promise((resolve) => http.listen(0, '127.0.0.1', resolve));
  const server = { io, pub, url: `http://127.0.0.1:${http.address().port}`, token };
  server.clients = keeper(server);
  server.stop = async () => {
    server.clients.closeAll();
    await new Promise((resolve) => io.close(resolve));
  };
  return server;
}

/**
 * Waits until `servers` servers subscribe to the requests of `/relay`, because adapters do not report when that is
 * complete.
 */
export function subscribed(client, servers) {
  return eventually(async () => Number(Object.values(await client.pubSubNumSub('socket.io-request#/relay#'))[0]) === servers, { what: `${servers} servers to be subscribed` });
}
