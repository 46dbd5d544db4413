// The upgrade from polling to WebSocket under load: nothing is lost, duplicated or reordered, whether it succeeds or is
// aborted at any step.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING, ask, bounded, connected, keeper, unique } from './support/clients.mjs';
import { startGateway } from './support/gateway.mjs';
import { load } from './support/packages.mjs';
import { pollingSession, rawConnection, rawSocketIo, rawWebSocket, requestText } from './support/raw.mjs';
import { once, until, within } from './support/wait.mjs';

const { NodeXHR, NodeWebSocket } = load('engine.io-client');

const RACES = 1_000;
const WIDTH = 24;

/** The official WebSocket transport, which does not start until `gate` is open. */
function gatedWebSocket(gate) {
  return class Gated extends NodeWebSocket {
    doOpen() {
      gate.then(() => super.doOpen());
    }
  };
}

describe('the upgrade to WebSocket', () => {
  let gateway;
  let clients;
  let publisher;
  // For the one step that waits for the probe's timeout; everywhere else that is an error.
  const brief = {};
  before(async () => {
    const unlimited = { EVENTS_PER_SECOND: '0', SOCKETS_PER_USER: '0' };
    gateway = await startGateway({ env: unlimited });
    clients = keeper(gateway);
    publisher = await clients.connect({ namespace: '/relay', claims: EVERYTHING });
    brief.gateway = await startGateway({ env: { ...unlimited, UPGRADE_TIMEOUT: '1s' } });
    brief.clients = keeper(brief.gateway);
    brief.publisher = await brief.clients.connect({ namespace: '/relay', claims: EVERYTHING });
  });
  after(async () => {
    clients?.closeAll();
    brief.clients?.closeAll();
    await gateway?.kill();
    await brief.gateway?.kill();
  });

  test(`${RACES} upgrades while events flow lose, duplicate and reorder nothing`, { timeout: 180_000 }, async () => {
    await bounded(RACES, WIDTH, async (index) => {
      const room = unique('race');
      let openGate;
      const gate = new Promise((resolve) => { openGate = resolve; });
      const socket = clients.socket({ namespace: '/relay', claims: EVERYTHING, transports: [NodeXHR, gatedWebSocket(gate)] });
      const received = [];
      // The upgrade starts at a different point of the stream each time: before the first event, or after some.
      const opensAt = index % 12;
      socket.on('n', (value) => {
        received.push(value);
        if (received.length === opensAt) openGate();
      });
      await connected(socket);
      await ask(socket, 'join', { room });
      const { engine } = socket.io;
      let upgraded = false;
      const settled = until(engine, ['upgrade', 'upgradeError', 'close'], () => engine.transport.name === 'websocket', { timeout: 20_000, what: `upgrade ${index}` });
      settled.then(() => { upgraded = true; }, () => { upgraded = true; });
      if (opensAt === 0) openGate();

      let sent = 0;
      const send = () => {
        publisher.emit('publish', { room, event: 'n', data: sent });
        sent += 1;
      };
      // One to three events per turn of the event loop until the upgrade has happened, then some more.
      while (!upgraded) {
        for (let burst = index % 3; burst >= 0; burst -= 1) send();
        await new Promise((resolve) => setImmediate(resolve));
        if (sent - received.length > 400) await once(socket, 'n', { timeout: 20_000 });
      }
      await settled;
      for (let tail = 0; tail < 5; tail += 1) send();
      await until(socket, 'n', () => received.length >= sent, { timeout: 20_000, what: `${sent} events in race ${index}` }).catch((error) => {
        throw new Error(`${error.message}; received ${received.length}: ${received}`);
      });
      await ask(socket, 'echo', 'all is said');
      assert.deepEqual(received, Array.from({ length: sent }, (_, at) => at), `race ${index}`);
      socket.disconnect();
      clients.open.delete(socket);
    });
  });

  test('200 upgrades by hand, half of them aborted at each step: polling or WebSocket continues, without a loss', { timeout: 120_000 }, async () => {
    const steps = ['after the 101', 'after 2probe', 'after 3probe', 'after 3probe, by a reset', 'after 3probe, by a close frame', 'by a wrong probe', 'by silence until the timeout'];
    const outcome = { websocket: 0, polling: 0 };

    await bounded(200, 20, async (index) => {
      const room = unique('cut');
      const step = index % 2 === 0 ? undefined : steps[((index - 1) / 2) % steps.length];
      const about = `upgrade ${index}${step ? `, cut ${step}` : ''}`;
      const node = step === 'by silence until the timeout' ? brief : { gateway, publisher };
      const session = await pollingSession(node.gateway.port);
      await session.post(`40/relay,${JSON.stringify({ token: node.gateway.token(EVERYTHING) })}`);
      await session.pollUntil((packets) => packets.some((packet) => packet.startsWith('40/relay,')));
      await session.post(`42/relay,0["join",{"room":"${room}"}]`);
      await session.pollUntil((packets) => packets.some((packet) => packet.startsWith('43/relay,0')));

      const received = [];
      let sent = 0;
      const publish = (count) => {
        for (let at = 0; at < count; at += 1) {
          node.publisher.emit('publish', { room, event: 'n', data: sent });
          sent += 1;
        }
      };
      const take = (packet) => {
        const match = /^42\/relay,\["n",(\d+)\]$/.exec(packet);
        if (match) received.push(Number(match[1]));
        else assert.ok(packet === '6' || packet === '2', `${about}: ${packet}`);
      };
      const poll = async () => {
        const answer = await session.get();
        assert.equal(answer.status, 200, `${about}: ${answer.body}`);
        answer.packets.forEach(take);
        if (answer.packets.includes('2')) await session.post('3');
        return answer;
      };

      publish(3);
      await poll();
      publish(2);
      const ws = await rawWebSocket(node.gateway.port, `/socket.io/?EIO=4&transport=websocket&sid=${session.sid}`);
      publish(2);
      if (step === 'after the 101') {
        ws.destroy();
      } else if (step === 'by a wrong probe') {
        ws.send('2prob');
        assert.equal((await ws.untilClosed()).closed, true, about);
      } else {
        ws.send('2probe');
        if (step !== 'after 2probe') assert.equal(await ws.nextText(), '3probe', about);
        publish(2);
        if (step === 'after 2probe' || step === 'after 3probe') ws.destroy();
        if (step === 'after 3probe, by a reset') ws.connection.reset();
        if (step === 'after 3probe, by a close frame') ws.close();
        if (step === 'by silence until the timeout') {
          publish(1);
          while (received.length < sent) await poll();
          assert.equal((await ws.untilClosed({ timeout: 15_000 })).closed, true, about);
        }
      }

      if (step) {
        publish(3);
        while (received.length < sent) await poll();
        publish(1);
        while (received.length < sent) await poll();
        outcome.polling += 1;
        await session.post('1');
      } else {
        // A poll during the probe is answered at once, repeatedly: at least with a noop.
        for (let polls = 0; polls < 3; polls += 1) await within(poll(), 8_000, `${about}: a poll during the probe`);
        // The client has received its answer: it sends 5 and continues on the WebSocket.
        publish(2);
        ws.send('5');
        publish(2);
        while (received.length < sent) take(await ws.nextText());
        ws.send('42/relay,7["echo","ws"]');
        assert.equal(await ws.nextText(), '43/relay,7["ws"]', about);
        const late = await session.get();
        assert.equal(late.status, 400, about);
        assert.deepEqual(JSON.parse(late.body), { code: 3, message: 'Bad request' }, about);
        ws.send('42/relay,8["echo","still"]');
        assert.equal(await ws.nextText(), '43/relay,8["still"]', about);
        outcome.websocket += 1;
        ws.destroy();
      }
      assert.deepEqual(received, Array.from({ length: sent }, (_, at) => at), about);
    });
    assert.deepEqual(outcome, { websocket: 100, polling: 100 });
  });

  test('packets that the client sends around the upgrade arrive once and in order', { timeout: 60_000 }, async () => {
    await bounded(100, 10, async (index) => {
      const room = unique('up');
      const listener = await rawSocketIo(gateway.port, { token: gateway.token(EVERYTHING), namespace: '/relay' });
      listener.send(`42/relay,0["join",{"room":"${room}"}]`);
      await listener.nextText();
      const socket = clients.socket({ namespace: '/relay', claims: EVERYTHING, transports: ['polling', 'websocket'] });
      const { engine } = await connected(socket).then(() => socket.io);
      let sent = 0;
      const total = 40 + (index % 7);
      while (sent < total || engine.transport.name !== 'websocket') {
        socket.emit('publish', { room, event: 'n', data: sent, self: false });
        sent += 1;
        // Awaits an answer now and then, because on a busy machine the test would otherwise send endlessly.
        if (sent % 10 === 0) await ask(socket, 'echo', sent);
        else await new Promise((resolve) => setImmediate(resolve));
        assert.ok(sent < 5_000, 'the upgrade never happened');
      }
      for (let at = 0; at < sent; at += 1) assert.equal(await listener.nextText(), `42/relay,["n",${at}]`, `upgrade ${index}`);
      socket.disconnect();
      clients.open.delete(socket);
      listener.destroy();
    });
  });

  test('an upgrade of a session that is on WebSocket already is refused without effect', async () => {
    const ws = await rawSocketIo(gateway.port, { token: gateway.token(EVERYTHING), namespace: '/relay' });
    const second = await rawWebSocket(gateway.port, `/socket.io/?EIO=4&transport=websocket&sid=${ws.sid}`).then(
      (opened) => opened.untilClosed(),
      (refused) => ({ closed: true, status: refused.status }),
    );
    assert.equal(second.closed, true);
    ws.send('42/relay,1["echo",1]');
    assert.equal(await ws.nextText(), '43/relay,1[1]');
    ws.destroy();
  });

  test('a second probe beside the first is closed without effect', async () => {
    const session = await pollingSession(gateway.port);
    await session.post(`40/relay,${JSON.stringify({ token: gateway.token(EVERYTHING) })}`);
    await session.pollUntil((packets) => packets.some((packet) => packet.startsWith('40/relay,')));
    const path = `/socket.io/?EIO=4&transport=websocket&sid=${session.sid}`;
    const first = await rawWebSocket(gateway.port, path);
    first.send('2probe');
    assert.equal(await first.nextText(), '3probe');
    const second = await rawWebSocket(gateway.port, path).then((opened) => {
      opened.send('2probe');
      return opened.untilClosed();
    }, () => ({ closed: true, frames: [] }));
    assert.equal(second.closed, true);
    assert.deepEqual(second.frames, [], 'no 3probe');
    first.send('5');
    first.send('42/relay,1["echo",1]');
    assert.equal(await first.nextText(), '43/relay,1[1]');
    first.destroy();
  });

  test('an upgrade of an unknown session is refused before the 101', async () => {
    await assert.rejects(
      rawWebSocket(gateway.port, '/socket.io/?EIO=4&transport=websocket&sid=AAAAAAAAAAAAAAAAAAAA'),
      ({ status }) => status === 400,
    );
  });

  test('a session has one seat for a probe', async () => {
    const session = await pollingSession(gateway.port);
    const path = `/socket.io/?EIO=4&transport=websocket&sid=${session.sid}`;
    const first = await rawWebSocket(gateway.port, path);
    await assert.rejects(rawWebSocket(gateway.port, path), /400/);
    first.send('2probe');
    assert.equal(await first.nextText(), '3probe');
    first.send('5');
    // The answer shows that the upgrade is done; the GET is on another connection.
    first.send('40/nowhere,');
    assert.equal(await first.nextText(), '44/nowhere,{"message":"Invalid namespace"}');
    assert.equal((await session.get()).status, 400);
    first.destroy();
  });

  test('a session that begins with a WebSocket gets the answer and the open packet in one write', async () => {
    const connection = await rawConnection(gateway.port);
    connection.write(requestText(gateway.port, 'GET', '/socket.io/?EIO=4&transport=websocket', {
      headers: { Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Version': '13', 'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==' },
    }));
    // Bytes that are available when the answer is complete arrived with it.
    assert.equal((await connection.response()).status, 101);
    assert.match(connection.raw().toString('latin1'), /\r\n\r\n.*0\{"sid":".*\}$/s);
    connection.destroy();
  });

  test('a session that ends during the probe closes the probing WebSocket, too', async () => {
    const session = await pollingSession(gateway.port);
    const ws = await rawWebSocket(gateway.port, `/socket.io/?EIO=4&transport=websocket&sid=${session.sid}`);
    ws.send('2probe');
    assert.equal(await ws.nextText(), '3probe');
    assert.equal((await session.post('1')).status, 200);
    assert.equal((await ws.untilClosed()).closed, true);
  });
});
