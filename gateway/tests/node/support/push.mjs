// The service that a push webhook leads to.

import { once as onceEvent } from 'node:events';
import { createServer } from 'node:http';

import { until } from './wait.mjs';

/**
 * An HTTP server that keeps its requests in `deliveries`, as `{method, url, headers, raw, body, isOpen}`, and answers with the
 * status that `answer(delivery)` returns; `undefined` leaves the request open, without an answer.
 */
export async function startPushReceiver() {
  const receiver = { deliveries: [], answer: () => 200 };
  const server = createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    const raw = Buffer.concat(parts).toString();
    const delivery = { method: request.method, url: request.url, headers: request.headers, raw, body: JSON.parse(raw), isOpen: true };
    response.on('close', () => { delivery.isOpen = false; });
    const status = receiver.answer(delivery);
    receiver.deliveries.push(delivery);
    server.emit('delivery');
    if (status !== undefined) response.writeHead(status).end();
  });
  server.listen(0, '127.0.0.1');
  await onceEvent(server, 'listening');
  receiver.url = `http://127.0.0.1:${server.address().port}/push?to=helpers`;
  /** All deliveries about an emergency, once there are `times` of them. */
  receiver.about = (id, times, event, { timeout = 20_000 } = {}) => until(server, 'delivery', () => {
    const found = receiver.deliveries.filter(({ body }) => body.emergency.id === id && (!event || body.event === event));
    return found.length >= times && found;
  }, { timeout, what: `${times} deliveries about ${id}` });
  receiver.stop = async () => {
    server.close();
    server.closeAllConnections();
    await onceEvent(server, 'close');
  };
  return receiver;
}
