// What browsers do that other clients seldom do: they connect twice at once, and make texts of what is no character.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { device, must, refusal } from './support/care.mjs';
import { EVERYTHING, TRANSPORTS, ask, connected, keeper, unique } from './support/clients.mjs';
import { startGateway } from './support/gateway.mjs';
import { rawSocketIo, request } from './support/raw.mjs';
import { delay, eventually, once, record } from './support/wait.mjs';

describe('a page in a browser', { timeout: 60_000 }, () => {
  let gateway;
  before(async () => {
    gateway = await startGateway({ env: { MOUNTS: 'sos=/,chat=/,care=/,emergencies=/emergencies,relay=/emergencies' } });
    gateway.clients = keeper(gateway);
  });
  after(async () => {
    gateway?.clients.closeAll();
    await gateway?.kill();
  });

  const members = async (room) => {
    const response = await fetch(`${gateway.internalUrl}/internal/rooms/${encodeURIComponent(room)}/count?namespace=/emergencies`, { headers: { 'X-Internal-Request': 'true' } });
    return (await response.json()).data.count;
  };

  for (const transport of TRANSPORTS) {
    test(`may call connect() twice on a further namespace, over ${transport.name}`, async () => {
      const main = await gateway.clients.connect({ transport });
      const lost = record(main);
      main.on('disconnect', (reason) => lost.events.push({ event: 'lost', args: [reason] }));
      const other = main.io.socket('/emergencies', { auth: { token: gateway.token(EVERYTHING) } });
      gateway.clients.open.add(other);
      const ids = [];
      other.on('connect', () => ids.push(other.id));
      other.connect();
      other.connect();
      await connected(other);
      assert.equal(await ask(other, 'echo', 'early'), 'early');
      // As with Node.js, each is answered, and the last one is the socket.
      assert.ok(ids.length >= 1 && ids.length <= 3 && new Set(ids).size === ids.length, String(ids));
      const room = unique('room');
      await ask(other, 'join', { room });
      assert.equal((await ask(other, 'members', { room })).members[0].socketId, other.id);
      const events = record(other);
      await ask(other, 'publish', { room, event: 'news', data: 1 });
      await ask(other, 'publish', { room, event: 'end', data: 1 });
      await events.take('end');
      assert.deepEqual(events.seen('news'), [[1]], 'once');
      assert.deepEqual([main.connected, other.connected, lost.seen('lost')], [true, true, []]);
      other.disconnect();
      await eventually(async () => (await members(room)) === 0, { what: 'nobody to be left' });
      assert.equal((await ask(main, 'presence:get', { userIds: ['x'] })).success, true, 'the connection lives on');
      const again = once(other, 'connect');
      other.connect();
      await again;
      main.disconnect();
    });
  }

  test('has a CONNECT answered that was sent again at once, and is closed for one that is late', async (t) => {
    const token = gateway.token(EVERYTHING);
    const ws = await rawSocketIo(gateway.port, { namespace: '/emergencies', token });
    t.after(() => ws.destroy());
    const packet = `40/emergencies,${JSON.stringify({ token })}`;
    ws.send(packet);
    ws.send(packet);
    const sids = [await ws.nextText(), await ws.nextText()];
    for (const answer of sids) assert.match(answer, /^40\/emergencies,\{"sid":"[\w-]{20}"\}$/);
    ws.send('42/emergencies,1["echo","x"]');
    assert.equal(await ws.nextText(), '43/emergencies,1["x"]');
    // Longer than the first answer can be on its way: Node.js closes, too, once it has answered.
    await delay(400);
    ws.send(packet);
    assert.equal((await ws.next()).closed, true);
  });

  test('sends texts that JavaScript trims, and those that it does not', async () => {
    const [ann, bob] = await Promise.all([device(gateway), device(gateway)]);
    const roomId = unique('lobby');
    await must(ann, 'join_room', roomId);
    const white = ['\t', '\v', '\f', ' ', '\u00a0', '\u1680', '\u2000', '\u200a', '\u2028', '\u2029', '\u202f', '\u205f', '\u3000', '\ufeff', '\r\n'];
    for (const each of white) {
      const sent = `${each}hi${each}there${each}`;
      assert.equal((await must(ann, 'send_message', { roomId, content: sent })).message.content, sent.trim(), JSON.stringify(each));
      assert.equal(await refusal(ann, 'send_message', { roomId, content: each.repeat(3) }), 'Message cannot be empty');
      assert.equal((await must(ann, 'message:send', { recipientId: bob.user, message: sent })).message.message, sent.trim());
      assert.equal(await refusal(ann, 'message:send', { recipientId: bob.user, message: each }), 'Message cannot be empty');
    }
    for (const each of ['\u0085', '\u180e', '\u200b', '\u001c', '\u0001', '\u2060']) {
      const sent = `${each}hi${each}`;
      assert.equal(sent.trim(), sent);
      assert.equal((await must(ann, 'send_message', { roomId, content: sent })).message.content, sent, JSON.stringify(each));
    }
    // What is longer than 1,000 characters with what is trimmed is not without it.
    assert.equal((await must(ann, 'send_message', { roomId, content: `\ufeff${'x'.repeat(1_000)}\ufeff` })).message.content.length, 1_000);
    assert.equal((await must(ann, 'presence:setStatus', { status: 'busy', customStatus: '\ufeffback soon\u3000' })).success, true);
    ann.socket.disconnect();
    bob.socket.disconnect();
  });

  test('sends halves of surrogate pairs, and what else JSON can carry', async () => {
    const [ann, bob] = await Promise.all([device(gateway), device(gateway)]);
    const wellFormed = (text) => Buffer.from(text, 'utf8').toString('utf8');
    for (const text of ['\ud83d', 'a\ud83d', '\ude00b', '\ud83d\ud83d\ude00', '\ud83d\ude00', '\uffff', '\ufffe', '\u2028', '"\\/\b\f', '\u007f', '\u202eabc', 'e\u0301', '\ud800\udc00']) {
      const roomId = unique('lobby');
      await must(ann, 'join_room', roomId);
      const { message } = await must(ann, 'send_message', { roomId, content: `<${text}>` });
      assert.equal(message.content, `<${wellFormed(text)}>`, JSON.stringify(text));
      const heard = await must(ann, 'message:send', { recipientId: bob.user, message: `<${text}>`, metadata: { of: text } });
      assert.equal(heard.message.message, `<${wellFormed(text)}>`);
      const name = `${roomId} ${text.replace(/[\u0000-\u001f\u007f]/g, '')}`;
      assert.equal((await ask(ann.socket, 'join_room', name)).success, true, JSON.stringify(name));
      const headers = { Authorization: `Bearer ${gateway.token({ sub: unique('u') })}`, 'Content-Type': 'application/json' };
      const raised = await request(gateway.port, 'POST', '/api/sos', { headers, body: JSON.stringify({ latitude: 1, longitude: 1, description: `<${text}>` }) });
      assert.deepEqual([raised.status, JSON.parse(raised.body).data?.description], [201, `<${wellFormed(text)}>`], raised.body);
    }
    const relay = await gateway.clients.connect({ namespace: '/emergencies', claims: EVERYTHING });
    const room = `${unique('room')}\ud83d`;
    assert.deepEqual(await ask(relay, 'join', { room }), { success: true, room: wellFormed(room) });
    const events = record(relay);
    assert.equal((await ask(relay, 'publish', { room, event: 'news', data: 1 })).success, true);
    assert.equal(await events.take('news'), 1);
    for (const { socket } of [ann, bob]) socket.disconnect();
  });

  test('has such texts in its token, and beside it', async () => {
    const token = gateway.token({ ...EVERYTHING, sub: unique('u'), name: 'Ann \ud83d' });
    const socket = gateway.clients.socket({ namespace: '/emergencies', auth: { token, device: '\ude00', '\ud83d': 1 } });
    await connected(socket);
    const room = unique('room');
    await ask(socket, 'join', { room });
    assert.equal((await ask(socket, 'members', { room })).members[0].displayName, 'Ann \ufffd');
    assert.equal((await ask(socket, 'auth:refresh', { token, device: '\ud83d' })).success, true);
    socket.disconnect();
  });

  test('joins rooms that only begin like one of another app', async () => {
    const relay = await gateway.clients.connect({ namespace: '/emergencies', claims: EVERYTHING });
    for (const room of ['helpers-lounge', 'helpers2', 'helper', 'emergencyroom']) {
      assert.deepEqual(await ask(relay, 'join', { room }), { success: true, room });
      assert.equal((await ask(relay, 'publish', { room, event: 'e', data: 1 })).success, true);
    }
    for (const room of ['helpers', 'emergency:1', 'user:x']) {
      for (const event of ['join', 'members', 'leave']) assert.equal((await ask(relay, event, { room })).error, 'Invalid room', `${event} ${room}`);
      assert.equal((await ask(relay, 'publish', { room, event: 'e', data: 1 })).error, 'Invalid room');
    }
  });

  test('is not served the client of a parser that nobody speaks here', async () => {
    for (const [file, status] of [['socket.io.js', 200], ['socket.io.min.js', 200], ['socket.io.esm.min.js', 200], ['socket.io.msgpack.min.js', 400], ['socket.io.msgpack.min.js.map', 400]]) {
      assert.equal((await request(gateway.port, 'GET', `/socket.io/${file}`)).status, status, file);
    }
  });
});
