// A part of a swarm (`swarm.mjs`): official clients with default reconnection settings in a separate process. Each is
// in one room of the relay, rejoins it after every disconnect, and records for each connection what it received.

import { load } from './packages.mjs';

const { io } = load('socket.io-client');

/** The wall-clock time with fractions, so that processes agree. */
const now = () => performance.timeOrigin + performance.now();

const clients = [];
const settled = () => clients.filter(({ socket, stay }) => socket.connected && stay?.joined !== undefined).length;

function start({ url, token, room, transports }) {
  const socket = io(`${url}/relay`, { forceNew: true, auth: { token }, ...(transports ? { transports } : {}) });
  const client = { room, socket, stay: undefined, stays: [], refusals: 0 };
  socket.on('connect', async () => {
    const stay = { joined: undefined, ended: undefined, reason: undefined, first: undefined, last: undefined, heard: 0, breaks: 0 };
    client.stay = stay;
    client.stays.push(stay);
    const answer = await socket.emitWithAck('join', { room }).catch(() => undefined);
    // A client whose connection closed between CONNECT and the ack retries on its next connection.
    if (answer?.success && client.stay === stay) stay.joined = now();
  });
  socket.on('n', (n) => {
    const { stay } = client;
    stay.heard += 1;
    if (stay.first === undefined) stay.first = n;
    else if (n !== stay.last + 1) stay.breaks += 1;
    stay.last = n;
  });
  socket.on('connect_error', () => { client.refusals += 1; });
  socket.on('disconnect', (reason) => {
    client.stay.ended = now();
    client.stay.reason = reason;
  });
  clients.push(client);
}

const commands = {
  /** Starts a client, and returns when it is in its room. */
  async start(options) {
    start(options);
    const client = clients.at(-1);
    while (client.stay?.joined === undefined) await new Promise((resolve) => { setTimeout(resolve, 5); });
  },
  settled,
  report: () => clients.map(({ room, stays, refusals }) => ({ room, stays, refusals })),
  end() {
    for (const { socket } of clients) socket.disconnect();
    setTimeout(() => process.exit(0), 100);
  },
};

process.on('message', async ({ id, command, options }) => {
  process.send({ id, answer: await commands[command](options) });
});
process.on('disconnect', () => process.exit(0));
