// Polling handshakes at a fixed rate from one address, pipelined over a few connections, whose sessions never join a
// namespace.

import { connect } from 'node:net';

const REQUEST = 'GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\n\r\n';
const TICK_MS = 10;
/** Maximum bytes of requests that wait in this process for a server that does not read. */
const BACKLOG = 1_000 * REQUEST.length;

export function part() {
  const report = { sent: 0, answers: {}, closed: 0 };
  const open = new Set();
  let isOn = true;
  let timer;

  const line = (port, address) => {
    const socket = connect({ port, host: '127.0.0.1', localAddress: address, noDelay: true });
    open.add(socket);
    socket.setEncoding('latin1').on('data', (text) => {
      for (const [, status] of text.matchAll(/HTTP\/1\.1 (\d{3})/g)) report.answers[status] = (report.answers[status] ?? 0) + 1;
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      open.delete(socket);
      report.closed += 1;
      if (isOn) setTimeout(line, 10, port, address);
    });
  };

  return {
    start({ ports, perSecond, lines = 8, address = '127.0.3.1' }) {
      for (let at = 0; at < lines; at += 1) line(ports[at % ports.length], address);
      const started = performance.now();
      timer = setInterval(() => {
        const due = Math.floor(((performance.now() - started) / 1_000) * perSecond) - report.sent;
        const ready = [...open].filter((socket) => !socket.connecting && socket.writableLength < BACKLOG);
        if (!ready.length) return;
        const each = Math.min(1_000, Math.ceil(due / ready.length));
        if (each <= 0) return;
        const batch = REQUEST.repeat(each);
        for (const socket of ready) socket.write(batch);
        report.sent += each * ready.length;
      }, TICK_MS);
      return true;
    },
    report: () => report,
    end() {
      isOn = false;
      clearInterval(timer);
      for (const socket of open) socket.destroy();
    },
  };
}
