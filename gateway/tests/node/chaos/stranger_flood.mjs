// Strangers by the thousand, in a process of their own: `fork` it with `{port, mode, rate, connections}` as JSON and it
// floods until it is told to end, and says each second how many handshakes, or connections, it has begun.

import { connect } from 'node:net';

const { port, mode, rate = 20_000, connections = 8 } = JSON.parse(process.argv[2]);

const HANDSHAKE = `GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n\r\n`;
const websocket = (query = '') =>
  `GET /socket.io/?EIO=4&transport=websocket${query} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
  'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n';

/** A masked frame with a mask of zeros: its first byte and what it says its payload has. */
function frame(first, length, payload) {
  const head = Buffer.from([first, 0x80 | 126, length >> 8, length & 255, 0, 0, 0, 0]);
  return Buffer.concat([head, Buffer.from(payload)]);
}

// A token of 8 KB that says HS256 and is signed by nobody we know.
const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
const token = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: 'x', name: 'x'.repeat(5_900), exp: 4_000_000_000 })}.${'A'.repeat(43)}`;

/** What a connection that stays open has sent: by kind. */
const HELD = {
  silent: () => '',
  'half head': () => HANDSHAKE.slice(0, -2) + `X-Pad: ${'x'.repeat(12_000)}`,
  'small half head': () => HANDSHAKE.slice(0, -4),
  'half body': () => `POST /api/v1/auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 16000\r\n\r\n${' '.repeat(15_000)}`,
  'half frame': () => [websocket(), frame(0x81, 16_000, '4'.repeat(15_900))],
  fragments: () => [websocket(), frame(0x01, 7_900, '4'.repeat(7_900)), frame(0x00, 7_900, '4'.repeat(7_800))],
  attachments: () => [websocket(), frame(0x81, 200, '451-["e",{"_placeholder":true,"num":0}]'.padEnd(200))],
  token: () => websocket(`&token=${token}`),
  'unread answers': () => [websocket(), ...Array.from({ length: 200 }, () => frame(0x81, 1_000, `40/${'n'.repeat(100)},`.padEnd(1_000)))],
  'unread page': () => `GET /api/openapi.json HTTP/1.1\r\nHost: a\r\n\r\n`.repeat(8),
};

let begun = 0;
const open = new Set();

function dial(bytes, { keep = false, onOpen } = {}) {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true });
  open.add(socket);
  socket.on('error', () => {});
  socket.on('close', () => open.delete(socket));
  socket.on('connect', () => {
    begun += 1;
    for (const piece of [bytes].flat()) socket.write(piece);
    if (keep) socket.pause();
    else socket.once('data', () => (onOpen ?? (() => socket.destroy()))(socket));
  });
  return socket;
}

const every = (milliseconds, work) => setInterval(work, milliseconds);

if (mode === 'pipelined') {
  const batch = Math.ceil(rate / 100 / connections);
  const bytes = HANDSHAKE.repeat(batch);
  const start = () => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true });
    socket.on('error', () => {});
    socket.on('data', () => {});
    const timer = every(10, () => {
      // At the pace of the server, where it is slower.
      if (socket.writableLength > 8 * bytes.length) return;
      socket.write(bytes);
      begun += batch;
    });
    socket.on('close', () => {
      clearInterval(timer);
      setTimeout(start, 10);
    });
  };
  for (let at = 0; at < connections; at += 1) start();
} else if (mode === 'connections' || mode === 'websockets') {
  const bytes = mode === 'websockets' ? websocket() : HANDSHAKE;
  every(10, () => {
    for (let at = 0; at < rate / 100 && open.size < 4_000; at += 1) {
      // A WebSocket that is opened is left open; the server has to get rid of it.
      dial(bytes, mode === 'websockets' ? { onOpen: (socket) => socket.resume() } : {});
    }
  });
} else {
  // As many as there can be of this kind are held, and begun anew when they are closed.
  const bytes = HELD[mode]();
  every(10, () => {
    for (let at = 0; at < rate / 100 && open.size < connections; at += 1) dial(bytes, { keep: true });
  });
}

every(1_000, () => process.send?.({ begun, open: open.size }));
process.on('message', () => process.exit(0));
process.on('disconnect', () => process.exit(0));
