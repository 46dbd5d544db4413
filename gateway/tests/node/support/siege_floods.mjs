// Connections that flood: each sends one kind of packet as fast as the server reads it, and comes back at once when the server
// has closed it.

import { connect } from 'node:net';

import { OPCODE, encodeFrame } from './raw.mjs';
import { delay } from './wait.mjs';

const BLOCK = 64 * 1024;

/** A block of about 64 KiB that repeats `frames`. */
function block(...frames) {
  const once = Buffer.concat(frames.map((frame) => encodeFrame(typeof frame === 'string' ? { payload: frame } : frame)));
  return Buffer.concat(Array.from({ length: Math.max(1, Math.floor(BLOCK / once.length)) }, () => once));
}

/** The kinds of flood: what is sent first (`enter`, to join a namespace), and then again and again. */
function kinds(token) {
  const enter = `40/relay,${JSON.stringify({ token })}`;
  return [
    { name: 'CONNECT', flood: block('40') },
    { name: 'refused CONNECT', flood: block('40/nope,') },
    { name: 'noop', flood: block('6') },
    { name: 'pong', flood: block('3') },
    { name: 'control frames', flood: block({ opcode: OPCODE.pong }) },
    { name: 'fragments', flood: block({ fin: false, opcode: OPCODE.text, payload: '4' }, ...Array.from({ length: 1_000 }, () => ({ fin: false, opcode: OPCODE.continuation }))) },
    { name: 'CONNECT and DISCONNECT', enter, flood: block('41/relay,', enter) },
    { name: 'acks', enter, flood: block('43/relay,12345["x"]') },
    { name: 'binary pieces', enter, flood: block('451-/relay,["publish",{"_placeholder":true,"num":0}]', { opcode: OPCODE.binary, payload: 'x' }) },
    { name: 'events', enter, flood: block('42/relay,["echo",1]') },
    { name: 'DISCONNECT', enter, flood: block('41/relay,') },
  ];
}

export function part() {
  const report = { closed: {}, slowest: 0, lives: [], bytes: 0, refused: 0 };
  const open = new Set();
  let isOn = true;

  /** One connection's life: how long the server bore the flood, in milliseconds; undefined when it never began. */
  const flood = (port, kind, address) => new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1', localAddress: address, noDelay: true });
    open.add(socket);
    let began;
    let head = '';
    const pour = () => {
      while (isOn && !socket.destroyed && socket.write(kind.flood)) report.bytes += kind.flood.length;
    };
    socket.on('connect', () => socket.write('GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n'));
    socket.on('data', (bytes) => {
      if (began !== undefined) return;
      head += bytes.toString('latin1');
      if (!head.includes('\r\n\r\n')) return;
      if (!head.startsWith('HTTP/1.1 101')) {
        report.refused += 1;
        socket.destroy();
        return;
      }
      began = performance.now();
      if (kind.enter) socket.write(encodeFrame({ payload: kind.enter }));
      pour();
    });
    socket.on('drain', pour);
    // The server's close is what counts; that our writes then fail is its consequence.
    socket.on('end', () => socket.destroy());
    socket.on('error', () => {});
    socket.on('close', () => {
      open.delete(socket);
      resolve(began === undefined ? undefined : performance.now() - began);
    });
  });

  const attacker = async (port, kind, address) => {
    while (isOn) {
      const lived = await flood(port, kind, address);
      if (!isOn) return;
      if (lived !== undefined) {
        report.closed[kind.name] = (report.closed[kind.name] ?? 0) + 1;
        report.lives.push(lived);
        report.slowest = Math.max(report.slowest, lived);
      }
      await delay(10);
    }
  };

  return {
    start({ ports, token, connections }) {
      const all = kinds(token);
      for (let at = 0; at < connections; at += 1) attacker(ports[at % ports.length], all[at % all.length], `127.0.2.${(at % 250) + 1}`);
      return all.map(({ name }) => name);
    },
    report: () => ({ ...report, lives: report.lives.slice(-50_000), still: open.size }),
    end() {
      isOn = false;
      for (const socket of open) socket.destroy();
    },
  };
}
