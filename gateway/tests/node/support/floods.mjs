// What clients send to keep a node busy: every kind of packet, repeatedly, from separate processes, which run
// `flood_process.mjs`.

import { execFileSync, fork } from 'node:child_process';
import { setPriority } from 'node:os';
import { fileURLToPath } from 'node:url';

import { OPCODE } from './raw.mjs';
import { within } from './wait.mjs';

const PROGRAM = fileURLToPath(new URL('./flood_process.mjs', import.meta.url));

/** A client's frame with an all-zero mask, which leaves the payload unchanged. */
export function plainFrame(payload, { opcode = OPCODE.text, fin = true } = {}) {
  const body = Buffer.from(payload);
  if (body.length > 125) throw new Error('floods are made of short frames');
  return Buffer.concat([Buffer.from([(fin ? 0x80 : 0) | opcode, 0x80 | body.length, 0, 0, 0, 0]), body]);
}

const texts = (...packets) => Buffer.concat(packets.map((packet) => plainFrame(packet)));

const LIMITED = 'muster_rate_limited_total';
const BAD_INPUT = 'muster_bad_input_total';

/**
 * Every flood over WebSocket: `joins` says whether its sender is a user of the relay, `once(token)` is sent first and
 * `again(token)` repeatedly, `code` is the server's close code and `counted` the metric that counts it.
 */
export const FLOODS = [
  { name: 'CONNECTs without a token', again: () => texts('40'), code: 1008, counted: [LIMITED, 'limit="connects"'] },
  { name: 'CONNECTs to a namespace that there is not', again: () => texts('40/nope,'), code: 1008, counted: [LIMITED, 'limit="connects"'] },
  {
    name: 'CONNECT and DISCONNECT in turn',
    again: (token) => Buffer.concat([longFrame(`40/relay,${JSON.stringify({ token })}`), plainFrame('41/relay,')]),
    code: 1008,
    counted: [LIMITED, 'limit="connects"'],
  },
  { name: 'noops', again: () => texts('6'), code: 1008, counted: [LIMITED, 'limit="ignored_packets"'] },
  { name: 'open packets', again: () => texts('0{}'), code: 1008, counted: [LIMITED, 'limit="ignored_packets"'] },
  { name: 'upgrade packets', again: () => texts('5'), code: 1008, counted: [LIMITED, 'limit="ignored_packets"'] },
  { name: 'pongs', again: () => texts('3'), code: 1008, counted: [LIMITED, 'limit="control_frames"'] },
  { name: 'WebSocket pings', again: () => plainFrame('p', { opcode: OPCODE.ping }), code: 1008, counted: [LIMITED, 'limit="control_frames"'] },
  { name: 'WebSocket pongs', again: () => plainFrame('p', { opcode: OPCODE.pong }), code: 1008, counted: [LIMITED, 'limit="control_frames"'] },
  { name: 'acks that nobody asked for', joins: true, again: () => texts('43/relay,7[]'), code: 1008, counted: [LIMITED, 'limit="unasked_acks"'] },
  { name: 'acks without an id', joins: true, again: () => texts('43/relay,[]'), code: 1008, counted: [LIMITED, 'limit="unasked_acks"'] },
  {
    name: 'messages in two pieces',
    again: () => Buffer.concat([plainFrame('40/no', { fin: false }), plainFrame('pe,', { opcode: OPCODE.continuation })]),
    code: 1008,
    counted: [LIMITED, 'limit="connects"'],
  },
  {
    name: 'acks in many pieces',
    joins: true,
    again: () => Buffer.concat([
      plainFrame('4', { fin: false }),
      ...Array.from({ length: 500 }, () => plainFrame('', { opcode: OPCODE.continuation, fin: false })),
      plainFrame('3/relay,7[]', { opcode: OPCODE.continuation }),
    ]),
    code: 1008,
    counted: [LIMITED, 'limit="fragments"'],
  },
  {
    name: 'a message in empty pieces',
    once: () => plainFrame('4', { fin: false }),
    again: () => plainFrame('', { opcode: OPCODE.continuation, fin: false }),
    code: 1008,
    counted: [BAD_INPUT, 'kind="websocket_frame"'],
  },
  {
    name: 'events with attachments',
    joins: true,
    again: () => Buffer.concat([plainFrame('451-/relay,["echo",{"_placeholder":true,"num":0}]'), plainFrame('x', { opcode: OPCODE.binary })]),
    code: 1008,
    counted: [LIMITED, 'limit="events_per_second"'],
  },
  { name: 'binary messages', again: () => plainFrame('x', { opcode: OPCODE.binary }), code: 1005, counted: [BAD_INPUT, 'kind="socket_packet"'] },
  { name: 'empty messages', again: () => plainFrame(''), code: 1005, counted: [BAD_INPUT, 'kind="engine_packet"'] },
  { name: 'events before the first CONNECT', again: () => texts('42/relay,["echo",1]'), code: 1005, counted: [BAD_INPUT, 'kind="socket_packet"'] },
];

/** The floods in polling bodies: `packet(token)` fills them. */
export const POLLING_FLOODS = [
  // The queued answers, which no GET takes, end the session before its rate does.
  { name: 'CONNECTs without a token', packet: () => '40', counted: ['muster_sessions_closed_total', 'reason="slow_consumer"'] },
  { name: 'CONNECTs to a namespace that there is not', packet: () => '40/nope,', counted: [LIMITED, 'limit="connects"'] },
  { name: 'noops', packet: () => '6', counted: [LIMITED, 'limit="ignored_packets"'] },
  { name: 'pongs', packet: () => '3', counted: [LIMITED, 'limit="control_frames"'] },
  { name: 'acks that nobody asked for', joins: true, packet: () => '43/relay,7[]', counted: [LIMITED, 'limit="unasked_acks"'] },
  {
    name: 'CONNECT and DISCONNECT in turn',
    packet: (token) => `40/relay,${JSON.stringify({ token })}\x1e41/relay,`,
    counted: [LIMITED, 'limit="connects"'],
  },
  {
    name: 'events with attachments',
    joins: true,
    packet: () => '451-/relay,["echo",{"_placeholder":true,"num":0}]\x1ebeA==',
    counted: [LIMITED, 'limit="events_per_second"'],
  },
];

function longFrame(payload) {
  const body = Buffer.from(payload);
  const head = Buffer.from([0x81, 0x80 | 126, body.length >> 8, body.length & 255, 0, 0, 0, 0]);
  return Buffer.concat([head, body]);
}

/** Repeats `unit` up to about 32 KiB. */
export function filled(unit) {
  return Buffer.concat(Array.from({ length: Math.max(1, Math.floor(32_768 / unit.length)) }, () => unit));
}

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/**
 * Floods the gateway on `port` from `connections` connections in a separate process (on `core`, if given); each
 * reconnects as soon as it is closed. Connection `n` sends the flood with that index in `FLOODS`, unless `only` names
 * one, and every eighth sends polling bodies. `stop()` returns `{opened, closed, longest}`: how many connections were
 * opened and closed by the server, and for how many milliseconds at most one flooded before it was closed.
 */
export async function startFloods({ port, token, connections, only, core, priority = 5 }) {
  const child = fork(PROGRAM, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  running.add(child);
  const exited = new Promise((resolve) => { child.once('exit', resolve); }).finally(() => running.delete(child));
  if (core !== undefined) execFileSync('taskset', ['-apc', String(core), String(child.pid)], { stdio: 'ignore' });
  const next = () => within(new Promise((resolve) => { child.once('message', resolve); }), 60_000, 'an answer of the flooding process');
  child.send({ port, token, connections, only });
  await next();
  // The test measures the gateway, not how long its honest client waits for a processor.
  setPriority(child.pid, priority);
  return {
    async stop() {
      const answer = next();
      child.send('stop');
      const report = await answer;
      child.kill('SIGKILL');
      await exited;
      return report;
    },
  };
}
