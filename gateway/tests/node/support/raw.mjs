// Hand-written HTTP, WebSocket and Engine.IO over node:net, for bytes that no well-behaved client would send. Nothing
// here checks what it writes; everything read is returned as received.

import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';

import { preview, within } from './wait.mjs';

const DEADLINE = 5_000;
const SEPARATOR = '\x1e';

/** WebSocket opcodes by name. */
export const OPCODE = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 };

/**
 * A TCP connection for hand-written HTTP/1.1. `response()` reads the next response; `closed` resolves (with `{reset}`)
 * when the server has closed.
 */
export async function rawConnection(port, { host = '127.0.0.1', timeout = DEADLINE } = {}) {
  const socket = connect({ port, host, noDelay: true });
  await within(new Promise((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', reject);
  }), timeout, `a connection to ${host}:${port}`);

  let buffer = Buffer.alloc(0);
  const received = [];
  let ended = false;
  let reset = false;
  const waiting = new Set();
  const wake = () => { for (const look of [...waiting]) look(); };
  socket.on('data', (bytes) => {
    received.push(bytes);
    buffer = Buffer.concat([buffer, bytes]);
    wake();
  });
  socket.on('error', () => { reset = true; });
  socket.on('end', () => { ended = true; wake(); });
  const closed = new Promise((resolve) => {
    socket.on('close', () => { ended = true; wake(); resolve({ reset }); });
  });

  const read = (take, what, limit) => within(new Promise((resolve, reject) => {
    const look = () => {
      try {
        const value = take();
        if (value === undefined) return;
        waiting.delete(look);
        resolve(value);
      } catch (error) {
        waiting.delete(look);
        reject(error);
      }
    };
    waiting.add(look);
    look();
  }), limit, `${what}; received so far ${preview(buffer.toString('latin1'))}`);

  return {
    socket,
    closed,
    write: (bytes) => { if (!socket.destroyed) socket.write(bytes); },
    /** Half-closes: sends no more bytes. */
    end: () => socket.end(),
    destroy: () => socket.destroy(),
    reset: () => socket.resetAndDestroy(),
    /** Everything received so far. */
    raw: () => Buffer.concat(received),
    /** Bytes received and not consumed by `response()`; empties the buffer (for bytes after a 101). */
    takeRest() {
      const rest = buffer;
      buffer = Buffer.alloc(0);
      return rest;
    },
    /** The next response `{status, headers, body, bytes}`; status 0 if the server closed without one. */
    response: ({ timeout: limit = timeout, method = 'GET' } = {}) => read(() => {
      const parsed = parseResponse(buffer, ended, method);
      if (!parsed) return undefined;
      buffer = buffer.subarray(parsed.length);
      return parsed.response;
    }, 'an HTTP response', limit),
  };
}

/**
 * Writes `bytes` on a new connection and reads one response: `{status, headers, body, closed, raw}`. `closed` is
 * whether the server closed the connection: awaited if the response has `Connection: close` or if `untilClosed` is set,
 * otherwise as known when the response is complete. No response at all is `{status: 0, closed: true}`.
 */
export async function rawHttp(port, bytes, { timeout = DEADLINE, untilClosed = false, host } = {}) {
  const connection = await rawConnection(port, { timeout, host });
  try {
    connection.write(bytes);
    const response = await connection.response({ timeout, method: String(bytes).split(' ', 1)[0] });
    const closing = response.closed || untilClosed || /\bclose\b/i.test(response.headers.connection ?? '');
    if (closing) await within(connection.closed, timeout, `the end of the connection after ${response.status}`);
    return { ...response, closed: closing, raw: connection.raw() };
  } finally {
    connection.destroy();
  }
}

/** The text of a request with `Host`, `Content-Length` (for a body) and the given headers; `null` omits one. */
export function requestText(port, method, path, { headers = {}, body } = {}) {
  const all = { Host: `127.0.0.1:${port}`, ...headers };
  if (body !== undefined && !('Content-Length' in all) && !('Transfer-Encoding' in all)) {
    all['Content-Length'] = Buffer.byteLength(body);
  }
  const head = Object.entries(all).filter(([, value]) => value !== null).map(([name, value]) => `${name}: ${value}\r\n`).join('');
  const start = Buffer.from(`${method} ${path} HTTP/1.1\r\n${head}\r\n`, 'latin1');
  return body === undefined ? start : Buffer.concat([start, Buffer.from(body)]);
}

/** One request on a new connection. */
export function request(port, method, path, { headers, body, timeout } = {}) {
  return rawHttp(port, requestText(port, method, path, { headers, body }), { timeout });
}

/** The error of `rawWebSocket` if the answer was not 101: `status`, `headers`, `body`. */
export class HandshakeRefused extends Error {
  constructor(response) {
    super(`the WebSocket handshake was answered ${response.status} ${preview(response.body)}`);
    Object.assign(this, response);
  }
}

/**
 * A hand-written WebSocket. `target` is a port or a URL; a header of `null` is omitted.
 *
 * `next()` returns the frames in order, `{fin, rsv, opcode, payload, text}`, and then `{closed: true, code, reason}`:
 * the server's close code, 1005 for an empty close frame, 1006 if the connection ended without one (`reset: true` for a
 * TCP reset). Answers the server's close frame unless `replyClose` is false.
 */
export async function rawWebSocket(target, path = '/socket.io/?EIO=4&transport=websocket', { headers = {}, timeout = DEADLINE, replyClose = true } = {}) {
  const port = typeof target === 'number' ? target : Number(new URL(target).port);
  const connection = await rawConnection(port, { timeout });
  const { socket } = connection;
  connection.write(requestText(port, 'GET', path, {
    headers: {
      Upgrade: 'websocket',
      Connection: 'Upgrade',
      'Sec-WebSocket-Key': randomBytes(16).toString('base64'),
      'Sec-WebSocket-Version': '13',
      ...headers,
    },
  }));
  const response = await connection.response({ timeout });
  if (response.status !== 101) {
    const closed = response.closed || await Promise.race([connection.closed.then(() => true), new Promise((resolve) => setImmediate(resolve, false))]);
    const refused = new HandshakeRefused({ ...response, closed });
    refused.connection = connection;
    socket.destroy();
    throw refused;
  }

  const queue = [];
  const waiting = [];
  let buffer = Buffer.alloc(0);
  let ending;
  const deliver = (frame) => {
    const taker = waiting.shift();
    if (taker) taker(frame);
    else queue.push(frame);
  };
  const finish = (end) => {
    if (ending) return;
    ending = { closed: true, ...end };
    for (const taker of waiting.splice(0)) taker(ending);
  };
  const feed = (bytes) => {
    buffer = Buffer.concat([buffer, bytes]);
    for (let frame = parseFrame(buffer); frame; frame = parseFrame(buffer)) {
      buffer = buffer.subarray(frame.length);
      if (frame.opcode !== OPCODE.close) {
        deliver(frame);
        continue;
      }
      const code = frame.payload.length >= 2 ? frame.payload.readUInt16BE(0) : 1005;
      if (replyClose && !socket.destroyed) socket.write(encodeFrame({ opcode: OPCODE.close, payload: frame.payload.subarray(0, 2) }));
      finish({ code, reason: frame.payload.subarray(2).toString() });
      return;
    }
  };
  socket.removeAllListeners('data');
  socket.on('data', feed);
  connection.closed.then(({ reset }) => finish({ code: 1006, reason: '', reset }));
  feed(connection.takeRest());

  const api = {
    socket,
    response,
    connection,
    /** One text message in one masked frame. */
    send: (text) => api.sendFrame({ opcode: OPCODE.text, payload: text }),
    sendBinary: (bytes) => api.sendFrame({ opcode: OPCODE.binary, payload: bytes }),
    /** A frame with any bits; `announce` declares a wrong length. */
    sendFrame: (frame) => { if (!socket.destroyed) socket.write(encodeFrame(frame)); },
    /** Raw bytes, not necessarily a frame. */
    sendBytes: (bytes) => { if (!socket.destroyed) socket.write(bytes); },
    next: ({ timeout: limit = timeout } = {}) => {
      if (queue.length) return Promise.resolve(queue.shift());
      if (ending) return Promise.resolve(ending);
      let taker;
      const frame = new Promise((resolve) => { taker = resolve; waiting.push(taker); });
      return within(frame, limit, 'a WebSocket frame').catch((error) => {
        const at = waiting.indexOf(taker);
        if (at >= 0) waiting.splice(at, 1);
        throw error;
      });
    },
    /** The text of the next frame; answers and skips Engine.IO pings. */
    async nextText(options) {
      for (;;) {
        const frame = await api.next(options);
        if (frame.closed) throw new Error(`closed with ${frame.code} ${frame.reason} while a text was expected`);
        if (frame.opcode === OPCODE.text && frame.text === '2') {
          api.send('3');
          continue;
        }
        return frame.opcode === OPCODE.text ? frame.text : frame.payload;
      }
    },
    /** Reads until the server has closed: `{closed, code, reason, frames}`. */
    async untilClosed(options) {
      const frames = [];
      for (;;) {
        const frame = await api.next(options);
        if (frame.closed) return { ...frame, frames };
        frames.push(frame);
      }
    },
    /** Closes the client's side; `code` undefined sends an empty close frame. */
    close: (code) => {
      if (socket.destroyed) return;
      const payload = code === undefined ? Buffer.alloc(0) : Buffer.from([code >> 8, code & 255]);
      socket.write(encodeFrame({ opcode: OPCODE.close, payload }));
      socket.end();
    },
    destroy: () => socket.destroy(),
    /** Resolves when the TCP connection has ended. */
    gone: connection.closed,
  };
  return api;
}

/** A WebSocket after the Engine.IO open packet: like `rawWebSocket`, with `sid` and `open`. */
export async function rawEngine(port, { headers, query = '', timeout } = {}) {
  const ws = await rawWebSocket(port, `/socket.io/?EIO=4&transport=websocket${query}`, { headers, timeout });
  const text = await ws.nextText();
  if (typeof text !== 'string' || !text.startsWith('0{')) throw new Error(`no open packet but ${preview(text)}`);
  ws.open = JSON.parse(text.slice(1));
  ws.sid = ws.open.sid;
  return ws;
}

/** A WebSocket that has joined `namespace` with `token`: like `rawEngine`, with `id` (the Socket.IO one). */
export async function rawSocketIo(port, { token, namespace = '/', headers, query, timeout } = {}) {
  const ws = await rawEngine(port, { headers, query, timeout });
  ws.prefix = namespace === '/' ? '' : `${namespace},`;
  ws.send(`40${ws.prefix}${token === undefined ? '' : JSON.stringify({ token })}`);
  const text = await ws.nextText({ timeout });
  const expected = `40${ws.prefix}{`;
  if (typeof text !== 'string' || !text.startsWith(expected)) throw new Error(`no CONNECT reply but ${preview(text)}`);
  ws.id = JSON.parse(text.slice(expected.length - 1)).sid;
  return ws;
}

/**
 * An Engine.IO session over long-polling: `get()` and `post(body, headers)` return `{status, headers, body, packets}`,
 * where `packets` is the body split at 0x1e.
 */
export async function pollingSession(port, { headers = {}, query = '', timeout = 30_000 } = {}) {
  const base = `/socket.io/?EIO=4&transport=polling${query}`;
  const ask = async (method, path, options = {}) => {
    const response = await request(port, method, path, { timeout, ...options, headers: { ...headers, ...options.headers } });
    return { ...response, packets: response.body === '' ? [] : response.body.split(SEPARATOR) };
  };
  const opened = await ask('GET', base);
  if (opened.status !== 200) throw new Error(`the handshake was answered ${opened.status} ${preview(opened.body)}`);
  const open = JSON.parse(opened.packets[0].slice(1));
  const path = `${base}&sid=${open.sid}`;
  return {
    sid: open.sid,
    open,
    path,
    opened,
    get: (extra) => ask('GET', path, { headers: extra }),
    post: (body, extra = { 'Content-Type': 'text/plain;charset=UTF-8' }) => ask('POST', path, { headers: extra, body }),
    /** Polls until `packets` of one answer satisfy `filter`; answers pings; returns all packets in order. */
    async pollUntil(filter) {
      const seen = [];
      for (;;) {
        const answer = await ask('GET', path);
        if (answer.status !== 200) throw new Error(`the poll was answered ${answer.status} ${preview(answer.body)} after ${preview(seen)}`);
        seen.push(...answer.packets.filter((packet) => packet !== '2'));
        if (answer.packets.includes('2')) await ask('POST', path, { body: '3' });
        if (filter(seen)) return seen;
      }
    },
  };
}

/** One frame with the given bits. Masked with a random key unless `masked` is false. */
export function encodeFrame({ fin = true, rsv = 0, opcode = OPCODE.text, masked = true, payload = '', announce } = {}) {
  const body = Buffer.from(payload);
  const length = announce ?? body.length;
  const head = [(fin ? 0x80 : 0) | ((rsv & 7) << 4) | (opcode & 15)];
  const mask = masked ? 0x80 : 0;
  if (typeof length === 'bigint' || length > 0xffff) {
    const wide = Buffer.alloc(8);
    wide.writeBigUInt64BE(BigInt(length));
    head.push(mask | 127, ...wide);
  } else if (length > 125) {
    head.push(mask | 126, length >> 8, length & 255);
  } else {
    head.push(mask | length);
  }
  if (!masked) return Buffer.concat([Buffer.from(head), body]);
  const key = randomBytes(4);
  const out = Buffer.alloc(body.length);
  for (let at = 0; at < body.length; at += 1) out[at] = body[at] ^ key[at & 3];
  return Buffer.concat([Buffer.from(head), key, out]);
}

function parseFrame(buffer) {
  if (buffer.length < 2) return undefined;
  let at = 2;
  let size = buffer[1] & 127;
  if (size === 126) {
    if (buffer.length < 4) return undefined;
    size = buffer.readUInt16BE(2);
    at = 4;
  } else if (size === 127) {
    if (buffer.length < 10) return undefined;
    size = Number(buffer.readBigUInt64BE(2));
    at = 10;
  }
  const masked = (buffer[1] & 128) !== 0;
  if (masked) throw new Error('the server sent a masked frame');
  if (buffer.length < at + size) return undefined;
  const payload = Buffer.from(buffer.subarray(at, at + size));
  const opcode = buffer[0] & 15;
  return {
    fin: (buffer[0] & 128) !== 0,
    rsv: (buffer[0] >> 4) & 7,
    opcode,
    payload,
    text: opcode === OPCODE.text ? payload.toString() : undefined,
    length: at + size,
  };
}

/** `{response, length}` if `buffer` contains a complete response (or the connection ended), otherwise undefined. */
function parseResponse(buffer, ended, method) {
  const none = { response: { status: 0, statusText: '', headers: {}, body: '', bytes: Buffer.alloc(0), closed: true }, length: buffer.length };
  const end = buffer.indexOf('\r\n\r\n');
  if (end < 0) return ended ? none : undefined;
  const [start, ...fields] = buffer.subarray(0, end).toString('latin1').split('\r\n');
  const match = /^HTTP\/1\.[01] (\d{3}) ?(.*)$/.exec(start);
  if (!match) throw new Error(`not an HTTP response: ${preview(start)}`);
  const status = Number(match[1]);
  const headers = {};
  for (const field of fields) {
    const colon = field.indexOf(':');
    const name = field.slice(0, colon).toLowerCase();
    const value = field.slice(colon + 1).trim();
    headers[name] = name in headers ? `${headers[name]}, ${value}` : value;
  }
  const from = end + 4;
  const finish = (bytes, length, closed) => ({
    response: { status, statusText: match[2], headers, body: bytes.toString(), bytes, closed },
    length,
  });
  if (status === 100) return parseNext(buffer, from, ended, method);
  if (status < 200 || status === 204 || status === 304 || method === 'HEAD') return finish(Buffer.alloc(0), from, false);
  if (/chunked/i.test(headers['transfer-encoding'] ?? '')) {
    const chunks = parseChunks(buffer, from);
    if (chunks) return finish(chunks.bytes, chunks.length, false);
    return ended ? finish(buffer.subarray(from), buffer.length, true) : undefined;
  }
  if (headers['content-length'] !== undefined) {
    const size = Number(headers['content-length']);
    if (buffer.length >= from + size) return finish(Buffer.from(buffer.subarray(from, from + size)), from + size, false);
    return ended ? finish(buffer.subarray(from), buffer.length, true) : undefined;
  }
  return ended ? finish(Buffer.from(buffer.subarray(from)), buffer.length, true) : undefined;
}

function parseNext(buffer, from, ended, method) {
  const next = parseResponse(buffer.subarray(from), ended, method);
  return next && { response: next.response, length: from + next.length };
}

function parseChunks(buffer, from) {
  const parts = [];
  let at = from;
  for (;;) {
    const line = buffer.indexOf('\r\n', at);
    if (line < 0) return undefined;
    const size = Number.parseInt(buffer.subarray(at, line).toString('latin1'), 16);
    if (!Number.isInteger(size)) throw new Error('a chunk without a size');
    at = line + 2;
    if (buffer.length < at + size + 2) return undefined;
    if (size === 0) return { bytes: Buffer.concat(parts), length: at + 2 };
    parts.push(buffer.subarray(at, at + size));
    at += size + 2;
  }
}
