// Bad Engine.IO and Socket.IO packets: rows B39 to B61 of the bad-input list, the negative table of the
// protocol and the advisories against its parsers. What is bad in a packet is bad on both transports.

import assert from 'node:assert/strict';
import { describe } from 'node:test';

import {
  EVERYTHING,
  alive,
  ask,
  canonical,
  closes,
  costsAtMost,
  engine,
  forgotten,
  fresh,
  growsAtMost,
  joined,
  meter,
  park,
  pollingJoined,
  resident,
  row,
  rows,
  underAttack,
} from './support/hostile.mjs';
import { OPCODE, pollingSession, rawHttp, rawSocketIo, rawWebSocket, request, requestText } from './support/raw.mjs';
import { eventually, within } from './support/wait.mjs';

const MAX_PAYLOAD = 1_000_000;

const site = underAttack();

/** The two ways to send packets (a string is a text, a Buffer a binary) and to see that the session is closed. */
const TRANSPORTS = {
  websocket: async (gateway, t, { packets, connect, code = 1005 }) => {
    const ws = connect ? await joined(t, gateway) : await engine(t, gateway);
    for (const packet of packets) {
      if (Buffer.isBuffer(packet)) ws.sendBinary(packet);
      else ws.send(packet);
    }
    const end = await closes(ws, code);
    return end.frames.map(({ text }) => text);
  },
  polling: async (gateway, t, { packets, connect }) => {
    const session = connect ? await pollingJoined(gateway) : await pollingSession(gateway.port);
    const parked = await park(gateway, session);
    const payload = packets.map((packet) => (Buffer.isBuffer(packet) ? `b${packet.toString('base64')}` : packet)).join('\x1e');
    const answer = await session.post(payload);
    assert.ok([200, 400].includes(answer.status), `the POST was answered ${answer.status}`);
    const released = await within(parked.answer, 5_000, 'the parked GET to be released');
    assert.ok(
      released.status === 400 || (released.status === 200 && released.packets.at(-1) === '1'),
      `the GET was answered ${released.status} ${released.body}`,
    );
    await forgotten(session);
    return released.packets.slice(0, -1);
  },
};

/** Rows `[name, packets, {connect, transports, code}]` that must end the session and nothing else. */
function mustClose(table) {
  for (const [transport, closesOn] of Object.entries(TRANSPORTS)) {
    rows(
      site,
      table
        .map(([name, packets, options = {}]) => ({
          packets: [packets].flat(),
          connect: true,
          ...options,
          name: `${name} closes the connection (${transport})`,
        }))
        .filter(({ transports }) => !transports || transports.includes(transport)),
      async (gateway, entry, t) => {
        const counted = await meter(gateway, 'muster_bad_input_total');
        const heard = await closesOn(gateway, t, entry);
        assert.deepEqual(
          heard.filter((packet) => packet !== '2'),
          [],
          'the bad packet was answered',
        );
        await counted.grows();
      },
    );
  }
}

/** Rows `[name, packets, answers]`: the connection survives and exactly `answers` are heard. */
function mustSurvive(table) {
  rows(
    site,
    table.map(([name, packets, answers = []]) => ({ name: `${name} (websocket)`, packets: [packets].flat(), answers: [answers].flat() })),
    async (gateway, { packets, answers }, t) => {
      const ws = await joined(t, gateway);
      for (const packet of packets) {
        if (Buffer.isBuffer(packet)) ws.sendBinary(packet);
        else ws.send(packet);
      }
      ws.send('42/relay,999["echo","end"]');
      const heard = [];
      for (let text; text !== '43/relay,999["end"]';) {
        text = await ws.nextText();
        if (text !== '43/relay,999["end"]') heard.push(text);
      }
      assert.deepEqual(heard.map(canonical), answers.map(canonical));
    },
  );
  rows(
    site,
    table.map(([name, packets, answers = []]) => ({ name: `${name} (polling)`, packets: [packets].flat(), answers: [answers].flat() })),
    async (gateway, { packets, answers }) => {
      const session = await pollingJoined(gateway);
      const payload = [...packets, '42/relay,999["echo","end"]'].map((packet) =>
        Buffer.isBuffer(packet) ? `b${packet.toString('base64')}` : packet,
      );
      assert.equal((await session.post(payload.join('\x1e'))).status, 200);
      const heard = await session.pollUntil((seen) => seen.includes('43/relay,999["end"]'));
      const expected = answers.map((packet) => (Buffer.isBuffer(packet) ? `b${packet.toString('base64')}` : packet));
      assert.deepEqual(heard.map(canonical), [...expected.map(canonical), '43/relay,999["end"]']);
    },
  );
}

const early = { connect: false };
const PLACE = '{"_placeholder":true,"num":0}';

describe('an Engine.IO packet', () => {
  mustClose([
    ['B39 of no type', 'abc', early],
    ['B39 of no type, later', 'abc'],
    ['B39 that is empty', '', early],
    ['B39 of type 9', '9', early],
    ['B39 of type 7', '7x', early],
    ['B39 that begins with a blank', ' 40', early],
    ['B39 that begins with NUL', '\x0040', early],
    ['B39 that begins with a byte order mark', '\ufeff40', early],
    ['B39 that begins with a digit of another script', '\u0664\u0660', early],
    ['B40 2 from the client', '2'],
    ['B40 2 with data', '2x'],
    ['B40 2probe on an established session', '2probe', { transports: ['websocket'] }],
    ['a binary before CONNECT', Buffer.from([1, 2, 3]), early],
    ['an empty binary', Buffer.alloc(0)],
  ]);

  mustSurvive([
    ['B42 0 with data is ignored', '0{}'],
    ['B42 5 out of its place is ignored', '5'],
    ['B42 6 is ignored', '6'],
    ['B41 a few pongs nobody asked for are ignored', Array(10).fill('3')],
    ['B41 a pong with data is ignored', '3probe'],
  ]);

  row(site, 'B41 a flood of pongs is limited and then closed with 1008', async (gateway, t) => {
    const limited = await meter(gateway, 'muster_rate_limited_total');
    const ws = await joined(t, gateway);
    for (let at = 0; at < 10_000; at += 1) ws.send('3');
    await closes(ws, 1008);
    await limited.grows();
  });

  row(site, 'B41 a flood of pongs by polling ends the session', async (gateway) => {
    const session = await pollingSession(gateway.port);
    await session.post(Array(10_000).fill('3').join('\x1e'));
    await eventually(async () => (await session.post('3')).status === 400, { what: 'the session to be refused' });
  });

  const membership = async (gateway, room) => {
    const answer = await fetch(`${gateway.internalUrl}/internal/rooms/${room}/count?namespace=/relay`, { headers: { 'X-Internal-Request': 'true' } });
    return (await answer.json()).data.count;
  };

  row(site, 'B43 1 from a WebSocket client closes at once and ends its memberships', async (gateway, t) => {
    const room = fresh('room');
    const ws = await joined(t, gateway);
    assert.deepEqual(await ask(ws, 'join', { room }), { success: true, room });
    assert.equal(await membership(gateway, room), 1);
    ws.send('1');
    await closes(ws, 1005, { timeout: 5_000 });
    await eventually(async () => (await membership(gateway, room)) === 0, { timeout: 5_000 });
  });

  row(site, 'B43 1 from a polling client releases the GET with 6 and ends its memberships', async (gateway) => {
    let released;
    // Nothing tells that a GET is parked: one that the `1` has overtaken finds no session, and is tried again.
    for (let tries = 0; tries < 10 && released?.status !== 200; tries += 1) {
      const room = fresh('room');
      const session = await pollingJoined(gateway);
      await session.post(`42/relay,1["join",{"room":"${room}"}]`);
      await session.pollUntil((seen) => seen.some((packet) => packet.startsWith('43/relay,1[')));
      assert.equal(await membership(gateway, room), 1);
      const parked = await park(gateway, session);
      const closing = await session.post('1');
      assert.deepEqual([closing.status, closing.body], [200, 'ok']);
      released = await parked.answer;
      await eventually(async () => (await membership(gateway, room)) === 0, { timeout: 5_000 });
      await forgotten(session);
    }
    assert.deepEqual([released.status, released.packets], [200, ['6']]);
  });

  row(site, 'B43 an event after 1 is not taken', async (gateway, t) => {
    const room = fresh('room');
    const listener = await joined(t, gateway);
    await ask(listener, 'join', { room });
    const sender = await joined(t, gateway);
    sender.send('1');
    sender.send(`42/relay,["publish",{"room":"${room}","event":"late","data":1}]`);
    await closes(sender, 1005);
    listener.send(`42/relay,["publish",{"room":"${room}","event":"own","data":2}]`);
    assert.equal(await listener.nextText(), '42/relay,["own",2]');
  });

  row(site, 'a polling separator inside a WebSocket text is data', async (gateway, t) => {
    const ws = await engine(t, gateway);
    ws.send('40/a\x1e9,');
    assert.equal(await ws.nextText(), '44/a\x1e9,{"message":"Invalid namespace"}');
  });

  row(site, 'packets before a bad one in a payload are still taken', async (gateway, t) => {
    const room = fresh('room');
    const listener = await joined(t, gateway);
    await ask(listener, 'join', { room });
    const session = await pollingJoined(gateway);
    await session.post(`42/relay,["publish",{"room":"${room}","event":"before","data":1}]\x1e9`);
    assert.equal(await listener.nextText(), '42/relay,["before",1]');
    await forgotten(session);
  });
});

describe('a heartbeat', { concurrency: true }, () => {
  const beating = underAttack({ env: { PING_INTERVAL: '1s', PING_TIMEOUT: '3s' } });

  row(beating, 'B44 that is not answered closes a WebSocket at the ping timeout', async (gateway, t) => {
    const timedOut = await meter(gateway, 'muster_sessions_closed_total', 'reason="ping_timeout"');
    const ws = await rawWebSocket(gateway.port);
    t.after(() => ws.destroy());
    await ws.next();
    const begun = performance.now();
    ws.send(`40/relay,${JSON.stringify({ token: gateway.token() })}`);
    const end = await closes(ws, 1006, { timeout: 20_000 });
    const took = performance.now() - begun;
    assert.equal(end.frames.at(-1).text, '2');
    assert.ok(took > 3_000, `closed after ${took} ms`);
    await timedOut.grows();
  });

  row(beating, 'B44 that is not answered closes a polling session at the ping timeout', async (gateway) => {
    const session = await pollingJoined(gateway);
    const begun = performance.now();
    assert.deepEqual((await session.get()).packets, ['2']);
    const answer = await session.get();
    const took = performance.now() - begun;
    assert.deepEqual([answer.status, answer.packets], [200, ['1']]);
    assert.ok(took > 3_000, `closed after ${took} ms`);
    await forgotten(session);
  });

  row(beating, 'B44 is kept from a polling client that never polls', async (gateway) => {
    const ended = await meter(gateway, 'muster_sessions_closed_total', 'reason="ping_timeout"');
    await pollingJoined(gateway);
    await ended.grows(1, { timeout: 20_000 });
  });

  row(beating, 'B41 is not put off by pongs nobody asked for', async (gateway, t) => {
    const ws = await rawSocketIo(gateway.port, { namespace: '/relay', token: gateway.token() });
    t.after(() => ws.destroy());
    const beat = setInterval(() => ws.send('3'), 150);
    try {
      // Put off by each of them, it would never come.
      assert.equal((await ws.next({ timeout: 20_000 })).text, '2');
    } finally {
      clearInterval(beat);
    }
  });
});

describe('a Socket.IO packet', () => {
  mustClose(
    [
      ['B45 of no type', '4abc'],
      ['B45 of type 7', '47'],
      ['B45 that is empty', '4'],
      ['B45 of a negative type', '4-1'],
      ['B45 of type 9', '49["x"]'],
      ['B46 an event before any CONNECT', '42["x"]', early],
      ['B46 an event for a namespace that is not joined', '42["x"]'],
      ['B46 an event for an unknown namespace', '42/unknown,["e"]'],
      ['B46 an ack for a namespace that is not joined', '43/unknown,1[]'],
      ['B46 a DISCONNECT for a namespace that is not joined', '41/unknown,'],
      ['B46 a DISCONNECT before any CONNECT', '41', early],
      ['B46 a binary header before any CONNECT (CVE-2026-48804)', [`451-/nope,["e",${PLACE}]`, Buffer.from([1])], early],
      ['B46 a binary header for a namespace that is not joined (CVE-2026-48804)', [`451-/nope,["e",${PLACE}]`, Buffer.from([1])]],
      ['B47 CONNECT to a namespace that is joined', '40/relay,{}'],
      ['B49 CONNECT with an array', '40[1]', early],
      ['B49 CONNECT with a string', '40"x"', early],
      ['B49 CONNECT with null', '40/relay,null', early],
      ['B49 CONNECT with a boolean', '40/relay,true', early],
      ['B49 CONNECT with half an object', '40{', early],
      ['B49 CONNECT with trailing garbage', '40/relay,{}x', early],
      ['B49 CONNECT with two objects', '40/relay,{}{}', early],
      ['DISCONNECT with a payload', '41/relay,["x"]'],
      ['B50 an event that is an object', '42/relay,{}'],
      ['B50 an event that is a string', '42/relay,"x"'],
      ['B50 an event that is null', '42/relay,null'],
      ['B50 an event without arguments', '42/relay,[]'],
      ['B50 an event named null', '42/relay,[null]'],
      ['B50 an event named by an object (CVE-2023-32695)', '42/relay,[{}]'],
      ['B50 an event named by an object with toString (CVE-2023-32695)', '42/relay,[{"toString":"foo"}]'],
      ['B50 an event named by an array', '42/relay,[["echo"]]'],
      ['B50 an event named true', '42/relay,[true]'],
      ['B50 an event without payload', '42/relay,'],
      ['B50 an event without payload but an ack id', '42/relay,1'],
      ['B50 an event with trailing garbage', '42/relay,["echo"]x'],
      ['B50 an event of half an array', '42/relay,["echo"'],
      ['B50 an event in single quotes', "42/relay,['echo']"],
      ['B50 an event with a trailing comma', '42/relay,["echo",]'],
      ['B50 an event with NaN', '42/relay,["echo",NaN]'],
      ['B50 an event with a raw control character', '42/relay,["echo","\x01"]'],
      ['B50 an event with a number that begins with 0', '42/relay,["echo",01]'],
      ...['connect', 'connect_error', 'disconnect', 'disconnecting', 'newListener', 'removeListener'].map((name) => [
        `B51 the reserved event ${name}`,
        `42/relay,["${name}"]`,
      ]),
      ['B51 a reserved event in escapes', '42/relay,["\\u0063onnect"]'],
      ['B51 a reserved event asking for an ack', '42/relay,1["disconnect"]'],
      ['B51 a reserved event with an attachment', [`451-/relay,["connect",${PLACE}]`, Buffer.from([1])]],
      ['B52 an ack id of letters', '42/relay,abc["m"]'],
      ['B52 an ack id over 2^64', '42/relay,999999999999999999999["m"]'],
      ['B52 an ack id over 2^53', '42/relay,9007199254740993["m"]'],
      ['B52 an ack id of 400 digits', `42/relay,${'9'.repeat(400)}["m"]`],
      ['B52 a negative ack id', '42/relay,-1["m"]'],
      ['B52 a fractional ack id', '42/relay,1.5["m"]'],
      ['B52 an exponential ack id', '42/relay,1e3["m"]'],
      ['an ack that is no array', '43/relay,1{}'],
      ['an ack without payload', '43/relay,1'],
      ['CONNECT_ERROR from a client', '44/relay,{"message":"x"}'],
      ['CONNECT_ERROR from a client, as a string', '44/relay,"x"'],
      ['B54 eleven attachments', `4511-/relay,["f",${PLACE}]`],
      ['B54 a billion attachments (CVE-2026-33151)', '45999999999-/relay,["e"]'],
      ['B54 attachments over 2^64', '4599999999999999999999-/relay,["e"]'],
      ['B54 exponential attachments', '451e3-/relay,["e"]'],
      ['B54 negative attachments', '45-1-/relay,["e"]'],
      ['B54 attachments without a number', '45-/relay,["e"]'],
      ['B54 attachments of letters', '45x-/relay,["e"]'],
      ['B54 attachments without a dash', '451/relay,["e"]'],
      ['B54 a binary ack of eleven', `4611-/relay,1[${PLACE}]`],
      ['B54 a megabyte of attachment digits (CVE-2020-36049)', `45${'1'.repeat(MAX_PAYLOAD - 20)}`],
      ['B57 zero attachments (CVE-2026-69185)', '450-/relay,["e"]'],
      ['B57 zero attachments, then binaries (CVE-2026-69185)', ['450-/relay,["e"]', ...Array(50).fill(Buffer.alloc(1000))]],
      ['B57 zero attachments of an ack', '460-/relay,1[]'],
      ['B57 zeros as the number of attachments', `4500-/relay,["e",${PLACE}]`],
      ...['5', '-1', '0.5', '"0"', '"splice"', 'null', '1e999', '18446744073709551616', '{}', '[0]', 'true', '"length"'].map((num) => [
        `B55 a placeholder numbered ${num} (CVE-2022-2421)`,
        [`451-/relay,["echo",{"_placeholder":true,"num":${num}}]`, Buffer.from([1])],
      ]),
      ['B55 a placeholder without a number', ['451-/relay,["echo",{"_placeholder":true}]', Buffer.from([1])]],
      ['B55 a nested placeholder out of range', ['451-/relay,["echo",{"a":[{"b":{"_placeholder":true,"num":1}}]}]', Buffer.from([1])]],
      ['B56 a text before the attachment', [`451-/relay,["echo",${PLACE}]`, '42/relay,["echo",1]', Buffer.from([1])]],
      ['B56 a CONNECT before the attachment', [`451-/relay,["echo",${PLACE}]`, '40/nowhere,']],
      ['B56 a second header before the attachment', [`451-/relay,["echo",${PLACE}]`, `451-/relay,["echo",${PLACE}]`]],
      ['B56 a binary without a header', Buffer.from([1, 2, 3])],
      ['B59 5,000 nested arrays', `42/relay,["echo",${'['.repeat(5_000)}`],
      ['B59 5,000 nested arrays, closed', `42/relay,["echo",${'['.repeat(5_000)}${']'.repeat(5_000)}]`],
      ['B59 5,000 nested objects', `42/relay,["echo",${'{"a":'.repeat(5_000)}1${'}'.repeat(5_000)}]`],
      ['B59 400,000 nested arrays', `42/relay,["echo",${'['.repeat(400_000)}${']'.repeat(400_000)}]`],
      ['B59 200 nested arrays in an ack', `43/relay,1${'['.repeat(200)}${']'.repeat(200)}`],
      ['B59 200 nested objects in the auth payload', `40/relay,${'{"a":'.repeat(200)}1${'}'.repeat(200)}`, early],
      ['B59 130 nested arrays', `42/relay,1["echo",${'['.repeat(130)}${']'.repeat(130)}]`],
    ].filter(([, packets]) => typeof packets !== 'string' || packets.length <= MAX_PAYLOAD),
  );

  const invalid = (namespace) => `44${namespace},{"message":"Invalid namespace"}`;
  mustSurvive([
    ['B48 CONNECT to an unknown namespace is refused', '40/random,', invalid('/random')],
    ['B48 CONNECT to an unknown namespace without a comma is refused', '40/random', invalid('/random')],
    ['B48 CONNECT to a namespace that climbs is refused', '40/../admin,', invalid('/../admin')],
    ['B48 CONNECT to /admin is refused', '40/admin,{"token":"x"}', invalid('/admin')],
    ['B48 CONNECT to /__proto__ is refused', '40/__proto__,', invalid('/__proto__')],
    ['B48 CONNECT to /relay/ is refused', '40/relay/,', invalid('/relay/')],
    ['B48 CONNECT to /RELAY is refused', '40/RELAY,', invalid('/RELAY')],
    ['B48 CONNECT to a namespace of 128 characters is refused', `40/${'n'.repeat(127)},`, invalid(`/${'n'.repeat(127)}`)],
    // As Node.js does: the namespaces beside it live on.
    ['B48 CONNECT to a namespace of 129 characters is refused', `40/${'n'.repeat(128)},{"token":"x"}`, invalid(`/${'n'.repeat(128)}`)],
    ['B48 CONNECT to a namespace of 15 KiB is refused', `40/${'n'.repeat(15 << 10)},`, invalid(`/${'n'.repeat(15 << 10)}`)],
    ['B48 CONNECT to a namespace of 15 KiB without a comma is refused', `40/${'n'.repeat(15 << 10)}`, invalid(`/${'n'.repeat(15 << 10)}`)],
    ['B50 an event named by a number is unknown', '42/relay,1[5]', '43/relay,1[{"success":false,"error":"Unknown event"}]'],
    ['B50 an event named by a number is unknown, without ack', '42/relay,[1,2]', '42/relay,["error",{"message":"Unknown event"}]'],
    ['B52 an ack id of 2^53-1 is taken', '42/relay,9007199254740991["echo",1]', '43/relay,9007199254740991[1]'],
    ['B53 an ack nobody waits for is ignored', '43/relay,123[]'],
    ['B53 an ack nobody waits for, twice, is ignored', ['43/relay,123[]', '43/relay,123[]']],
    ['B53 an ack without an id is ignored', '43/relay,["x"]'],
    ['B53 an ack of a large id is ignored', '43/relay,9007199254740991[1]'],
    [
      'B56 a pong between header and attachment is no fault',
      [`451-/relay,2["echo",${PLACE}]`, '3', Buffer.from([7])],
      [`461-/relay,2[${PLACE}]`, Buffer.from([7])],
    ],
    [
      'B59 120 nested arrays are taken',
      `42/relay,3["echo",${'['.repeat(120)}${']'.repeat(120)}]`,
      `43/relay,3[${'['.repeat(120)}${']'.repeat(120)}]`,
    ],
    ['CVE-2024-38355 an event named error is unknown', '42/relay,4["error"]', '43/relay,4[{"success":false,"error":"Unknown event"}]'],
    ['CVE-2024-38355 an event named error without ack is unknown', '42/relay,["error"]', '42/relay,["error",{"message":"Unknown event"}]'],
    ...['__proto__', 'constructor', 'hasOwnProperty', 'gw:resync', '', ' ', 'a b', 'e\\u0000', '\\ud83d', 'join\\n'].map((name) => [
      `B61 B68 an event named ${JSON.stringify(name)} is unknown`,
      `42/relay,5["${name}"]`,
      '43/relay,5[{"success":false,"error":"Unknown event"}]',
    ]),
    [
      'B61 an event of 100,000 arguments is refused',
      `42/relay,6["echo"${',1'.repeat(100_000)}]`,
      '43/relay,6[{"success":false,"error":"Too many arguments"}]',
    ],
    [
      'B61 an event of 100,000 arguments without ack is refused',
      `42/relay,["echo"${',1'.repeat(100_000)}]`,
      '42/relay,["error",{"message":"Too many arguments"}]',
    ],
    [
      'B61 an event whose name has 900,000 characters is unknown',
      `42/relay,7["${'n'.repeat(900_000)}"]`,
      '43/relay,7[{"success":false,"error":"Unknown event"}]',
    ],
  ]);

  row(site, 'B48 namespaces nobody has leave nothing behind', (gateway, t) =>
    growsAtMost(gateway.pid, 8 << 20, async () => {
      let ws;
      for (let at = 0; at < 300; at += 1) {
        // A session may send fifty CONNECT packets at once.
        if (at % 40 === 0) ws = await joined(t, gateway);
        ws.send(`40/n${at},`);
        assert.equal(await ws.nextText(), invalid(`/n${at}`));
      }
    }),
  );

  const RAW = [
    '"\\ud83d"',
    '"\\udc00\\ud800"',
    '1e400',
    '-1e400',
    '123456789012345678901234567890',
    '0.1000000000000000055511151231257827',
    '{"a":1,"a":2}',
    '{"__proto__":{"x":1}}',
    '{"constructor":{"prototype":1}}',
    '-0',
    '1.0',
    '1E5',
    '"\\/"',
    '"\\u0041"',
    '"\u2028\u2029"',
    '"\\u0000"',
    '"\ufeff"',
    '"\u{10ffff}"',
    '{"_placeholder":false,"num":0}',
    '{"":{"":[]}}',
  ];
  rows(
    site,
    RAW.map((raw) => ({ name: `B60 ${JSON.stringify(raw)} reaches a peer byte for byte`, raw })),
    async (gateway, { raw }, t) => {
      const room = fresh('room');
      const [sender, listener] = [await joined(t, gateway), await joined(t, gateway)];
      await ask(listener, 'join', { room });
      sender.send(`42/relay,1["publish",{"room":"${room}","event":"m","data":${raw}}]`);
      assert.equal(await sender.nextText(), '43/relay,1[{"success":true}]');
      assert.equal(await listener.nextText(), `42/relay,["m",${raw}]`);
      sender.send(`42/relay,2["echo",${raw}]`);
      assert.equal(await sender.nextText(), `43/relay,2[${raw}]`);
    },
  );

  rows(
    site,
    RAW.map((raw) => ({ name: `B60 ${JSON.stringify(raw)} beside an attachment reaches a peer byte for byte`, raw })),
    async (gateway, { raw }, t) => {
      const room = fresh('room');
      const [sender, listener] = [await joined(t, gateway), await joined(t, gateway)];
      await ask(listener, 'join', { room });
      sender.send(`451-/relay,1["publish",{"room":"${room}","event":"m","data":[${raw},${PLACE}]}]`);
      sender.sendBinary(Buffer.from('x'));
      assert.equal(await sender.nextText(), '43/relay,1[{"success":true}]');
      assert.equal(await listener.nextText(), `451-/relay,["m",[${raw},${PLACE}]]`);
      assert.equal((await listener.next()).payload.toString(), 'x');
    },
  );

  row(site, 'B60 the payload of a stranger does not make a binary packet of a text one', async (gateway, t) => {
    const ws = await joined(t, gateway);
    ws.send(`42/relay,3["echo",${PLACE}]`);
    const frame = await ws.next();
    if (!frame.closed) assert.equal(frame.text, `43/relay,3[${PLACE}]`);
    else assert.equal(frame.code, 1005);
  });

  row(site, 'B54 ten attachments are taken, nested anywhere', async (gateway, t) => {
    const ws = await joined(t, gateway);
    const places = Array.from({ length: 10 }, (_, num) => `{"n${num}":[{"_placeholder":true,"num":${num}}]}`);
    ws.send(`4510-/relay,1["echo",[${places}]]`);
    for (let num = 0; num < 10; num += 1) ws.sendBinary(Buffer.alloc(num, num));
    assert.equal(await ws.nextText(), `4610-/relay,1[[${places}]]`);
    for (let num = 0; num < 10; num += 1) {
      const frame = await ws.next();
      assert.deepEqual([frame.opcode, [...frame.payload]], [OPCODE.binary, Array(num).fill(num)]);
    }
  });

  row(site, 'B54 announced attachments reserve no memory', (gateway, t) =>
    growsAtMost(gateway.pid, 8 << 20, async () => {
      for (let at = 0; at < 100; at += 1) {
        const ws = await joined(t, gateway);
        ws.send('454294967295-/relay,["e"]');
        await closes(ws, 1005);
      }
    }),
  );

  row(site, 'B58 attachments that add up to more than the limit are closed with 1009', (gateway, t) =>
    growsAtMost(gateway.pid, 12 << 20, async () => {
      const ws = await joined(t, gateway);
      const places = Array.from({ length: 10 }, (_, num) => `{"_placeholder":true,"num":${num}}`);
      ws.send(`4510-/relay,["echo",${places}]`);
      for (let num = 0; num < 9; num += 1) ws.sendBinary(Buffer.alloc(MAX_PAYLOAD - 1));
      await closes(ws, 1009);
    }),
  );

  row(site, 'B58 attachments that add up to the limit are taken', async (gateway, t) => {
    const ws = await joined(t, gateway);
    ws.send('452-/relay,4["echo",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]');
    const half = Buffer.alloc(MAX_PAYLOAD / 2 - 100, 7);
    ws.sendBinary(half);
    ws.sendBinary(half);
    assert.match(await ws.nextText(), /^46\d-\/relay,4\[\{"_placeholder":true,"num":0\}/);
    assert.ok((await ws.next()).payload.equals(half));
  });

  row(site, 'B58 fifty clients that owe an attachment hold no more than what they sent', async (gateway, t) => {
    const before = resident(gateway.pid);
    const owing = await Promise.all(
      Array.from({ length: 50 }, async () => {
        const ws = await joined(t, gateway);
        ws.send('452-/relay,["echo",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]');
        ws.sendBinary(Buffer.alloc(200_000));
        ws.sendFrame({ opcode: OPCODE.ping, payload: 'sync' });
        assert.equal((await ws.next()).opcode, OPCODE.pong);
        return ws;
      }),
    );
    const grown = resident(gateway.pid) - before;
    assert.ok(grown <= 50 * 2 * 200_000 + (8 << 20), `the gateway grew by ${grown} bytes`);
    for (const ws of owing) ws.destroy();
    await eventually(() => resident(gateway.pid) - before <= 16 << 20, { timeout: 10_000, what: 'the memory of lost clients to be given back' });
  });

  row(site, 'CVE-2020-36049 a megabyte in every place of a header costs linear time', (gateway, t) =>
    costsAtMost(gateway.pid, 6, async () => {
      const filler = MAX_PAYLOAD - 40;
      const texts = [
        `42/relay,${'1'.repeat(filler)}`,
        `45${'9'.repeat(filler)}-`,
        `42/${'/'.repeat(filler)}`,
        `42/relay,1["${'\\u0041'.repeat((filler / 6) | 0)}"`,
        `42/relay,[${' '.repeat(filler)}`,
        `4${'2'.repeat(filler)}`,
      ];
      for (const text of texts) {
        const ws = await joined(t, gateway);
        ws.send(text);
        await closes(ws, 1005);
      }
    }),
  );

  row(site, 'a binary header cut off by a disconnect is forgotten with its socket', async (gateway, t) => {
    const ws = await joined(t, gateway);
    ws.send(`451-/relay,["echo",${PLACE}]`);
    ws.destroy();
    const again = await joined(t, gateway);
    await alive(again);
  });
});

describe('CONNECT', () => {
  const answers = (gateway, t, packet, namespace = '/relay') => rawEngineText(gateway, t, `40${namespace === '/' ? '' : `${namespace},`}${packet}`);
  const rawEngineText = async (gateway, t, text) => {
    const ws = await engine(t, gateway);
    ws.send(text);
    const frame = await ws.next();
    return frame.closed ? `closed ${frame.code}` : frame.text;
  };

  rows(
    site,
    [
      ['a pid nobody has', { pid: 'x', offset: "' OR 1=1" }],
      ['an offset that is a number', { pid: 'AAAAAAAAAAAAAAAAAAAA', offset: 5 }],
      ['a pid that is an object', { pid: {}, offset: [] }],
      ['an offset of 15 KiB', { pid: 'AAAAAAAAAAAAAAAAAAAA', offset: 'o'.repeat(15 << 10) }],
      ['an offset in the future', { pid: 'AAAAAAAAAAAAAAAAAAAA', offset: '9999999999999-0' }],
    ].map(([what, extra]) => ({ name: `B62 with ${what} is an ordinary one`, extra })),
    async (gateway, { extra }, t) => {
      const answer = await answers(gateway, t, JSON.stringify({ token: gateway.token(), ...extra }));
      assert.match(answer, /^40\/relay,\{"sid":"[\w-]{20}"(,"pid":"[\w-]+")?\}$/);
      assert.ok(!answer.includes(`"pid":${JSON.stringify(extra.pid)}`));
    },
  );

  row(site, 'and an event in the same POST or read is queued or closed, never lost in between', async (gateway, t) => {
    const ws = await engine(t, gateway);
    ws.send(`40/relay,${JSON.stringify({ token: gateway.token(EVERYTHING) })}`);
    ws.send('42/relay,1["echo","early"]');
    const first = await ws.next();
    if (first.closed) {
      assert.equal(first.code, 1005);
      return;
    }
    assert.match(first.text, /^40\/relay,/);
    const second = await ws.next();
    assert.equal(second.closed ? second.code : second.text, second.closed ? 1005 : '43/relay,1["early"]');
  });

  row(site, 'an event after DISCONNECT closes, and a new CONNECT after it is taken', async (gateway, t) => {
    const ws = await joined(t, gateway);
    ws.send('41/relay,');
    ws.send(`40/relay,${JSON.stringify({ token: gateway.token(EVERYTHING) })}`);
    assert.match(await ws.nextText(), /^40\/relay,\{"sid"/);
    await alive(ws);
    ws.send('41/relay,');
    ws.send('42/relay,1["echo",1]');
    await closes(ws, 1005);
  });

  row(site, 'of one namespace leaves the packets of another closed to it', async (gateway, t) => {
    const ws = await joined(t, gateway, { namespace: '/' });
    ws.send('42/relay,["echo",1]');
    await closes(ws, 1005);
  });
});

describe('a POST to a session', () => {
  row(site, 'of many small packets is taken whole, in order', async (gateway) => {
    const session = await pollingJoined(gateway);
    const packets = Array.from({ length: 200 }, (_, at) => `42/relay,${at}["echo",${at}]`);
    assert.equal((await session.post(packets.join('\x1e'))).status, 200);
    const heard = await session.pollUntil((seen) => seen.length >= 200);
    assert.deepEqual(
      heard,
      packets.map((_, at) => `43/relay,${at}[${at}]`),
    );
  });

  row(site, 'in tiny chunks is taken whole', async (gateway) => {
    const session = await pollingJoined(gateway);
    const body = '42/relay,1["echo","chunks"]';
    const chunked = `${[...body].map((letter) => `1;x=y\r\n${letter}\r\n`).join('')}0\r\n\r\n`;
    const answer = await rawHttp(
      gateway.port,
      Buffer.concat([requestText(gateway.port, 'POST', session.path, { headers: { 'Transfer-Encoding': 'chunked' } }), Buffer.from(chunked)]),
    );
    assert.deepEqual([answer.status, answer.body], [200, 'ok']);
    assert.deepEqual((await session.get()).packets, ['43/relay,1["chunks"]']);
  });

  row(site, 'with any type but octet-stream is taken', async (gateway) => {
    const session = await pollingJoined(gateway);
    for (const type of ['text/plain', 'text/html; charset=latin1', 'application/json', 'x', '']) {
      const answer = await request(gateway.port, 'POST', session.path, { headers: { 'Content-Type': type }, body: '42/relay,1["echo",1]' });
      assert.equal(answer.status, 200, type);
      assert.deepEqual((await session.get()).packets, ['43/relay,1[1]']);
    }
  });
});
