// One user with a valid token who exhausts every limit: all sockets, all rooms, all events, the widest questions.

import { rawSocketIo } from './raw.mjs';
import { bounded } from './clients.mjs';

const TICK_MS = 50;

export function part() {
  const report = { sockets: 0, refused: 0, sent: 0, received: 0, ended: 0 };
  const sockets = [];
  let timer;
  let lookAt = 0;

  /** The events of one socket in turn: cheap ones, and the most expensive ones for a server. */
  const events = (namespace, rooms, users) => (namespace === '/relay'
    ? [
        ['echo', 'x'.repeat(200)],
        ['members', { room: rooms[0] }],
        ['publish', { room: rooms[lookAt++ % rooms.length], event: 'noise', data: 'x'.repeat(200) }],
      ]
    : [
        ['presence:get', { userIds: users }],
        ['room_history', { roomId: rooms[0] }],
        ['message:history', { recipientId: users[0] }],
        ['notification:list', {}],
        ['send_message', { roomId: rooms[0], content: 'noise' }],
      ]);

  const enter = async (port, namespace, token, rooms, users) => {
    const ws = await rawSocketIo(port, { token, namespace, timeout: 20_000 });
    report.sockets += 1;
    ws.socket.removeAllListeners('data');
    ws.socket.on('data', (bytes) => { report.received += bytes.length; });
    ws.socket.on('close', () => { report.ended += 1; });
    ws.socket.on('error', () => {});
    const joins = namespace === '/relay' ? rooms.map((room) => ['join', { room }]) : rooms.map((room) => ['join_room', room]);
    for (const event of joins) ws.send(`42${ws.prefix}${JSON.stringify(event)}`);
    if (namespace === '/') ws.send(`42${ws.prefix}${JSON.stringify(['presence:subscribe', { userIds: users }])}`);
    sockets.push({ ws, namespace, rooms, users });
  };

  return {
    async start({ ports, token, perNamespace, rooms, watched, perSecond }) {
      const users = Array.from({ length: watched }, (_, at) => `watched-${at}`);
      const names = Array.from({ length: rooms }, (_, at) => `siege-${at}`);
      for (const namespace of ['/', '/relay']) {
        await bounded(perNamespace, 10, (at) => enter(ports[at % ports.length], namespace, token, names, users).catch(() => { report.refused += 1; }));
      }
      let id = 0;
      timer = setInterval(() => {
        for (const { ws, namespace, rooms: own, users: theirs } of sockets) {
          // Skips a socket that does not drain; the kernel's buffer bounds what is sent.
          if (ws.socket.destroyed || ws.socket.writableLength > 64 * 1024) continue;
          const all = events(namespace, own, theirs);
          for (let at = 0; at < (perSecond * TICK_MS) / 1_000; at += 1) {
            id += 1;
            ws.send(`42${ws.prefix}${id}${JSON.stringify(all[id % all.length])}`);
            report.sent += 1;
          }
        }
      }, TICK_MS);
      return report;
    },
    report: () => report,
    /** Closes every socket at once. */
    closeAll() {
      for (const { ws } of sockets.splice(0)) ws.destroy();
      return true;
    },
    end() {
      clearInterval(timer);
      for (const { ws } of sockets) ws.destroy();
    },
  };
}
