// Bad WebSocket handshakes, frames and upgrades, and connections that take their time: rows B21 to B38
// of the bad-input list, and the advisories of this family that concern WebSocket. All by hand over TCP.

import assert from 'node:assert/strict';
import { describe } from 'node:test';

import {
  ENGINE_ERROR,
  alive,
  closeFrame,
  closes,
  costsAtMost,
  engine,
  forgotten,
  growsAtMost,
  joined,
  meter,
  openSockets,
  parse,
  pollingJoined,
  pour,
  processorTime,
  resident,
  responses,
  row,
  rows,
  underAttack,
  untilServerCloses,
} from './support/hostile.mjs';
import {
  HandshakeRefused,
  OPCODE,
  encodeFrame,
  pollingSession,
  rawConnection,
  rawEngine,
  rawHttp,
  rawWebSocket,
  request,
  requestText,
} from './support/raw.mjs';
import { delay, eventually, within } from './support/wait.mjs';

const MAX_PAYLOAD = 1_000_000;
const MAX_FRAGMENTS = 16_384;
const KEY = 'dGhlIHNhbXBsZSBub25jZQ==';
const WEBSOCKET = '/socket.io/?EIO=4&transport=websocket';

const site = underAttack();
const hasty = underAttack({ env: { CONNECT_TIMEOUT: '3s', UPGRADE_TIMEOUT: '3s' } });

/** The text of a WebSocket handshake; a header of `null` is left out, an array is sent once for each. */
function handshake(port, headers = {}, path = WEBSOCKET) {
  const all = {
    Host: `127.0.0.1:${port}`,
    Upgrade: 'websocket',
    Connection: 'Upgrade',
    'Sec-WebSocket-Key': KEY,
    'Sec-WebSocket-Version': '13',
    ...headers,
  };
  const lines = Object.entries(all)
    .filter(([, value]) => value !== null)
    .flatMap(([name, value]) => [value].flat().map((one) => `${name}: ${one}\r\n`));
  return `GET ${path} HTTP/1.1\r\n${lines.join('')}\r\n`;
}

const smuggled = (port) => `GET /live HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n\r\n`;

describe('an accepted WebSocket handshake', () => {
  row(site, 'has the accept value of the example in RFC 6455', async (gateway) => {
    const answer = await rawHttp(gateway.port, handshake(gateway.port));
    assert.equal(answer.status, 101);
    assert.equal(answer.headers['sec-websocket-accept'], 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=');
  });
});

describe('a refused WebSocket handshake', () => {
  const unknownSid = `${WEBSOCKET}&sid=AAAAAAAAAAAAAAAAAAAA`;
  const cases = [
    { name: 'B21 version 777', headers: { 'Sec-WebSocket-Version': '777' }, status: 426 },
    { name: 'B21 version 8', headers: { 'Sec-WebSocket-Version': '8' }, status: 426 },
    { name: 'B21 a version that is no number', headers: { 'Sec-WebSocket-Version': 'thirteen' }, status: 426 },
    { name: 'B21 no version', headers: { 'Sec-WebSocket-Version': null }, status: [400, 426] },
    { name: 'B21 no key', headers: { 'Sec-WebSocket-Key': null }, status: 400 },
    { name: 'B21 an empty key', headers: { 'Sec-WebSocket-Key': '' }, status: 400 },
    { name: 'B21 a key of 15 bytes', headers: { 'Sec-WebSocket-Key': Buffer.alloc(15).toString('base64') }, status: 400 },
    { name: 'B21 a key of 17 bytes', headers: { 'Sec-WebSocket-Key': Buffer.alloc(17).toString('base64') }, status: 400 },
    { name: 'B21 a key that is not base64', headers: { 'Sec-WebSocket-Key': '!!!!!!!!!!!!!!!!!!!!!!==' }, status: 400 },
    { name: 'B21 a foreign origin', headers: { Origin: 'https://evil.example' }, status: 403 },
    { name: 'B21 an unknown sid', path: unknownSid, status: 400 },
    { name: 'B21 another EIO', path: '/socket.io/?EIO=3&transport=websocket', status: 400 },
    { name: 'B21 another transport', path: '/socket.io/?EIO=4&transport=abc', status: 400 },
    { name: 'B21 another path', path: '/nowhere', status: [400, 404, 426] },
  ];
  rows(
    site,
    cases.map((entry) => ({ ...entry, name: `${entry.name} is answered ${[entry.status].flat().join(' or ')} and no tunnel is left` })),
    async (gateway, { headers, path, status }) => {
      const opening = handshake(gateway.port, headers, path);
      const answer = await rawHttp(gateway.port, opening, { untilClosed: true });
      assert.ok([status].flat().includes(answer.status), `answered ${answer.status}`);
      assert.match(answer.headers.connection ?? '', /\bclose\b/i);
      if (answer.status === 426) assert.equal(answer.headers['sec-websocket-version'], '13');

      const together = await untilServerCloses(gateway.port, opening + smuggled(gateway.port));
      assert.equal(responses(together), 1, 'bytes sent with the refused handshake were answered');
      const later = await untilServerCloses(gateway.port, opening, { rest: smuggled(gateway.port) });
      assert.equal(responses(later), 1, 'bytes sent after the refusal were answered');
    },
  );

  row(site, 'B21 two keys are refused', async (gateway) => {
    const answer = await rawHttp(gateway.port, handshake(gateway.port, { 'Sec-WebSocket-Key': [KEY, Buffer.alloc(16).toString('base64')] }), {
      untilClosed: true,
    });
    assert.equal(answer.status, 400);
  });

  row(site, 'B21 POST is no WebSocket handshake', async (gateway) => {
    const opening = handshake(gateway.port).replace('GET', 'POST');
    const received = await untilServerCloses(gateway.port, opening + smuggled(gateway.port));
    assert.match(received.toString('latin1'), /^HTTP\/1\.1 (400|405) /);
    assert.equal(responses(received), 1);
  });

  row(site, 'B21 HTTP/1.0 is no WebSocket handshake', async (gateway) => {
    const opening = handshake(gateway.port).replace('HTTP/1.1', 'HTTP/1.0');
    const answer = await rawHttp(gateway.port, opening, { untilClosed: true });
    assert.equal(answer.status, 400);
  });

  row(site, 'CVE-2024-37890 two thousand headers are answered 431', async (gateway) => {
    const many = Object.fromEntries(Array.from({ length: 2000 }, (_, at) => [`X-${at}`, 'y']));
    assert.equal((await rawHttp(gateway.port, handshake(gateway.port, many), { untilClosed: true })).status, 431);
  });

  row(site, 'CVE-2021-32640 blanks in Sec-WebSocket-Protocol cost no time', (gateway) =>
    costsAtMost(gateway.pid, 1.5, async () => {
      const blanks = (size) => handshake(gateway.port, { 'Sec-WebSocket-Protocol': `a${' '.repeat(size)}b` });
      assert.equal((await rawHttp(gateway.port, blanks(64 << 10), { untilClosed: true })).status, 431);
      for (let round = 0; round < 20; round += 1) {
        const connection = await rawConnection(gateway.port);
        connection.write(blanks(15 << 10));
        const answer = await connection.response();
        assert.ok([101, 400].includes(answer.status), `answered ${answer.status}`);
        assert.equal(answer.headers['sec-websocket-protocol'], undefined);
        connection.destroy();
      }
    }),
  );

  row(site, 'CVE-2023-43669 a head that arrives byte by byte is cut off at the limit', (gateway) =>
    costsAtMost(gateway.pid, 4, async () => {
      const connection = await rawConnection(gateway.port);
      try {
        connection.write(handshake(gateway.port).slice(0, -2) + 'X-Long: ');
        const sent = pour(connection.socket, 1 << 20, () => 'x');
        const answer = await connection.response({ timeout: 15_000 });
        assert.ok([431, 0].includes(answer.status), `answered ${answer.status}`);
        await within(connection.closed, 5_000, 'the end of the connection');
        assert.ok((await sent) < 200_000, 'the whole head was taken');
      } finally {
        connection.destroy();
      }
    }),
  );

  rows(
    site,
    [
      'constructor',
      '__proto__',
      'permessage-deflate; server_max_window_bits="',
      'permessage-deflate',
      'permessage-deflate; client_max_window_bits=99999999999',
      ', , ,',
      'x-webkit-deflate-frame',
      'toString; a=b, hasOwnProperty',
    ].map((extension) => ({ name: `B32 the extension ${extension} is not negotiated (GHSA-5v72-xg48-5rpm)`, extension })),
    async (gateway, { extension }) => {
      const connection = await rawConnection(gateway.port);
      try {
        connection.write(handshake(gateway.port, { 'Sec-WebSocket-Extensions': extension }));
        const answer = await connection.response();
        assert.ok([101, 400].includes(answer.status), `answered ${answer.status}`);
        assert.equal(answer.headers['sec-websocket-extensions'], undefined);
      } finally {
        connection.destroy();
      }
    },
  );

  for (const [when, wait] of [
    ['before the 101', () => {}],
    ['after the 101', (connection) => connection.response()],
  ]) {
    row(site, `CVE-2022-41940 connections reset ${when}, 200 in a row, leave nothing behind`, async (gateway) => {
      const files = openSockets(gateway.pid);
      for (let round = 0; round < 200; round += 1) {
        const connection = await rawConnection(gateway.port);
        connection.write(handshake(gateway.port));
        await wait(connection);
        connection.reset();
      }
      await eventually(() => openSockets(gateway.pid) <= files + 10, { what: 'the files of the reset connections to be closed' });
    });
  }
});

const text = (payload) => ({ opcode: OPCODE.text, payload });
const start = (payload, opcode = OPCODE.text) => ({ opcode, payload, fin: false });
const more = (payload) => ({ opcode: OPCODE.continuation, payload, fin: false });
const last = (payload) => ({ opcode: OPCODE.continuation, payload });

describe('a bad frame', () => {
  const halves = (bytes, at) => [start(bytes.subarray(0, at)), last(bytes.subarray(at))];
  const bad = Buffer.from([0x34, 0x32, 0xe2, 0x28, 0xa1]);
  const half = MAX_PAYLOAD / 2;
  const cases = [
    ['B22 a text frame without mask', 1002, { masked: false, payload: '40' }],
    ['B22 a ping without mask', 1002, { masked: false, opcode: OPCODE.ping }],
    ['B22 an empty frame without mask', 1002, { masked: false }],
    ['B23 RSV1', 1002, { rsv: 4, payload: '40' }],
    ['B23 RSV2', 1002, { rsv: 2, payload: '40' }],
    ['B23 RSV3', 1002, { rsv: 1, payload: '40' }],
    ['B23 RSV1 on a ping', 1002, { rsv: 4, opcode: OPCODE.ping }],
    ...[3, 4, 5, 6, 7, 11, 12, 13, 14, 15].map((opcode) => [`B23 the reserved opcode ${opcode}`, 1002, { opcode, payload: 'x' }]),
    ['B24 a ping of 126 bytes', 1002, { opcode: OPCODE.ping, payload: 'x'.repeat(126) }],
    ['B24 a pong of 126 bytes', 1002, { opcode: OPCODE.pong, payload: 'x'.repeat(126) }],
    ['B24 a close of 126 bytes', 1002, { opcode: OPCODE.close, payload: Buffer.concat([Buffer.from([3, 232]), Buffer.alloc(124, 'x')]) }],
    ['B24 a ping of 70,000 bytes', 1002, { opcode: OPCODE.ping, payload: 'x'.repeat(70_000) }],
    ['B24 a fragmented ping', 1002, { opcode: OPCODE.ping, fin: false, payload: 'x' }],
    ['B24 a fragmented close', 1002, { opcode: OPCODE.close, fin: false }],
    ['B25 a continuation without a start', 1002, last('40')],
    ['B25 a continuation after a whole message', 1002, text('3'), last('40')],
    ['B25 a text inside a fragmented message', 1002, start('4'), text('40')],
    ['B25 a binary inside a fragmented message', 1002, start('4'), { opcode: OPCODE.binary, payload: 'x' }],
    ['B26 a text that is not UTF-8', 1007, text(bad)],
    ['B26 a text that is not UTF-8, in fragments', 1007, ...halves(bad, 3)],
    ['B26 a text that is not UTF-8, split in its character', 1007, ...halves(bad, 4)],
    ['B26 an encoded surrogate', 1007, text(Buffer.from([0x34, 0xed, 0xa0, 0xbd]))],
    ['B26 an overlong slash', 1007, text(Buffer.from([0x34, 0xc0, 0xaf]))],
    ['B26 a character over U+10FFFF', 1007, text(Buffer.from([0x34, 0xf4, 0x90, 0x80, 0x80]))],
    ['B26 a text that ends in a character', 1007, text(Buffer.from([0x34, 0xf0, 0x9f, 0x98]))],
    ['B26 fragments that end in a character', 1007, start('42'), last(Buffer.from([0xf0, 0x9f]))],
    ['B27 a header that announces 2^63-1 bytes', [1009, 1002], { announce: 2n ** 63n - 1n }],
    ['B27 a header that announces 2^63 bytes', [1009, 1002], { announce: 2n ** 63n }],
    ['B27 a header that announces 2^64-1 bytes', [1009, 1002], { announce: 2n ** 64n - 1n }],
    ['B27 a header that announces 2^40 bytes', 1009, { announce: 2n ** 40n, opcode: OPCODE.binary }],
    ['B27 a header that announces one byte too many', 1009, { announce: MAX_PAYLOAD + 1 }],
    ['B28 two fragments of one byte too many', 1009, start('4'.repeat(half)), last('4'.repeat(half + 1))],
    ['B28 a binary in fragments of one byte too many', 1009, start('4'.repeat(half), OPCODE.binary), more('x'.repeat(half)), last('x')],
    ['B28 a second fragment that only announces too much', 1009, start('4'), { opcode: OPCODE.continuation, announce: MAX_PAYLOAD }],
    ...[0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535].map((code) => [`B30 a close with code ${code}`, 1002, closeFrame(code)]),
    ['B30 a close with a payload of one byte', 1002, { opcode: OPCODE.close, payload: 'x' }],
    ['B30 a close with a reason that is not UTF-8', 1007, { opcode: OPCODE.close, payload: Buffer.from([3, 232, 0xff, 0xfe]) }],
    ['B32 a compressed frame without negotiation', 1002, { rsv: 4, payload: Buffer.from([0xca, 0x4b, 0x04, 0x00]) }],
  ];
  rows(
    site,
    cases.map(([name, code, ...frames]) => ({ name: `${name} is closed with ${[code].flat().join(' or ')}`, code, frames })),
    async (gateway, { code, frames }, t) => {
      const counted = await meter(gateway, 'muster_bad_input_total');
      const ws = await engine(t, gateway);
      for (const frame of frames) ws.sendBytes(Buffer.isBuffer(frame) ? frame : encodeFrame(frame));
      await closes(ws, code);
      await counted.grows();
    },
  );

  rows(
    site,
    [1000, 1001, 1011, 3000, 4999, undefined].map((code) => ({ name: `B30 a close with ${code ?? 'no code'} is answered by a close`, code })),
    async (gateway, { code }, t) => {
      const ws = await engine(t, gateway);
      ws.sendBytes(code ? closeFrame(code, 'bye') : encodeFrame({ opcode: OPCODE.close }));
      await closes(ws, [1005, code ?? 1005]);
    },
  );

  row(site, 'B24 B25 B26 a control frame between fragments that split a character is in order', async (gateway, t) => {
    const ws = await joined(t, gateway);
    const message = Buffer.from('42/relay,5["echo","\u{1f600}"]');
    const split = message.indexOf(0xf0) + 2;
    ws.sendFrame(start(message.subarray(0, split)));
    ws.sendFrame({ opcode: OPCODE.ping, payload: 'x'.repeat(125) });
    ws.sendFrame(more(''));
    ws.sendFrame(last(message.subarray(split)));
    const pong = await ws.next();
    assert.deepEqual([pong.opcode, pong.payload.toString()], [OPCODE.pong, 'x'.repeat(125)]);
    assert.equal(await ws.nextText(), '43/relay,5["\u{1f600}"]');
  });

  row(site, 'B27 an announced length reserves no memory, allowed or not', async (gateway, t) => {
    const lengths = [2n ** 63n - 1n, 2n ** 40n, 2n ** 31n, BigInt(MAX_PAYLOAD)];
    await growsAtMost(gateway.pid, 8 << 20, async () => {
      const open = [];
      for (let at = 0; at < 100; at += 1) {
        const ws = await engine(t, gateway);
        ws.sendFrame({ opcode: OPCODE.binary, announce: lengths[at % lengths.length] });
        open.push(ws);
      }
      await Promise.all(open.filter((_, at) => at % lengths.length !== lengths.length - 1).map((ws) => closes(ws, [1009, 1002])));
      for (const ws of open) ws.destroy();
    });
  });

  row(site, 'B28 a message of exactly the limit is taken whole and in fragments', async (gateway, t) => {
    const ws = await joined(t, gateway);
    const open = '42/relay,6["echo","';
    const message = `${open}${'x'.repeat(MAX_PAYLOAD - open.length - 2)}"]`;
    for (const frames of [[text(message)], [start(message.slice(0, half)), last(message.slice(half))]]) {
      for (const frame of frames) ws.sendFrame(frame);
      assert.equal((await ws.nextText()).length, MAX_PAYLOAD - '"echo",'.length);
    }
  });

  row(site, 'B29 a million empty continuations are cut off', (gateway, t) =>
    costsAtMost(gateway.pid, 4.5, async () => {
      const ws = await engine(t, gateway);
      ws.sendFrame(start('4'));
      const thousand = Buffer.concat(Array.from({ length: 1000 }, () => encodeFrame(more(''))));
      const written = pour(ws.socket, 1000, () => thousand);
      await closes(ws, 1008);
      await written;
    }),
  );

  row(
    site,
    'CVE-2026-48779 fifty connections of one-byte fragments are cut off in bounded memory',
    (gateway, t) =>
      growsAtMost(gateway.pid, 24 << 20, async () => {
        const thousand = Buffer.concat(Array.from({ length: 1000 }, () => encodeFrame(more('x'))));
        await Promise.all(
          Array.from({ length: 50 }, async () => {
            const ws = await joined(t, gateway);
            ws.sendFrame(start('4'));
            pour(ws.socket, 131, () => thousand);
            await closes(ws, 1008, { timeout: 20_000 });
          }),
        );
      }),
    { timeout: 60_000 },
  );

  row(site, 'a message of 16,384 fragments is taken, one more is closed with 1008', async (gateway, t) => {
    const fragments = (count, message) =>
      Buffer.concat(
        Array.from({ length: count }, (_, at) =>
          encodeFrame({
            opcode: at === 0 ? OPCODE.text : OPCODE.continuation,
            fin: at === count - 1,
            payload: message[at] ?? '',
          }),
        ),
      );
    const message = '42/relay,7["echo","f"]';
    const ws = await joined(t, gateway);
    ws.sendBytes(fragments(MAX_FRAGMENTS, message));
    assert.equal(await ws.nextText(), '43/relay,7["f"]');
    ws.sendBytes(fragments(MAX_FRAGMENTS + 1, message));
    await closes(ws, 1008);
  });

  row(site, 'B31 a flood of pings is cut off with 1008 and answered by no more pongs than the burst', async (gateway, t) => {
    const limited = await meter(gateway, 'muster_rate_limited_total');
    const ws = await engine(t, gateway);
    const hundred = Buffer.concat(Array.from({ length: 100 }, () => encodeFrame({ opcode: OPCODE.ping, payload: 'p' })));
    pour(ws.socket, 10, () => hundred);
    const end = await closes(ws, 1008);
    assert.ok(end.frames.filter(({ opcode }) => opcode === OPCODE.pong).length <= 55);
    await limited.grows();
  });

  row(site, 'B31 pings at a thousand a second from a client that reads no pong are cut off within 5 s', async (gateway, t) => {
    const ended = await meter(gateway, 'muster_sessions_closed_total');
    const ws = await engine(t, gateway);
    ws.socket.pause();
    const ping = Buffer.concat(Array.from({ length: 50 }, () => encodeFrame({ opcode: OPCODE.ping, payload: 'x'.repeat(125) })));
    const beat = setInterval(() => ws.sendBytes(ping), 50);
    try {
      await ended.grows();
    } finally {
      clearInterval(beat);
    }
  });

  row(site, 'B31 pongs nobody asked for are limited like pings', async (gateway, t) => {
    const ws = await engine(t, gateway);
    pour(ws.socket, 100, () => Buffer.concat(Array.from({ length: 10 }, () => encodeFrame({ opcode: OPCODE.pong }))));
    await closes(ws, 1008);
  });
});

describe('an upgrade', () => {
  const probe = async (t, gateway, session) => {
    const ws = await rawWebSocket(gateway.port, `${WEBSOCKET}&sid=${session.sid}`);
    t.after(() => ws.destroy());
    return ws;
  };
  const goesOn = async (session) => {
    assert.equal((await session.post(`42${session.prefix}1["echo","on"]`)).status, 200);
    const packets = await session.pollUntil((seen) => seen.some((packet) => packet.startsWith('43')));
    assert.deepEqual(
      packets.filter((packet) => packet !== '6'),
      [`43${session.prefix}1["on"]`],
    );
  };

  row(hasty, 'B36 that never sends 5 is given up, and polling goes on', async (gateway, t) => {
    const session = await pollingJoined(gateway);
    const ws = await probe(t, gateway, session);
    ws.send('2probe');
    assert.equal(await ws.nextText(), '3probe');
    assert.deepEqual((await session.get()).packets, ['6']);
    assert.deepEqual((await session.get()).packets, ['6'], 'every GET must be released while the probe stands');
    const end = await ws.untilClosed({ timeout: 15_000 });
    assert.deepEqual(end.frames, []);
    await goesOn(session);
  });

  row(hasty, 'B36 that never sends 2probe is given up, and polling goes on', async (gateway, t) => {
    const session = await pollingJoined(gateway);
    const ws = await probe(t, gateway, session);
    const end = await ws.untilClosed({ timeout: 15_000 });
    assert.deepEqual(end.frames, []);
    await goesOn(session);
  });

  rows(
    site,
    [
      { name: 'B38 a message before 2probe', send: ['42/relay,1["echo",1]'] },
      { name: 'B38 2prob', send: ['2prob'] },
      { name: 'B38 2probes', send: ['2probes'] },
      { name: 'B38 an empty text before 2probe', send: [''] },
      { name: 'B38 a binary before 2probe', send: [Buffer.from('2probe')] },
      { name: 'B38 a message after 2probe', send: ['2probe', '42/relay,1["echo",1]'] },
      { name: 'B38 a bad frame after 2probe', send: ['2probe', { rsv: 4, payload: '5' }] },
    ].map((entry) => ({ ...entry, name: `${entry.name} ends the probe, and polling goes on` })),
    async (gateway, { send }, t) => {
      const session = await pollingJoined(gateway);
      const ws = await probe(t, gateway, session);
      for (const what of send) {
        if (Buffer.isBuffer(what)) ws.sendBinary(what);
        else if (typeof what === 'string') ws.send(what);
        else ws.sendFrame(what);
      }
      const end = await ws.untilClosed();
      assert.deepEqual(
        end.frames.map(({ text: seen }) => seen).filter((seen) => seen !== '3probe'),
        [],
        'the probe was answered',
      );
      await within(ws.gone, 5_000, 'the end of the probing connection');
      await goesOn(session);
    },
  );

  row(site, 'B37 of a session that is on WebSocket already is refused, and the first goes on', async (gateway, t) => {
    const session = await pollingJoined(gateway);
    const first = await probe(t, gateway, session);
    first.prefix = session.prefix;
    first.send('2probe');
    assert.equal(await first.nextText(), '3probe');
    first.send('5');
    await alive(first);
    let end;
    try {
      const second = await probe(t, gateway, session);
      second.send('2probe');
      end = await second.untilClosed();
      assert.deepEqual(end.frames, []);
    } catch (refused) {
      assert.ok(refused instanceof HandshakeRefused, String(refused));
      assert.equal(refused.status, 400);
    }
    await alive(first);
  });

  row(site, 'B37 beside another one that has not ended is refused, and the first goes on', async (gateway, t) => {
    const session = await pollingJoined(gateway);
    const first = await probe(t, gateway, session);
    first.prefix = session.prefix;
    first.send('2probe');
    assert.equal(await first.nextText(), '3probe');
    try {
      const second = await probe(t, gateway, session);
      second.send('2probe');
      assert.deepEqual((await second.untilClosed()).frames, []);
    } catch (refused) {
      assert.ok(refused instanceof HandshakeRefused, String(refused));
      assert.equal(refused.status, 400);
    }
    first.send('5');
    await alive(first);
  });

  row(site, 'CVE-2023-31125 to the sid of a session that began on WebSocket is refused, and the session goes on', async (gateway, t) => {
    const ws = await joined(t, gateway);
    try {
      const second = await probe(t, gateway, ws);
      second.send('2probe');
      assert.deepEqual((await second.untilClosed()).frames, []);
    } catch (refused) {
      assert.ok(refused instanceof HandshakeRefused, String(refused));
      assert.equal(refused.status, 400);
    }
    await alive(ws);
  });

  row(site, 'CVE-2022-41940 whose connection is reset at each step leaves the session to polling', async (gateway) => {
    for (let round = 0; round < 30; round += 1) {
      const session = await pollingJoined(gateway);
      const connection = await rawConnection(gateway.port);
      connection.write(handshake(gateway.port, {}, `${WEBSOCKET}&sid=${session.sid}`));
      if (round % 3 > 0) await connection.response();
      if (round % 3 > 1) connection.write(encodeFrame(text('2probe')));
      connection.reset();
      await goesOn(session);
      await session.post('1');
    }
  });
});

describe('a malformed handshake', () => {
  row(site, 'B21 is counted', async (gateway) => {
    const counted = await meter(gateway, 'muster_bad_input_total', 'kind="handshake"');
    const bad = [
      handshake(gateway.port, { 'Sec-WebSocket-Version': '8' }),
      handshake(gateway.port, { 'Sec-WebSocket-Key': null }),
      handshake(gateway.port, {}, '/socket.io/?EIO=3&transport=websocket'),
      handshake(gateway.port, {}, '/socket.io/?EIO=4&transport=polling'),
      handshake(gateway.port, {}, '/socket.io/?EIO=4&transport=carrier-pigeon'),
      requestText(gateway.port, 'PUT', '/socket.io/?EIO=4&transport=polling'),
    ];
    for (const text of bad) assert.ok((await rawHttp(gateway.port, text)).status >= 400);
    await counted.grows(bad.length);
    const session = await pollingSession(gateway.port);
    assert.equal((await session.post('1')).status, 200);
    await forgotten(session);
    assert.equal(await counted.total(), counted.start + bad.length, 'and nothing else is');
  });
});

describe('an upgrade that is no GET', () => {
  rows(
    site,
    ['POST', 'PUT', 'OPTIONS', 'HEAD'].map((method) => ({ name: `B21 but a ${method} is refused, and polling goes on`, method })),
    async (gateway, { method }) => {
      const session = await pollingJoined(gateway);
      const path = `${WEBSOCKET}&sid=${session.sid}`;
      const answer = await rawHttp(gateway.port, handshake(gateway.port, {}, path).replace(/^GET/, method), { untilClosed: true });
      assert.equal(answer.status, 400);
      if (method !== 'HEAD') assert.deepEqual(JSON.parse(answer.body), { code: 2, message: 'Bad handshake method' });
      assert.equal((await session.post(`42${session.prefix}1["echo","on"]`)).status, 200);
      assert.deepEqual(await session.pollUntil((seen) => seen.length > 0), [`43${session.prefix}1["on"]`]);
    },
  );
});

describe('a connection that does not go on', () => {
  row(hasty, 'B35 upgraded and then silent is closed at CONNECT_TIMEOUT', async (gateway, t) => {
    const ended = await meter(gateway, 'muster_sessions_closed_total', 'reason="connect_timeout"');
    const begun = performance.now();
    const sockets = await Promise.all(Array.from({ length: 50 }, () => engine(t, gateway)));
    await Promise.all(sockets.map((ws) => closes(ws, 1005, { timeout: 15_000 })));
    const took = performance.now() - begun;
    assert.ok(took > 2_900, `closed after ${took} ms`);
    await ended.grows(50);
  });

  row(hasty, 'B35 pongs and bad namespaces do not extend CONNECT_TIMEOUT', async (gateway, t) => {
    const ws = await engine(t, gateway);
    const beat = setInterval(() => {
      ws.send('3');
      ws.send('40/nowhere,');
    }, 200);
    try {
      // Extended by each of them, the end would never come.
      await closes(ws, 1005, { timeout: 15_000 });
    } finally {
      clearInterval(beat);
    }
  });

  row(hasty, 'B35 a polling session that does not connect is closed at CONNECT_TIMEOUT', async (gateway) => {
    const session = await pollingSession(gateway.port);
    const parked = await session.get();
    assert.deepEqual([parked.status, parked.packets], [200, ['1']]);
    await forgotten(session);
  });

  row(site, 'B35 silent connections cost little', async (gateway, t) => {
    const count = 500;
    const before = resident(gateway.pid);
    const sockets = [];
    for (let at = 0; at < count; at += 50) sockets.push(...(await Promise.all(Array.from({ length: 50 }, () => engine(t, gateway)))));
    const each = (resident(gateway.pid) - before) / count;
    for (const ws of sockets) ws.destroy();
    assert.ok(each <= 16 << 10, `${Math.round(each)} bytes each`);
  });

  row(site, 'B35 a flood of polling handshakes without CONNECT is bounded (CVE-2026-48802)', (gateway) =>
    growsAtMost(gateway.pid, 24 << 20, async () => {
      for (let round = 0; round < 20; round += 1) await Promise.all(Array.from({ length: 50 }, () => pollingSession(gateway.port)));
    }),
  );
});

describe('a connection that takes its time', { concurrency: true }, () => {
  row(
    site,
    'B33 500 heads at a byte a second are closed at 10 s, and others do not wait',
    async (gateway) => {
      const begun = performance.now();
      const slow = await Promise.all(Array.from({ length: 500 }, () => rawConnection(gateway.port)));
      const head = Buffer.from(handshake(gateway.port));
      let at = 0;
      const drip = setInterval(() => {
        for (const { write } of slow) write(head.subarray(at, at + 1));
        at += 1;
      }, 1_000);
      const waits = [];
      let over = false;
      const others = (async () => {
        while (!over) {
          const asked = performance.now();
          (await rawEngine(gateway.port)).destroy();
          waits.push(performance.now() - asked);
          await delay(50);
        }
      })();
      try {
        const ends = await Promise.all(
          slow.map(async (connection) => {
            await within(connection.closed, 20_000, 'the end of a slow connection');
            return { after: performance.now() - begun, raw: connection.raw().toString('latin1') };
          }),
        );
        for (const { after, raw } of ends) {
          assert.ok(after > 9_000 && after < 14_000, `closed after ${after} ms`);
          assert.match(raw, /^(HTTP\/1\.1 408 |$)/);
        }
      } finally {
        clearInterval(drip);
        over = true;
        await others;
        for (const { destroy } of slow) destroy();
      }
      waits.sort((a, b) => a - b);
      const most = waits[Math.floor(waits.length * 0.9)];
      assert.ok(most <= 2_000, `one of ten other handshakes took more than ${most} ms`);
    },
    { timeout: 60_000 },
  );

  row(site, 'B33 a connection that says nothing is closed at 10 s', async (gateway) => {
    const begun = performance.now();
    const connection = await rawConnection(gateway.port);
    await within(connection.closed, 15_000, 'the end of the silent connection');
    const took = performance.now() - begun;
    assert.ok(took > 9_000, `closed after ${took} ms`);
    assert.match(connection.raw().toString('latin1'), /^(HTTP\/1\.1 408 |$)/);
  });

  row(site, 'B33 the second head of a connection is waited for no longer', async (gateway) => {
    const connection = await rawConnection(gateway.port);
    connection.write(requestText(gateway.port, 'GET', '/live'));
    assert.equal((await connection.response()).status, 200);
    connection.write('GET /live HTTP/1.1\r\n');
    await within(connection.closed, 15_000, 'the end of the slow connection');
  });

  row(site, 'B34 a body at a byte a second is answered 408 at 15 s, and the session ends', async (gateway) => {
    const session = await pollingSession(gateway.port);
    const connection = await rawConnection(gateway.port);
    const begun = performance.now();
    connection.write(requestText(gateway.port, 'POST', session.path, { headers: { 'Content-Length': '100' }, body: '' }));
    const drip = setInterval(() => connection.write('4'), 1_000);
    try {
      const answer = await connection.response({ timeout: 20_000 });
      const took = performance.now() - begun;
      assert.ok(took > 13_500 && took < 18_000, `answered after ${took} ms`);
      assert.equal(answer.status, 408);
      await within(connection.closed, 5_000, 'the end of the slow connection');
    } finally {
      clearInterval(drip);
      connection.destroy();
    }
    await forgotten(session);
  });

  row(site, 'B34 a body at a byte a second ends at 15 s for the login too', async (gateway) => {
    const connection = await rawConnection(gateway.port);
    connection.write(
      requestText(gateway.port, 'POST', '/api/v1/auth/login', { headers: { 'Content-Type': 'application/json', 'Content-Length': '100' }, body: '' }),
    );
    const drip = setInterval(() => connection.write(' '), 1_000);
    try {
      assert.equal((await connection.response({ timeout: 20_000 })).status, 408);
      await within(connection.closed, 5_000, 'the end of the slow connection');
    } finally {
      clearInterval(drip);
      connection.destroy();
    }
  });

  row(site, 'B36 a probe is given up at 10 s by default, and polling goes on', async (gateway, t) => {
    const session = await pollingJoined(gateway);
    const ws = await rawWebSocket(gateway.port, `${WEBSOCKET}&sid=${session.sid}`);
    t.after(() => ws.destroy());
    const begun = performance.now();
    ws.send('2probe');
    assert.equal(await ws.nextText(), '3probe');
    await ws.untilClosed({ timeout: 15_000 });
    const took = performance.now() - begun;
    assert.ok(took > 9_000, `given up after ${took} ms`);
    assert.equal((await session.post('40/nowhere,')).status, 200);
    assert.deepEqual((await session.get()).packets, ['44/nowhere,{"message":"Invalid namespace"}']);
  });
});
