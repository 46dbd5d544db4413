// A TCP proxy that a test can make slow, silent, half-open or dead, for each connection and direction.

import { connect, createServer } from 'node:net';

/**
 * Starts a proxy to `port`: `{port, connections, delay(ms), cut(filter), stall(filter), heal(), refuse(on), close()}`.
 * Each connection has `sent` (the client's first bytes as text) to identify it; a stalled one keeps its sockets and
 * forwards nothing.
 */
export async function startProxy(port) {
  const connections = new Set();
  let delay = 0;
  let refusing = false;
  const server = createServer((client) => {
    if (refusing) {
      client.destroy();
      return;
    }
    const upstream = connect(port, '127.0.0.1');
    const link = { client, upstream, sent: '', stalled: false, held: [] };
    connections.add(link);
    const pass = (from, to) => {
      from.on('data', (data) => {
        if (from === client && link.sent.length < 4_096) link.sent += data.toString('latin1');
        const write = () => {
          if (link.stalled) link.held.push([to, data]);
          else if (!to.destroyed) to.write(data);
        };
        if (delay > 0) setTimeout(write, delay);
        else write();
      });
      from.on('end', () => { if (!link.stalled) to.end(); });
      from.on('error', () => to.destroy());
      from.on('close', () => {
        if (!link.stalled) to.destroy();
        if (client.destroyed && upstream.destroyed) connections.delete(link);
      });
    };
    pass(client, upstream);
    pass(upstream, client);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const some = (filter = () => true) => [...connections].filter(filter);
  return {
    port: server.address().port,
    url: `redis://127.0.0.1:${server.address().port}`,
    connections,
    /** Delays every further byte. */
    delay: (ms) => { delay = ms; },
    /** Resets connections. */
    cut: (filter) => { for (const { client, upstream } of some(filter)) { client.resetAndDestroy(); upstream.destroy(); } },
    /** Connections stay open and silent; even their end is not forwarded. */
    stall: (filter) => { for (const link of some(filter)) link.stalled = true; },
    /** Forwards everything held back. */
    heal: () => {
      for (const link of some()) {
        link.stalled = false;
        for (const [to, data] of link.held.splice(0)) if (!to.destroyed) to.write(data);
      }
    },
    refuse: (on) => { refusing = on; },
    close: () => {
      for (const { client, upstream } of connections) { client.destroy(); upstream.destroy(); }
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Whether a proxied connection to Redis is one for subscriptions. */
export const isSubscriber = ({ sent }) => /SUBSCRIBE/.test(sent);
