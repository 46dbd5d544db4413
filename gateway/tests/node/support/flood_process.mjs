// A process that floods a gateway, started by `floods.mjs`. It sends as fast as its connections accept data.

import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';

import { FLOODS, POLLING_FLOODS, filled } from './floods.mjs';

const report = { opened: 0, closed: 0, longest: 0, byFlood: {} };
let running = true;

process.on('message', (message) => {
  if (message === 'stop') {
    running = false;
    process.send(report);
    return;
  }
  const { port, token, connections, only } = message;
  for (let n = 0; n < connections; n += 1) {
    if (only === undefined && n % 8 === 7) polling(port, token, POLLING_FLOODS[(n >> 3) % POLLING_FLOODS.length]);
    else flood(port, token, only === undefined ? FLOODS[n % FLOODS.length] : FLOODS.find(({ name }) => name === only));
  }
  process.send('started');
});

function again(socket, begin, since) {
  socket.on('error', () => {});
  socket.on('close', () => {
    if (!running) return;
    if (since.at) {
      report.closed += 1;
      note(since);
    }
    // Retries a refused connection a little later, so that the process is not starved.
    if (since.at) begin();
    else setTimeout(begin, 20);
  });
}

function note(since) {
  if (!since.at || since.noted) return;
  since.noted = true;
  const lived = performance.now() - since.at;
  report.longest = Math.max(report.longest, lived);
  const before = report.byFlood[since.name] ?? { closed: 0, longest: 0 };
  report.byFlood[since.name] = { closed: before.closed + 1, longest: Math.max(before.longest, lived) };
}

function pour(socket, bytes, since) {
  since.at = performance.now();
  const write = () => {
    // One write at a time, so that the process' other connections get their turn, and closes are noticed at once.
    if (!socket.destroyed && socket.write(bytes)) setImmediate(write);
  };
  socket.on('drain', write);
  write();
}

/** Whether the server's frames in `bytes` include a close frame, and how many bytes were complete frames. */
function closeIn(bytes) {
  let at = 0;
  while (at + 2 <= bytes.length) {
    let length = bytes[at + 1] & 127;
    let head = 2;
    if (length === 126) {
      if (at + 4 > bytes.length) break;
      length = bytes.readUInt16BE(at + 2);
      head = 4;
    }
    if (at + head + length > bytes.length) break;
    if ((bytes[at] & 15) === 8) return { close: true, used: at };
    at += head + length;
  }
  return { close: false, used: at };
}

function flood(port, token, { name, joins, once = () => Buffer.alloc(0), again: unit }) {
  const begin = () => {
    const since = { name };
    const socket = connect({ port, host: '127.0.0.1', noDelay: true });
    again(socket, begin, since);
    socket.write(`GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\n\r\n`);
    let rest = Buffer.alloc(0);
    let stage = 'handshake';
    const start = () => {
      stage = 'flooding';
      socket.write(once(token));
      pour(socket, filled(unit(token)), since);
    };
    socket.on('data', (bytes) => {
      rest = Buffer.concat([rest, bytes]);
      if (stage === 'handshake') {
        const end = rest.indexOf('0{');
        if (end < 0) return;
        report.opened += 1;
        rest = rest.subarray(end - 2);
        if (!joins) {
          start();
        } else {
          stage = 'joining';
          const body = Buffer.from(`40/relay,${JSON.stringify({ token })}`);
          socket.write(Buffer.concat([Buffer.from([0x81, 0x80 | 126, body.length >> 8, body.length & 255, 0, 0, 0, 0]), body]));
        }
      }
      if (stage === 'joining' && rest.includes('40/relay,{')) start();
      const { close, used } = closeIn(rest);
      rest = rest.subarray(used);
      if (close) {
        note(since);
        socket.destroy();
      }
    });
  };
  begin();
}

function polling(port, token, { name, joins, packet }) {
  const label = `polling: ${name}`;
  const body = Array.from({ length: 16_000 }, () => packet(token)).join('\x1e').slice(0, 900_000).split('\x1e').slice(0, -1).join('\x1e');
  const begin = () => {
    const since = { name: label };
    const socket = connect({ port, host: '127.0.0.1', noDelay: true });
    again(socket, begin, since);
    const head = (method, query, length) => `${method} /socket.io/?EIO=4&transport=polling${query} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nContent-Type: text/plain;charset=UTF-8\r\nContent-Length: ${length}\r\n\r\n`;
    socket.write(head('GET', '', 0));
    let text = '';
    let sid;
    socket.on('data', (bytes) => {
      text += bytes.toString('latin1');
      if (!sid) {
        sid = /"sid":"([^"]+)"/.exec(text)?.[1];
        if (!sid) return;
        report.opened += 1;
        const query = `&sid=${sid}`;
        text = '';
        if (joins) {
          const join = `40/relay,${JSON.stringify({ token })}`;
          socket.write(head('POST', query, Buffer.byteLength(join)) + join);
        }
        pour(socket, Buffer.from(head('POST', query, Buffer.byteLength(body)) + body), since);
        return;
      }
      // The session has ended, so the next one is opened on a new connection.
      if (text.includes('Session ID unknown')) {
        note(since);
        socket.destroy();
      }
      text = text.slice(-200);
    });
  };
  begin();
}
