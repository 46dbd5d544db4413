// Shared parts of the bad-input and limits tests: a gateway with a bystander, the two checks that end every row, and
// the measurements (memory, processor time, open files) that compare a process with a bound.

import assert from 'node:assert/strict';
import { readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { Agent, request as httpRequest } from 'node:http';
import { after, test } from 'node:test';

import { startGateway, sumMetric } from './gateway.mjs';
import { load } from './packages.mjs';
import { OPCODE, encodeFrame, pollingSession, rawConnection, rawEngine, rawSocketIo, request } from './raw.mjs';
import { delay, eventually, once, preview, within } from './wait.mjs';

/** How long a harmless request, or the bystander's next event, may take on a shared machine. */
const PATIENCE = 10_000;

/** The bystander has its own address, so that no per-address limit of a test applies to it. */
const BYSTANDER_ADDRESS = '127.0.0.77';

/** Claims that allow everything on the relay. */
export const EVERYTHING = { rooms: ['*'], publish: ['*'] };

/** Engine.IO's refusals. */
export const ENGINE_ERROR = {
  transport: { code: 0, message: 'Transport unknown' },
  session: { code: 1, message: 'Session ID unknown' },
  method: { code: 2, message: 'Bad handshake method' },
  request: { code: 3, message: 'Bad request' },
  forbidden: { code: 4, message: 'Forbidden' },
  version: { code: 5, message: 'Unsupported protocol version' },
  connections: { code: 4, message: 'Too many connections' },
  requests: { code: 4, message: 'Too many requests' },
};

let counter = 0;

/** A name that is unique in this process. */
export function fresh(kind) {
  counter += 1;
  return `${kind}-${process.pid}-${counter}`;
}

/**
 * A gateway to be attacked, started when the first row needs it and again after a row has killed it, so that one crash
 * is one failure. It is stopped with the file; then it must drain and exit with 0 without having logged an error,
 * whatever the rows did. `env` may be a function, called at the start; `token(claims)` creates the tokens if the
 * gateway does not trust its secret.
 */
export function underAttack({ env = {}, args = [], quiet = true, token } = {}) {
  let starting;
  let gone = true;
  let logged = 0;

  const start = async () => {
    const gateway = await startGateway({ env: typeof env === 'function' ? await env() : env, args });
    if (token) gateway.token = token;
    gateway.exited.then((how) => {
      gateway.ended = how;
      gone = true;
    });
    gateway.bystander = await bystander(gateway);
    logged = 0;
    return gateway;
  };

  after(async () => {
    if (!starting) return;
    const gateway = await starting.catch(() => undefined);
    if (!gateway || gateway.ended) return;
    gateway.bystander.socket.disconnect();
    const { code, signal } = await gateway.stop({ timeout: 15_000 });
    assert.deepEqual({ code, signal }, { code: 0, signal: null }, 'the gateway did not end in order after the rows of this file');
    if (quiet) gateway.assertQuiet();
  });

  const site = {
    gateway() {
      if (gone) {
        gone = false;
        starting = start();
        starting.catch(() => {
          gone = true;
        });
      }
      return starting;
    },

    /** The two checks that end every row; no thread of the gateway may have panicked, either. */
    async unharmed(gateway) {
      const live = await request(gateway.port, 'GET', '/live', { timeout: PATIENCE });
      assert.equal(live.status, 200, 'GET /live');
      await gateway.bystander.next();
      const panic = gateway.logs.slice(logged).find((entry) => /panicked at/.test(entry.unparsed ?? entry.message ?? ''));
      logged = gateway.logs.length;
      assert.equal(panic, undefined, 'a thread of the gateway panicked');
    },

    /** Runs one row. The final checks run even if it failed, because a dead gateway is the worse failure. */
    async row(body) {
      const gateway = await site.gateway();
      let failure;
      try {
        await body(gateway);
      } catch (error) {
        failure = error;
      }
      try {
        await site.unharmed(gateway);
      } catch (error) {
        await Promise.race([gateway.exited, delay(500)]);
        if (gateway.ended)
          throw new Error(`the row ended the gateway (${preview(gateway.ended)})\n${gateway.output.stderr.slice(-4_000)}`, {
            cause: failure ?? error,
          });
        throw new Error(`after the row: ${error.message}`, { cause: failure ?? error });
      }
      if (failure) throw failure;
    },
  };
  return site;
}

/** A test for each row of `table`: `check(gateway, row, t)`, then the final checks. */
export function rows(site, table, check) {
  for (const row of table) {
    test(row.name, { timeout: row.timeout ?? 30_000 }, (t) => site.row((gateway) => check(gateway, row, t)));
  }
}

/** A single row with its own check. */
export function row(site, name, check, { timeout = 30_000 } = {}) {
  test(name, { timeout }, (t) => site.row((gateway) => check(gateway, t)));
}

/**
 * A stock client in the room `bystander` of the relay that receives its own events; `next()` is one such round trip.
 */
async function bystander(gateway) {
  const { io } = load('socket.io-client');
  const socket = io(`${gateway.url}/relay`, {
    transports: ['websocket'],
    forceNew: true,
    reconnection: false,
    agent: new Agent({ localAddress: BYSTANDER_ADDRESS }),
    auth: { token: gateway.token({ sub: 'bystander', rooms: ['bystander'], publish: ['bystander'] }) },
  });
  await Promise.race([
    once(socket, 'connect', { timeout: 10_000 }),
    once(socket, 'connect_error', { timeout: 10_000 }).then(([error]) => {
      throw error;
    }),
  ]);
  const joined = await within(socket.emitWithAck('join', { room: 'bystander' }), PATIENCE, 'the bystander to join its room');
  assert.deepEqual(joined, { success: true, room: 'bystander' });
  let last = 0;
  return {
    socket,
    async next() {
      assert.ok(socket.connected, 'the bystander has lost its connection');
      last += 1;
      const mine = last;
      const heard = once(socket, 'tick', { timeout: PATIENCE, filter: (tick) => tick === mine });
      socket.emit('publish', { room: 'bystander', event: 'tick', data: mine });
      await heard;
    },
  };
}

/** A stock client that closes with the test; resolves when it is connected, rejects on `connect_error`. */
export async function stock(t, gateway, namespace, claims = {}, options = {}) {
  const { io } = load('socket.io-client');
  const socket = io(`${gateway.url}${namespace}`, {
    transports: ['websocket'],
    forceNew: true,
    reconnection: false,
    ackTimeout: 5_000,
    auth: { token: gateway.token({ sub: fresh('user'), ...claims }) },
    ...options,
  });
  t.after(() => socket.disconnect());
  await Promise.race([
    once(socket, 'connect', { timeout: 10_000 }),
    once(socket, 'connect_error', { timeout: 10_000 }).then(([error]) => {
      throw error;
    }),
  ]);
  return socket;
}

/** A raw WebSocket after the Engine.IO open packet, destroyed with the test. */
export async function engine(t, gateway, options) {
  const ws = await rawEngine(gateway.port, options);
  t.after(() => ws.destroy());
  return ws;
}

/** A raw WebSocket that has joined `namespace` as a unique user, destroyed with the test. */
export async function joined(t, gateway, { namespace = '/relay', claims = {}, ...options } = {}) {
  const token = gateway.token({ sub: fresh('user'), ...EVERYTHING, ...claims });
  const ws = await rawSocketIo(gateway.port, { namespace, token, ...options });
  t.after(() => ws.destroy());
  return ws;
}

/** Emits an event with an ack over a raw WebSocket and returns the ack's first argument. */
export async function ask(ws, event, data, { id = (counter += 1), timeout } = {}) {
  ws.send(`42${ws.prefix}${id}${JSON.stringify([event, data])}`);
  const head = `43${ws.prefix}${id}[`;
  for (;;) {
    const text = await ws.nextText({ timeout });
    if (typeof text === 'string' && text.startsWith(head)) return JSON.parse(text.slice(head.length - 1))[0];
  }
}

/** Asserts that the connection is still served: an ack arrives after everything sent before. */
export async function alive(ws) {
  assert.equal(await ask(ws, 'echo', 'alive'), 'alive');
}

/** Asserts that the server closes the WebSocket with `code` (a number or several), and then the connection. */
export async function closes(ws, code, { timeout = 5_000 } = {}) {
  const end = await ws.untilClosed({ timeout });
  const codes = [code].flat();
  assert.ok(codes.includes(end.code), `closed with ${end.code} ${JSON.stringify(end.reason)} instead of ${codes.join(' or ')}`);
  await within(ws.gone, timeout, 'the end of the TCP connection after the close frame');
  return end;
}

/** Asserts that the long-polling session is unknown from now on. */
export async function forgotten(session) {
  const next = await session.get();
  assert.deepEqual({ status: next.status, error: parse(next.body) }, { status: 400, error: ENGINE_ERROR.session });
}

/** A connected long-polling session (namespace joined), its answers read. */
export async function pollingJoined(gateway, { namespace = '/relay', claims = {} } = {}) {
  const session = await pollingSession(gateway.port);
  session.prefix = namespace === '/' ? '' : `${namespace},`;
  const token = gateway.token({ sub: fresh('user'), ...EVERYTHING, ...claims });
  assert.equal((await session.post(`40${session.prefix}${JSON.stringify({ token })}`)).status, 200);
  const packets = await session.pollUntil((seen) => seen.some((packet) => packet.startsWith('40')));
  assert.match(packets[0], new RegExp(`^40${session.prefix}\\{"sid":"[\\w-]{20}"\\}$`));
  return session;
}

/**
 * Begins a GET of a polling session; resolves with `{answer}`, the promise of its answer, after the server has had time
 * to park it.
 */
export async function park(gateway, session) {
  const answer = session.get();
  // A parked GET cannot be observed; later requests have been answered by then.
  await request(gateway.port, 'GET', '/live');
  await delay(50);
  return { answer };
}

/** The body as JSON, or the body. */
export function parse(body) {
  try {
    return JSON.parse(body);
  } catch {
    return body;
  }
}

/** Asserts that an answer is exactly `{success: false, error}`; returns the error. */
export function refusal(answer) {
  assert.deepEqual({ ...answer, error: typeof answer?.error }, { success: false, error: 'string' }, preview(answer));
  return answer.error;
}

/** A packet with the keys of its objects sorted, for comparing packets that differ only in their order. */
export function canonical(packet) {
  if (typeof packet !== 'string') return packet;
  const [, head, json] = /^(4[2346](?:\d+-)?(?:\/[^,]*,)?\d*)([[{].*)$/s.exec(packet) ?? [];
  if (json === undefined || !/"(?:success|message)":/.test(json)) return packet;
  return (
    head +
    JSON.stringify(JSON.parse(json), (_, value) =>
      value && typeof value === 'object' && !Array.isArray(value)
        ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
        : value,
    )
  );
}

/** How many HTTP responses begin in the received bytes. */
export function responses(raw) {
  return raw.toString('latin1').split(/HTTP\/1\.[01] \d{3}/).length - 1;
}

/**
 * Writes `first`, then `rest` when the answer has begun, and returns everything received until the server has closed.
 */
export async function untilServerCloses(port, first, { rest, timeout = 5_000 } = {}) {
  const connection = await rawConnection(port, { timeout });
  try {
    connection.write(first);
    if (rest) {
      await connection.response({ timeout });
      connection.write(rest);
    }
    await within(connection.closed, timeout, `the server to close; received ${preview(connection.raw().toString('latin1'))}`);
    return connection.raw();
  } finally {
    connection.destroy();
  }
}

/** Writes the results of `make(i)` at the pace of the peer, until the connection is closed or `count` is reached. */
export async function pour(socket, count, make) {
  let over = socket.destroyed;
  let wake = () => {};
  const ended = () => {
    over = true;
    wake();
  };
  const drained = () => wake();
  socket.on('close', ended);
  socket.on('drain', drained);
  let written = 0;
  for (; written < count && !over; written += 1) {
    if (!socket.write(make(written)))
      await new Promise((resolve) => {
        wake = resolve;
        if (over) resolve();
      });
  }
  socket.off('close', ended);
  socket.off('drain', drained);
  return written;
}

/** Resident memory of a process in bytes. */
export function resident(pid) {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) * 1024;
}

/** The processor time that a process has used, in seconds. */
export function processorTime(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** How many sockets a process has open; the database's own files vary with its connections. */
export function openSockets(pid) {
  const target = (file) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${file}`);
    } catch {
      return '';
    }
  };
  return readdirSync(`/proc/${pid}/fd`).filter((file) => target(file).startsWith('socket:')).length;
}

/** Asserts that the process grows by at most `bytes` while `body` runs; checked continuously. */
export async function growsAtMost(pid, bytes, body) {
  const before = resident(pid);
  let most = before;
  const look = () => {
    most = Math.max(most, resident(pid));
  };
  const watch = setInterval(look, 20);
  try {
    const result = await body();
    look();
    assert.ok(most - before <= bytes, `the gateway grew by ${most - before} bytes, more than ${bytes}`);
    return result;
  } finally {
    clearInterval(watch);
  }
}

/** Asserts that `body` costs the process at most `seconds` of processor time. */
export async function costsAtMost(pid, seconds, body) {
  const before = processorTime(pid);
  const result = await body();
  const cost = processorTime(pid) - before;
  assert.ok(cost <= seconds, `the gateway used ${cost.toFixed(2)} s of processor time, more than ${seconds}`);
  return result;
}

/**
 * A counter or gauge: `total()` is its current value, `grows(by)` waits until it is that much above its first value.
 */
export async function meter(gateway, name, ...labels) {
  const total = async () => sumMetric(await gateway.metrics(), name, ...labels);
  const start = await total();
  return {
    start,
    total,
    grows: (by = 1, { timeout = 5_000 } = {}) =>
      eventually(async () => (await total()) >= start + by, {
        timeout,
        what: `${name}{${labels.join(',')}} to grow by ${by} from ${start}`,
      }),
    returns: ({ to = start, timeout = 5_000 } = {}) =>
      eventually(async () => (await total()) <= to, {
        timeout,
        what: `${name}{${labels.join(',')}} to come down to ${to}`,
      }),
  };
}

/**
 * One request from a given loopback address: `{status, headers, body}`; a successful upgrade returns status 101 and the
 * open `socket`.
 */
export function requestFrom(localAddress, port, path, { method = 'GET', headers = {}, body: sent, timeout = 5_000 } = {}) {
  return within(
    new Promise((resolve, reject) => {
      const asked = httpRequest({ host: '127.0.0.1', port, localAddress, method, path, headers, agent: false });
      asked.on('error', reject);
      asked.on('upgrade', (answer, socket) => {
        socket.on('error', () => {});
        socket.resume();
        resolve({ status: 101, headers: answer.headers, body: '', socket });
      });
      asked.on('response', (answer) => {
        let body = '';
        answer.setEncoding('utf8').on('data', (text) => {
          body += text;
        });
        answer.on('end', () => resolve({ status: answer.statusCode, headers: answer.headers, body }));
        answer.on('error', reject);
      });
      asked.end(sent);
    }),
    timeout,
    `an answer from ${path} to ${localAddress}`,
  );
}

/** An Engine.IO handshake by long-polling from a given address. */
export function handshakeFrom(localAddress, port, headers = {}) {
  return requestFrom(localAddress, port, '/socket.io/?EIO=4&transport=polling', { headers });
}

/** A WebSocket handshake from a given address; the socket is destroyed with the test. */
export async function upgradeFrom(t, localAddress, port, headers = {}) {
  const answer = await requestFrom(localAddress, port, '/socket.io/?EIO=4&transport=websocket', {
    headers: {
      Connection: 'Upgrade',
      Upgrade: 'websocket',
      'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==',
      'Sec-WebSocket-Version': '13',
      ...headers,
    },
  });
  if (answer.socket) t.after(() => answer.socket.destroy());
  return answer;
}

/** Asserts a refusal by a maximum or a rate: its status, its body, and when to retry. */
export function refusedForNow(answer, status, error) {
  assert.deepEqual({ status: answer.status, error: parse(answer.body) }, { status, error });
  assert.match(answer.headers['retry-after'] ?? 'no Retry-After', /^[1-9]\d*$/);
}

/** A close frame with this status code and reason. */
export function closeFrame(code, reason = '') {
  const head = Buffer.from([code >> 8, code & 255]);
  return encodeFrame({ opcode: OPCODE.close, payload: Buffer.concat([head, Buffer.from(reason)]) });
}
