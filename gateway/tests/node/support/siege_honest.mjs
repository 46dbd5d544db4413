// Hundreds of honest clients: stock clients that connect at once, stay in a room, publish now and then, and record what
// was acknowledged and what arrived. One process has all members of a room, so it can judge by itself.

import { load } from './packages.mjs';

const { io } = load('socket.io-client');

/**
 * How long a message may take from its ack to every member; messages sent less than that before a disconnect are not
 * judged.
 */
const ON_ITS_WAY_MS = 5_000;

const now = () => performance.now();

export function part() {
  const clients = [];
  const messages = [];
  const connectMs = [];
  const ackMs = [];
  const unanswered = [];
  let isOn = true;

  const start = ({ url, token, room, polling }, everyMs) => {
    const client = { room, stays: [], heard: new Map(), repeated: 0, cut: false, reasons: {}, refusals: 0, sent: 0 };
    clients.push(client);
    const began = now();
    const socket = io(`${url}/relay`, { forceNew: true, auth: { token }, ...(polling ? {} : { transports: ['websocket'] }) });
    client.socket = socket;
    socket.on('connect', async () => {
      if (!client.stays.length) connectMs.push(now() - began);
      const stay = { joined: undefined, ended: undefined };
      client.stays.push(stay);
      const answer = await socket.emitWithAck('join', { room }).catch(() => undefined);
      if (answer?.success) stay.joined = now();
      else if (answer) client.refusals += 1;
    });
    socket.on('connect_error', () => { client.refusals += 1; });
    socket.on('m', (key) => {
      if (client.heard.has(key)) client.repeated += 1;
      else client.heard.set(key, now());
    });
    socket.on('disconnect', (reason) => {
      const stay = client.stays.at(-1);
      if (!stay || stay.ended !== undefined) {
        // The connection ended between its handshake and CONNECT.
        client.refusals += 1;
        return;
      }
      stay.ended = now();
      if (isOn && !client.cut) client.reasons[reason] = (client.reasons[reason] ?? 0) + 1;
      client.cut = false;
    });
    const say = async () => {
      if (!isOn) return;
      setTimeout(say, everyMs * (0.5 + Math.random()));
      const stay = client.stays.at(-1);
      if (!socket.connected || stay?.joined === undefined) return;
      client.sent += 1;
      const message = { key: `${clients.indexOf(client)}:${client.sent}`, room, sent: now(), acked: undefined, error: undefined };
      messages.push(message);
      const answer = await socket.timeout(20_000).emitWithAck('publish', { room, event: 'm', data: message.key }).catch((error) => ({ error: error.message }));
      if (answer.success) {
        message.acked = now();
        ackMs.push(message.acked - message.sent);
      } else if (stay.ended === undefined) {
        message.error = answer.error;
        unanswered.push(answer.error);
      }
    };
    setTimeout(say, everyMs * Math.random());
  };

  const settled = () => clients.filter(({ socket, stays }) => socket.connected && stays.at(-1)?.joined !== undefined).length;

  return {
    start({ plans, everyMs }) {
      for (const plan of plans) start(plan, everyMs);
      return clients.length;
    },
    settled,
    /** Every `nth` client loses its connection without a close, and reconnects by itself. */
    cut(nth) {
      let count = 0;
      for (const [at, client] of clients.entries()) {
        if (at % nth || !client.socket.connected) continue;
        client.cut = true;
        count += 1;
        const { transport } = client.socket.io.engine;
        if (transport.ws?.terminate) transport.ws.terminate();
        else client.socket.io.engine.close();
      }
      return count;
    },
    /** Stops the messages and keeps the connections. */
    hush() {
      isOn = false;
      return true;
    },
    report() {
      const seen = { clients: clients.length, settled: settled(), sent: messages.length, acked: 0, deliveries: 0, missing: [], repeated: 0, refusals: 0, reasons: {}, unanswered: unanswered.slice(0, 20), unansweredCount: unanswered.length, connectMs, ackMs };
      const members = new Map();
      for (const client of clients) {
        if (!members.has(client.room)) members.set(client.room, []);
        members.get(client.room).push(client);
        seen.repeated += client.repeated;
        seen.refusals += client.refusals;
        for (const [reason, count] of Object.entries(client.reasons)) seen.reasons[reason] = (seen.reasons[reason] ?? 0) + count;
      }
      for (const message of messages) {
        if (message.acked === undefined) continue;
        seen.acked += 1;
        for (const member of members.get(message.room)) {
          const stayed = member.stays.some(({ joined, ended }) => joined !== undefined && joined < message.sent && (ended ?? Infinity) > message.acked + ON_ITS_WAY_MS);
          if (!stayed) continue;
          if (member.heard.has(message.key)) seen.deliveries += 1;
          else seen.missing.push(message.key);
        }
      }
      seen.missing = { count: seen.missing.length, first: seen.missing.slice(0, 10) };
      return seen;
    },
    end() {
      isOn = false;
      for (const { socket } of clients) socket.disconnect();
    },
  };
}
