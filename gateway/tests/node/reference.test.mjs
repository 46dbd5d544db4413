// The same bytes to the gateway and to the Node.js server, for what foreign clients spell differently, omit, repeat and
// reorder: queries, headers, base64, upgrades, and polling after a ping timeout. Both must behave the same.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING } from './support/clients.mjs';
import { startGateway } from './support/gateway.mjs';
import { HandshakeRefused, OPCODE, encodeFrame, pollingSession, rawConnection, rawEngine, rawWebSocket, request, requestText } from './support/raw.mjs';
import { startReference } from './support/reference.mjs';
import { delay, eventually, within } from './support/wait.mjs';

const POLLING = 'EIO=4&transport=polling';
const WEBSOCKET = 'EIO=4&transport=websocket';

const both = {};
before(async () => {
  both.gateway = await startGateway({ env: { EVENTS_PER_SECOND: '0', SOCKETS_PER_USER: '0' } });
  both.token = both.gateway.token(EVERYTHING);
  both.reference = await startReference();
});
after(async () => {
  await both.gateway?.kill();
  both.reference?.close();
});

/** Runs `ask(port)` against both servers, and compares the results. */
async function same(ask) {
  const expected = await ask(both.reference.port);
  assert.deepEqual(await ask(both.gateway.port), expected);
  return expected;
}

/** Opens a polling session and joins `/relay`. */
async function joined(port) {
  const session = await pollingSession(port);
  assert.equal((await session.post(`40/relay,${JSON.stringify({ token: both.token })}`)).status, 200);
  await session.pollUntil((seen) => seen.some((packet) => packet.startsWith('40/relay,')));
  return session;
}

/** The result of a handshake: `open`, or the refusal. */
async function polled(port, query, headers) {
  const answer = await request(port, 'GET', `/socket.io/?${query}`, { headers });
  return answer.status === 200 && answer.body.startsWith('0{"sid":') ? 'open' : [answer.status, answer.body];
}

async function upgraded(port, query, headers) {
  try {
    const ws = await rawWebSocket(port, `/socket.io/?${query}`, { headers });
    const text = await ws.nextText();
    ws.destroy();
    return text.startsWith('0{"sid":') ? 'open' : text;
  } catch (error) {
    if (!(error instanceof HandshakeRefused)) throw error;
    return error.status;
  }
}

describe('a handshake', () => {
  const queries = [
    `${POLLING}&sid=`, `${POLLING}&sid`, `${POLLING}&sid=x&sid=`, `${POLLING}&sid=&sid=x`, `${POLLING}&sid=%20`, `${POLLING}&sid=__proto__`,
    'EIO=4&EIO=3&transport=polling', 'EIO=3&EIO=4&transport=polling', 'EIO=4&EIO=4&transport=polling', 'EIO=&transport=polling', 'transport=polling',
    'EIO=04&transport=polling', 'EIO=4+&transport=polling', 'EIO=%34&transport=%70olling', 'eio=4&transport=polling', 'EIO=4&EIO=&transport=polling',
    'EIO=4&transport=polling&transport=', 'EIO=4&transport=&transport=polling', 'EIO=4&transport=Polling', 'EIO=4;transport=polling',
    'EIO=4&transport=polling&transport=websocket', 'EIO=4&transport=websocket&transport=polling', `${POLLING}?x=1`, `?${POLLING}`, `&&${POLLING}&`,
    `${POLLING}&t`, `${POLLING}&t=&t=x`, `${POLLING}&b64=1`, `${POLLING}&b64=`, `${POLLING}&token=`, `${POLLING}&__proto__=1&constructor=2`, '',
  ];
  for (const query of queries) test(`by polling with ?${query}`, () => same((port) => polled(port, query)));

  const websocket = [
    WEBSOCKET, `${WEBSOCKET}&sid=`, `${WEBSOCKET}&sid`, `${WEBSOCKET}&sid=x&sid=`, `EIO=3&${WEBSOCKET}`, `transport=&${WEBSOCKET}`, `${WEBSOCKET}&${WEBSOCKET}`,
    `${WEBSOCKET}&b64=1`, `${WEBSOCKET}&b64=`, `${WEBSOCKET}&j=1`, `${WEBSOCKET}&j=`, `${WEBSOCKET}&t`, `${WEBSOCKET}&sid=x`, 'transport=websocket&EIO=%34',
  ];
  for (const query of websocket) test(`by WebSocket with ?${query}`, () => same((port) => upgraded(port, query)));

  const headers = [
    { Origin: '' }, { 'User-Agent': '' }, { 'Accept-Encoding': '' }, { 'Content-Type': '' }, { Cookie: '' }, { Authorization: '' }, { Accept: '' },
  ];
  const origins = [(host) => `http://${host}/socket.io/?EIO=4`, (host) => `http://${host}/`, (host) => `ws://${host}/a/b`, (host) => `http://${host}?x=1`, (host) => host];
  for (const [name, spelled] of [
    ...headers.map((entry) => [JSON.stringify(entry), () => entry]),
    ...origins.map((origin) => [`an Origin ${origin('HOST')}`, (port) => ({ Origin: origin(`127.0.0.1:${port}`) })]),
    ['its own Origin twice', (port) => ({ Origin: `http://127.0.0.1:${port}`, origin: `http://127.0.0.1:${port}` })],
  ]) {
    test(`by polling with ${name}`, () => same((port) => polled(port, POLLING, spelled(port))));
    test(`by WebSocket with ${name}`, () => same((port) => upgraded(port, WEBSOCKET, spelled(port))));
  }
  for (const [name, spelled] of [
    ['Upgrade: WebSocket', { Upgrade: 'WebSocket' }],
    ['Connection: keep-alive, upgrade', { Connection: 'keep-alive, upgrade' }],
    ['two subprotocols', { 'Sec-WebSocket-Protocol': 'a, b' }],
    ['an empty Sec-WebSocket-Extensions', { 'Sec-WebSocket-Extensions': '' }],
    ['Content-Length: 0', { 'Content-Length': '0' }],
  ]) test(`by WebSocket with ${name}`, () => same((port) => upgraded(port, WEBSOCKET, spelled)));
});

describe('base64 in a polling body', () => {
  // Attachments between two texts: the echo must contain what the client meant.
  const echoed = async (port, base64) => {
    const session = await joined(port);
    const answer = await session.post(`451-/relay,1["echo",{"_placeholder":true,"num":0}]\x1eb${base64}`);
    return [answer.status, await session.pollUntil((seen) => seen.length >= 2)];
  };
  const java = (bytes) => `${bytes.toString('base64').replace(/.{76}/g, '$&\n')}\n`;
  for (const [name, base64] of [
    ['one byte of Java', java(Buffer.from([7]))],
    ['57 bytes of Java, a whole line', java(Buffer.alloc(57, 7))],
    ['1,000 bytes of Java', java(Buffer.alloc(1000, 7))],
    ['lines that end with CR LF', 'AQID\r\nBAUG\r\n'],
    ['blanks and tabs', ' A Q\tI D '],
    ['no padding', 'AQ'],
    ['half a padding', 'AQ='],
    ['too much padding', 'AQID===='],
    ['the alphabet of URLs', '_-8'],
    ['both alphabets', '_-8/+8AA'],
    ['padding in between', 'AQ==AQID'],
    ['bits left over', 'AR=='],
    ['an impossible length', 'AAAAA'],
    ['a single character', 'A'],
    ['nothing', ''],
    ['nothing but padding', '===='],
    ['nothing of base64', '!!!!'],
    ['characters between', 'A!Q-I#D'],
    ['characters of two bytes', 'é'.repeat(3) + 'AQID'],
    ['characters whose lower byte is one of base64', 'AQ\u0141ID'],
    ['characters outside the plane', 'AQ\u{1f600}ID'],
    ['a BOM', '\ufeffAQID'],
  ]) test(`${name} is echoed unchanged`, () => same((port) => echoed(port, base64)));

  test('three hundred random texts are decoded as by a Buffer', async () => {
    const session = await joined(both.gateway.port);
    const alphabet = [...'ABCDwxyz0189+/-_=\n\r \t!é\u0141'];
    let seed = 1;
    const random = (below) => { seed = (seed * 48_271) % 0x7fffffff; return seed % below; };
    for (let at = 0; at < 300; at += 1) {
      const text = Array.from({ length: random(12) }, () => alphabet[random(alphabet.length)]).join('');
      assert.equal((await session.post(`451-/relay,${at}["echo",{"_placeholder":true,"num":0}]\x1eb${text}`)).status, 200);
      const seen = await session.pollUntil((packets) => packets.some((packet) => packet.startsWith('b')));
      assert.equal(seen.at(-1), `b${Buffer.from(text, 'base64').toString('base64')}`, JSON.stringify(text));
    }
  });

  test('bytes without a header end the session, whatever they are', () => same(async (port) => {
    const outcome = [];
    for (const text of ['b!!!!', 'bAAAAA', 'bAQID', 'b']) {
      const session = await joined(port);
      const { status, body } = await session.post(text);
      const last = await session.get();
      outcome.push([status, body, last.status, last.packets.at(-1), (await session.get()).status]);
    }
    return outcome;
  }));
});

describe('a WebSocket of a client that accepts no binary frames', () => {
  const attachment = (port, ws) => {
    ws.send(`40/relay,${JSON.stringify({ token: both.token })}`);
    return ws.nextText().then(async () => {
      ws.send('451-/relay,1["echo",{"_placeholder":true,"num":0}]');
      ws.send('bAQID');
      const frames = [await ws.next(), await ws.next()];
      ws.destroy();
      return frames.map(({ opcode, payload }) => [opcode, payload.toString('latin1')]);
    });
  };
  for (const query of ['&b64=1', '&b64=0', '&b64=', '']) {
    test(`opened with ${JSON.stringify(query)}`, () => same(async (port) => attachment(port, await rawEngine(port, { query }))));
  }
  for (const query of ['&b64=1', '']) {
    test(`upgraded with ${JSON.stringify(query)}`, () => same(async (port) => {
      const session = await pollingSession(port);
      const ws = await rawWebSocket(port, `/socket.io/?${WEBSOCKET}&sid=${session.sid}${query}`);
      for (const text of ['2probe', '5']) ws.send(text);
      assert.equal(await ws.nextText(), '3probe');
      return attachment(port, ws);
    }));
  }
});

describe('an upgrade', () => {
  const frame = (payload, options = {}) => encodeFrame({ payload, ...options });
  /** The result of frames on the WebSocket of a polling session: the answers, and the transport that the session continues on. */
  const outcome = async (port, frames) => {
    const session = await joined(port);
    const ws = await rawWebSocket(port, `/socket.io/?${WEBSOCKET}&sid=${session.sid}`);
    try {
      ws.sendBytes(Buffer.concat(frames));
      ws.send('42/relay,9["echo","on websocket"]');
      const seen = [];
      for (;;) {
        const next = await ws.next();
        if (next.closed) break;
        if (next.text !== '6') seen.push([next.opcode, next.payload.toString('latin1')]);
        if (next.text === '43/relay,9["on websocket"]') return { seen, get: (await session.get()).body };
      }
      // The session is still on polling.
      assert.equal((await session.post('42/relay,8["echo","on polling"]')).status, 200);
      return { seen, polled: await session.pollUntil((packets) => packets.some((packet) => packet.includes('on polling'))) };
    } finally {
      ws.destroy();
    }
  };
  for (const [name, frames] of [
    ['2probe, 5', [frame('2probe'), frame('5')]],
    ['5 alone (Elephant.io, SocketIOClient for .NET)', [frame('5')]],
    ['5 with data', [frame('5probe')]],
    ['2probe twice, 5', [frame('2probe'), frame('2probe'), frame('5')]],
    ['5 twice', [frame('5'), frame('5')]],
    ['5, 6, 0', [frame('5'), frame('6'), frame('0')]],
    ['5 in pieces', [frame('2pro', { fin: false }), frame('be', { opcode: OPCODE.continuation }), frame('5')]],
    ['WebSocket pings between', [frame('a', { opcode: OPCODE.ping }), frame('2probe'), frame('b', { opcode: OPCODE.ping }), frame('', { opcode: OPCODE.pong }), frame('5')]],
    ['a message first', [frame('42/relay,1["echo",1]')]],
    ['2probe and a message', [frame('2probe'), frame('42/relay,1["echo",1]')]],
    ['a bare 2', [frame('2')]],
    ['2probe in a binary frame', [frame('2probe', { opcode: OPCODE.binary })]],
    ['5 in a binary frame', [frame('5', { opcode: OPCODE.binary })]],
    ['2probes', [frame('2probes')]],
    ['3', [frame('3')]],
    ['3probe', [frame('3probe')]],
    ['6', [frame('6')]],
    ['1', [frame('1')]],
    ['0', [frame('0')]],
    ['40', [frame('40/relay,')]],
    ['an empty text', [frame('')]],
    ['a close frame', [frame('', { opcode: OPCODE.close })]],
    ['2probe and a close frame', [frame('2probe'), frame('', { opcode: OPCODE.close })]],
    ['b and base64', [frame('bAQID')]],
  ]) test(`by ${name}`, () => same((port) => outcome(port, frames)));

  test('delivers queued packets first, in order', () => same(async (port) => {
    const session = await joined(port);
    for (const number of [1, 2, 3]) await session.post(`42/relay,${number}["echo",${number}]`);
    const ws = await rawWebSocket(port, `/socket.io/?${WEBSOCKET}&sid=${session.sid}`);
    ws.send('5');
    ws.send('42/relay,4["echo",4]');
    const seen = [];
    while (seen.length < 4) seen.push(await ws.nextText());
    ws.destroy();
    return seen;
  }));

  test('without a probe answers the waiting GET', () => same(async (port) => {
    const session = await joined(port);
    const waits = await rawConnection(port);
    waits.write(requestText(port, 'GET', session.path));
    await parked(port);
    const ws = await rawWebSocket(port, `/socket.io/?${WEBSOCKET}&sid=${session.sid}`);
    ws.send('5');
    ws.send('42/relay,1["echo",1]');
    const { status, body } = await waits.response();
    const echo = await ws.nextText();
    ws.destroy();
    waits.destroy();
    return [status, body, echo];
  }));

  test('after a probe releases every GET with a noop', () => same(async (port) => {
    const session = await joined(port);
    const waits = session.get();
    await parked(port);
    const ws = await rawWebSocket(port, `/socket.io/?${WEBSOCKET}&sid=${session.sid}`);
    ws.send('2probe');
    assert.equal(await ws.nextText(), '3probe');
    const bodies = [(await waits).body, (await session.get()).body];
    ws.send('5');
    ws.send('42/relay,1["echo",1]');
    const echo = await ws.nextText();
    ws.destroy();
    return [bodies, echo];
  }));

  test('that overtakes the answer of a POST takes effect after its packets', () => same(async (port) => {
    const session = await joined(port);
    const posts = await rawConnection(port);
    const ws = await rawWebSocket(port, `/socket.io/?${WEBSOCKET}&sid=${session.sid}`);
    ws.send('2probe');
    assert.equal(await ws.nextText(), '3probe');
    const body = Array.from({ length: 500 }, (_, at) => `42/relay,${at}["echo",${at}]`).join('\x1e');
    posts.write(requestText(port, 'POST', session.path, { body }));
    const { status } = await posts.response();
    ws.send('5');
    const seen = [];
    while (seen.length < 500) seen.push(await ws.nextText());
    ws.destroy();
    posts.destroy();
    return [status, seen];
  }));

  test('proceeds during an incomplete POST, which is abandoned', () => same(async (port) => {
    const session = await joined(port);
    const posts = await rawConnection(port);
    posts.write(requestText(port, 'POST', session.path, { headers: { 'Content-Length': '100', Expect: '100-continue' }, body: '' }));
    await eventually(() => posts.raw().includes('100 Continue'), { what: '100 Continue' });
    posts.write('42/relay,1["echo",');
    const ws = await rawWebSocket(port, `/socket.io/?${WEBSOCKET}&sid=${session.sid}`);
    for (const text of ['2probe', '5', '42/relay,2["echo",2]']) ws.send(text);
    const seen = [await ws.nextText(), await ws.nextText()];
    // The Node.js server ends the connection without an answer.
    await within(posts.closed, 5_000, 'the end of the POST');
    ws.send('42/relay,3["echo",3]');
    seen.push(await ws.nextText());
    ws.destroy();
    return seen;
  }));

  test('that begins while a POST is handled follows it', async () => {
    const session = await joined(both.gateway.port);
    const posts = await rawConnection(both.gateway.port);
    const ws = await rawWebSocket(both.gateway.port, `/socket.io/?${WEBSOCKET}&sid=${session.sid}`);
    ws.send('2probe');
    assert.equal(await ws.nextText(), '3probe');
    // Both are in transit at once: whichever is read first, nothing is lost and the order is the client's.
    const body = Array.from({ length: 800 }, (_, at) => `42/relay,${at}["echo",${at}]`).join('\x1e');
    posts.write(requestText(both.gateway.port, 'POST', session.path, { body }));
    await eventually(async () => posts.socket.bytesWritten > body.length && posts.socket.writableLength === 0, { interval: 1, what: 'the body to be sent' });
    ws.send('5');
    ws.send('42/relay,5000["echo","after"]');
    const seen = [];
    while (seen.at(-1) !== '43/relay,5000["after"]') seen.push(await ws.nextText({ timeout: 10_000 }));
    const numbers = seen.slice(0, -1).map((text) => Number(/\[(\d+)\]/.exec(text)[1]));
    assert.deepEqual(numbers, numbers.map((_, at) => at));
    assert.ok(numbers.length === 800 || numbers.length === 0, `${numbers.length} of 800: a body counts completely or not at all`);
    ws.destroy();
    posts.destroy();
  });
});

/** Waits until the request that was just written has been read: a later one on a new connection is answered. */
async function parked(port) {
  for (let at = 0; at < 3; at += 1) await request(port, 'GET', `/socket.io/?${POLLING}&sid=unknown`);
}

describe('a polling session after a ping timeout', () => {
  const times = { pingInterval: 300, pingTimeout: 200 };
  const hasty = {};
  before(async () => {
    hasty.gateway = await startGateway({ env: { PING_INTERVAL: '300ms', PING_TIMEOUT: '200ms' } });
    hasty.reference = await startReference(times);
  });
  after(async () => {
    await hasty.gateway?.kill();
    hasty.reference?.close();
  });
  const each = async (ask) => {
    const expected = await ask(hasty.reference.port);
    assert.deepEqual(await ask(hasty.gateway.port), expected);
  };
  const unknown = [400, '{"code":1,"message":"Session ID unknown"}'];

  for (const [method, body] of [['GET'], ['POST', '3']]) {
    test(`is unknown to a ${method} as soon as its timeout has passed`, () => each(async (port) => {
      const ask = async () => {
        const session = await pollingSession(port);
        await delay(times.pingInterval + times.pingTimeout);
        const answer = await request(port, method, session.path, { body });
        return [answer.status, answer.body];
      };
      // A server that is scheduled late on a busy machine gets further attempts.
      let outcomes;
      for (let tries = 0; tries < 5; tries += 1) {
        outcomes = await Promise.all(Array.from({ length: 3 }, ask));
        if (outcomes.every(([status]) => status === 400)) break;
      }
      assert.deepEqual(outcomes, outcomes.map(() => unknown));
      return outcomes;
    }));
  }

  test('has no ping left for a client that returns later', () => each(async (port) => {
    const session = await pollingSession(port);
    await delay(2 * (times.pingInterval + times.pingTimeout));
    const { status, body } = await session.get();
    return [status, body];
  }));

  test('ends the waiting GET', () => each(async (port) => {
    const session = await pollingSession(port);
    const [ping, end, next] = [await session.get(), await session.get(), await session.get()];
    return [ping.body, end.status, end.body, next.status, next.body];
  }));
});
