// Answers to broadcasts with acks, whoever asks and whoever answers: binary values and the text beside them, answers that
// take long, servers that do not say how many they asked. A Node.js server beside ours is one of the askers and the control.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING, TRANSPORTS, ask, keeper, unique } from './support/clients.mjs';
import { startCluster } from './support/cluster.mjs';
import { load } from './support/packages.mjs';
import { eventually, once, within } from './support/wait.mjs';

const { Server } = load('socket.io');
const { createAdapter } = load('@socket.io/redis-adapter');
const msgpack = load('notepack.io');

/** What clients answer. */
const ANSWERS = {
  bytes: Buffer.from([1, 2, 255]),
  'text beside bytes': ['one', Buffer.from([3])],
  'bytes deep in an object': { text: 'ü', list: [Buffer.from([4]), null, { deep: Buffer.from('five') }] },
  'no bytes at all in bytes': Buffer.alloc(0),
  'ten values': Array.from({ length: 10 }, (_, n) => Buffer.from([n])),
  'a large one': Buffer.alloc(200_000, 7),
  text: 'plain',
  nothing: null,
};

/** Bytes as they compare, whatever a platform has them in. */
const plain = (value) => {
  if (Buffer.isBuffer(value) || value instanceof ArrayBuffer || ArrayBuffer.isView(value)) return { bytes: Buffer.from(value).toString('hex') };
  if (Array.isArray(value)) return value.map(plain);
  if (value && typeof value === 'object') return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]));
  return value;
};

// One of them has to wait for half a minute; the others do not wait for it.
describe('answers to broadcasts with acks', { concurrency: 4 }, () => {
  let cluster;
  let io;
  let node;
  before(async () => {
    cluster = await startCluster(2);
    const [pub, sub] = await Promise.all([cluster.redis.connect(), cluster.redis.connect()]);
    const http = createServer();
    io = new Server(http, { adapter: createAdapter(pub, sub) });
    io.of('/relay').on('connection', (socket) => {
      socket.on('join', ({ room }, ack) => {
        socket.join(room);
        ack({ success: true });
      });
    });
    await new Promise((resolve) => http.listen(0, '127.0.0.1', resolve));
    node = { url: `http://127.0.0.1:${http.address().port}`, token: cluster.nodes[0].token };
    node.clients = keeper(node);
    await eventually(async () => Number(Object.values(await pub.pubSubNumSub('socket.io-request#/relay#'))[0]) === 3, { what: 'all to be subscribed' });
  });
  after(async () => {
    node?.clients.closeAll();
    await new Promise((resolve) => (io ? io.close(resolve) : resolve()));
    await cluster?.stop();
  });

  const open = (at, options = {}) => {
    const { clients } = at === 'node' ? node : cluster.nodes[at];
    return clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: unique('u') }, ...options });
  };

  /** Clients on our nodes and on Node.js in one room, who answer `answer`. */
  const everywhere = async (answer, ats = [0, 1, 'node'], options = {}) => {
    const room = unique('room');
    const sockets = await Promise.all(ats.map((at) => open(at, options)));
    for (const socket of sockets) {
      assert.equal((await ask(socket, 'join', { room })).success, true);
      socket.on('ask', (question, ack) => ack(answer));
    }
    return { room, sockets };
  };

  test('an answer may take as long as the asker waits', { timeout: 60_000 }, async () => {
    const { room, sockets } = await everywhere(null);
    const asked = sockets.map((socket) => once(socket.off('ask'), 'ask'));
    const answered = io.of('/relay').to(room).timeout(40_000).emitWithAck('ask', 'q');
    answered.catch(() => {});
    const acks = (await Promise.all(asked)).map(([, ack]) => ack);
    // Longer than what clients may wait for: the pause is what the test is about.
    await new Promise((resolve) => { setTimeout(resolve, 31_000); });
    for (const [at, ack] of acks.entries()) ack({ at, b: Buffer.from([at]) });
    const answers = await within(answered, 10_000, 'the late answers');
    assert.deepEqual(answers.map(({ at }) => at).sort(), [0, 1, 2]);
  });

  test('binary answers reach a Node.js server and a client of ours as they are', async () => {
    for (const [name, answer] of Object.entries(ANSWERS)) {
      const { room, sockets } = await everywhere(answer);
      const theirs = await within(io.of('/relay').to(room).timeout(4_000).emitWithAck('ask', 'q'), 6_000, name);
      assert.deepEqual(theirs.map(plain), Array(3).fill(plain(answer)), `${name}, asked by Node.js`);
      // Ten binary values are what a client takes in one packet, so one of the many asks.
      const alone = await everywhere(answer, [1]);
      const publisher = await open(0);
      const ours = await ask(publisher, 'publish', { room: alone.room, event: 'ask', data: 'p', ack: 4_000 });
      assert.deepEqual([ours.success, ours.receivers, ours.missing], [true, 1, 0], name);
      assert.deepEqual(ours.answers.map(plain), [plain(answer)], `${name}, asked by a client`);
      for (const socket of [...sockets, ...alone.sockets, publisher]) socket.disconnect();
    }
  });

  test('a client of ours gets the binary answers of the clients of a Node.js server', async () => {
    const { room } = await everywhere(['two', Buffer.from([9])], ['node', 'node', 1]);
    const publisher = await open(0);
    const { receivers, missing, answers } = await ask(publisher, 'publish', { room, event: 'ask', data: 'p', ack: 4_000 });
    assert.deepEqual([receivers, missing], [3, 0]);
    assert.deepEqual(answers.map(plain), Array(3).fill(['two', { bytes: '09' }]));
  });

  test('answers over polling are no different', async () => {
    const { room } = await everywhere({ b: Buffer.from('poll') }, [0, 1], { transport: TRANSPORTS[1] });
    const theirs = await within(io.of('/relay').to(room).timeout(4_000).emitWithAck('ask', 'q'), 6_000, 'the answers');
    assert.deepEqual(theirs.map(plain), Array(2).fill({ b: { bytes: Buffer.from('poll').toString('hex') } }));
    const publisher = await open(0, { transport: TRANSPORTS[1] });
    const { answers } = await ask(publisher, 'publish', { room, event: 'ask', data: 'p', ack: 4_000 });
    assert.deepEqual(answers.map(plain), theirs.map(plain));
  });

  test('more binary values than a client takes in one packet are spelled out', async () => {
    const { room } = await everywhere({ b: Buffer.from([1, 127]) }, Array.from({ length: 12 }, (_, n) => n % 2));
    const publisher = await open(0);
    const { success, receivers, missing, answers } = await ask(publisher, 'publish', { room, event: 'ask', data: 'p', ack: 4_000 });
    assert.deepEqual([success, receivers, missing, answers.length], [true, 12, 0, 12]);
    const spelled = answers.filter(({ b }) => b.type === 'Buffer');
    assert.equal(spelled.length, 2);
    for (const { b } of answers) assert.deepEqual([...Buffer.from(b.type === 'Buffer' ? b.data : b)], [1, 127]);
  });

  test('an answer that only looks as if it were binary takes nobody else\'s bytes', async () => {
    const { room, sockets } = await everywhere(Buffer.from([5]), [0, 1]);
    sockets[0].off('ask').on('ask', (question, ack) => ack({ _placeholder: true, num: 0 }));
    const publisher = await open(0);
    const { success, answers } = await ask(publisher, 'publish', { room, event: 'ask', data: 'p', ack: 4_000 });
    assert.equal(success, true);
    assert.deepEqual(answers.map(plain).sort(), [null, { bytes: '05' }].sort());
  });

  test('of several arguments the first is the answer, as to Node.js', async () => {
    const { room, sockets } = await everywhere(null);
    for (const socket of sockets) socket.off('ask').on('ask', (question, ack) => ack('one', Buffer.from([1]), { b: Buffer.from([2]) }));
    const theirs = await within(io.of('/relay').to(room).timeout(4_000).emitWithAck('ask', 'q'), 6_000, 'the answers');
    assert.deepEqual(theirs, ['one', 'one', 'one']);
    for (const socket of sockets) socket.off('ask').on('ask', (question, ack) => ack({ b: Buffer.from([2]) }, Buffer.from([1])));
    const bytes = await within(io.of('/relay').to(room).timeout(4_000).emitWithAck('ask', 'q'), 6_000, 'the answers');
    assert.deepEqual(bytes.map(plain), Array(3).fill({ b: { bytes: '02' } }));
  });

  test('a backend gets answers that are larger together than what a client may have', async () => {
    const { room } = await everywhere(Buffer.alloc(300_000, 1), [0, 0, 1]);
    const theirs = await within(io.of('/relay').to(room).timeout(4_000).emitWithAck('ask', 'q'), 6_000, 'the answers');
    assert.deepEqual(theirs.map((bytes) => bytes?.length), [300_000, 300_000, 300_000]);
  });
});

describe('answers of a server that does not say how many clients it asked', () => {
  let cluster;
  before(async () => { cluster = await startCluster(2); });
  after(() => cluster?.stop());

  test('are counted, and who may be missing is not said to be nobody', async () => {
    const room = unique('room');
    const [publisher, member] = await Promise.all([0, 1].map((at) => cluster.nodes[at].clients.connect({ namespace: '/relay', claims: EVERYTHING })));
    await ask(member, 'join', { room });
    member.on('ask', (question, ack) => ack('known'));
    // Such a server: it hears requests, and says what its clients answer.
    const [silent, out] = await Promise.all([cluster.redis.connect(), cluster.redis.connect()]);
    await silent.subscribe('socket.io-request#/relay#', (message) => {
      if (message[0] === 0x7b) return;
      const { requestId, type } = msgpack.decode(message);
      if (type !== 7) return;
      for (const packet of ['a', 'b']) out.publish('socket.io-response#/relay#', msgpack.encode({ type: 9, requestId, packet }));
    }, true);
    try {
      const { receivers, missing, answers } = await ask(publisher, 'publish', { room, event: 'ask', data: 'p', ack: 1_000 });
      assert.deepEqual(answers.sort(), ['a', 'b', 'known']);
      assert.deepEqual([receivers, missing], [3, null]);
    } finally {
      await silent.unsubscribe();
    }
  });
});
