// Clients that send without pause, whatever their packets are: the node closes and counts each, delays no other client,
// and leaves clients alone that send much within the limits.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { FLOODS, POLLING_FLOODS, filled, plainFrame, startFloods } from './support/floods.mjs';
import { startGateway, sumMetric } from './support/gateway.mjs';
import { EVERYTHING, alive, ask, closes, engine, fresh, joined, meter, pollingJoined, pour, row, underAttack } from './support/hostile.mjs';
import { stopwatch } from './support/measure.mjs';
import { OPCODE, encodeFrame, pollingSession, rawConnection, request, requestText } from './support/raw.mjs';
import { delay, eventually, within } from './support/wait.mjs';

/** Far more than any rate allows, but little enough for the test. */
const PIECES = 200;

describe('a WebSocket that is flooded with', () => {
  const site = underAttack();
  for (const flood of FLOODS) {
    row(site, `${flood.name} is closed with ${flood.code} and counted`, async (gateway, t) => {
      const counted = await meter(gateway, ...flood.counted);
      const token = gateway.token({ sub: fresh('user'), ...EVERYTHING });
      const ws = flood.joins ? await joined(t, gateway) : await engine(t, gateway);
      if (flood.once) ws.sendBytes(flood.once(token));
      const bytes = filled(flood.again(token));
      const poured = pour(ws.socket, PIECES, () => bytes);
      await closes(ws, flood.code);
      await counted.grows();
      await poured;
    });
  }

  row(site, 'a message that arrives byte by byte is closed with 1008 and counted', async (gateway, t) => {
    const counted = await meter(gateway, 'muster_rate_limited_total', 'limit="partial_reads"');
    const ws = await joined(t, gateway);
    ws.sendBytes(encodeFrame({ payload: '4', announce: 900_000 }));
    // One at a time as the gateway reads them: several at once would be one read.
    const ended = closes(ws, 1008, { timeout: 60_000 });
    let over = false;
    ended.finally(() => { over = true; }).catch(() => {});
    while (!over) {
      ws.sendBytes(Buffer.from('x'));
      await new Promise((resolve) => { setImmediate(resolve); });
    }
    await ended;
    await counted.grows();
  });
});

describe('a polling body full of', () => {
  const site = underAttack();
  for (const flood of POLLING_FLOODS) {
    row(site, `${flood.name} ends its session and is counted`, async (gateway) => {
      const counted = await meter(gateway, ...flood.counted);
      const token = gateway.token({ sub: fresh('user'), ...EVERYTHING });
      const session = flood.joins ? await pollingJoined(gateway) : await pollingSession(gateway.port);
      // Before its first CONNECT a session may send at most 16 KiB per body.
      const most = flood.joins ? 900_000 : 16_000;
      const body = Array.from({ length: 6_000 }, () => flood.packet(token)).join('\x1e').slice(0, most);
      await session.post(body.slice(0, body.lastIndexOf('\x1e')));
      await counted.grows();
      await eventually(async () => (await session.post('3')).status === 400, { what: 'the session to be refused' });
    });
  }
});

describe('a WebSocket that probes', () => {
  const site = underAttack();
  row(site, 'and sends endless pings is closed and counted', async (gateway, t) => {
    const counted = await meter(gateway, 'muster_rate_limited_total', 'limit="control_frames"');
    const session = await pollingSession(gateway.port);
    const connection = await rawConnection(gateway.port);
    t.after(() => connection.destroy());
    connection.write(requestText(gateway.port, 'GET', `/socket.io/?EIO=4&transport=websocket&sid=${session.sid}`, {
      headers: { Upgrade: 'websocket', Connection: 'Upgrade', 'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==', 'Sec-WebSocket-Version': '13' },
    }));
    assert.equal((await connection.response()).status, 101);
    const pings = filled(plainFrame('p', { opcode: OPCODE.ping }));
    await pour(connection.socket, PIECES, () => pings);
    await within(connection.closed, 5_000, 'the end of the probe');
    await counted.grows();
    // The session still exists, on polling.
    assert.equal((await session.post('40/nope,')).status, 200);
  });
});

describe('a client that sends much at once within the limits', () => {
  const site = underAttack();
  row(site, 'is answered and stays', async (gateway, t) => {
    const ended = await meter(gateway, 'muster_sessions_closed_total');
    const limited = await meter(gateway, 'muster_rate_limited_total');
    const ws = await joined(t, gateway);
    const many = (count, frame) => Buffer.concat(Array.from({ length: count }, () => frame));
    ws.sendBytes(many(45, plainFrame('40/nope,')));
    ws.sendBytes(many(45, plainFrame('6')));
    ws.sendBytes(many(45, plainFrame('3')));
    ws.sendBytes(many(2_000, plainFrame('43/relay,7[]')));
    for (let at = 0; at < 45; at += 1) assert.match(await ws.nextText(), /^44\/nope,/);
    // One message in ten thousand pieces, and three hundred events with an attachment each.
    ws.sendBytes(Buffer.concat([
      plainFrame('4', { fin: false }),
      many(10_000, plainFrame('', { opcode: OPCODE.continuation, fin: false })),
      plainFrame('2/relay,900["echo","in pieces"]', { opcode: OPCODE.continuation }),
    ]));
    assert.equal(await ws.nextText(), '43/relay,900["in pieces"]');
    ws.sendBytes(many(300, Buffer.concat([plainFrame('451-/relay,1["echo",{"_placeholder":true,"num":0}]'), plainFrame('x', { opcode: OPCODE.binary })])));
    for (let at = 0; at < 600; at += 1) await ws.nextText();
    await alive(ws);
    assert.equal(await ended.total(), ended.start);
    assert.equal(await limited.total(), limited.start);
  });

  row(site, 'gets the answers to all events of one burst in their order', async (gateway, t) => {
    const ws = await joined(t, gateway);
    ws.sendBytes(Buffer.concat(Array.from({ length: 350 }, (_, at) => plainFrame(`42/relay,${at}["echo",${at}]`))));
    for (let at = 0; at < 350; at += 1) assert.equal(await ws.nextText(), `43/relay,${at}[${at}]`);
  });

  row(site, 'gets the answers to all pipelined requests', async (gateway, t) => {
    const connection = await rawConnection(gateway.port);
    t.after(() => connection.destroy());
    connection.write(Buffer.concat(Array.from({ length: 100 }, () => requestText(gateway.port, 'GET', '/live'))));
    for (let at = 0; at < 100; at += 1) assert.equal((await connection.response()).status, 200);
  });
});

test('under floods from sixteen connections that reconnect at once, a client gets its answers and /live answers', async (t) => {
  // One worker, which the floods and the client share.
  const gateway = await startGateway({ env: { WORKERS: '1' } });
  let floods;
  try {
    const ws = await joined(t, gateway);
    floods = await startFloods({ port: gateway.port, token: gateway.token({ sub: 'flood', ...EVERYTHING }), connections: 16 });
    // Enough rounds to show a delay, and enough time for the floods to reach their full rate.
    const whole = stopwatch();
    for (let round = 0; round < 200 || whole() < 3_000; round += 1) {
      assert.equal(await ask(ws, 'echo', round, { timeout: 5_000 }), round);
      if (round % 20 === 0) assert.equal((await request(gateway.port, 'GET', '/live')).status, 200);
      await delay(10);
    }
    const { opened, closed } = await floods.stop();
    floods = undefined;
    assert.ok(opened >= 16 && closed > 0, `${opened} opened, ${closed} closed`);
    assert.ok(sumMetric(await gateway.metrics(), 'muster_rate_limited_total') > 0);
    gateway.assertQuiet();
  } finally {
    await floods?.stop();
    await gateway.kill();
  }
});
