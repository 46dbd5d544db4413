// What the gateway says of itself: two documents that are valid, whole and true, and a page that shows them.
//
// True means: real clients drive every app, and each answer and event is held against the document
// (`support/described.mjs`). Whole means: at the end every endpoint and every event that is described has been seen. (What is not
// described is not served: endpoints are mounted, and events taken, by their descriptions.) Screenshots of the page go to the directory `SCREENSHOTS`.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once as onceEvent } from 'node:events';
import { mkdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';

import { launchBrowser } from './support/browser.mjs';
import { EVERYTHING, keeper, refused, unique } from './support/clients.mjs';
import { startCluster } from './support/cluster.mjs';
import { checker, documentsOf, endpoints, events, servedBy, witness } from './support/described.mjs';
import { driveCare } from './support/described_care.mjs';
import { driveEmergencies } from './support/described_emergencies.mjs';
import { pythonWithLibraries } from './support/foreign.mjs';
import { runGateway, startGateway } from './support/gateway.mjs';
import { load, loadModule } from './support/packages.mjs';
import { startPushReceiver } from './support/push.mjs';
import { request as rawRequest } from './support/raw.mjs';
import { eventually, once } from './support/wait.mjs';

const { Ajv } = load('ajv');
const { Ajv2020 } = load('ajv/dist/2020.js');
const addFormats = load('ajv-formats').default;
const asyncapiSpecs = load('@asyncapi/specs');
const { Validator } = await loadModule('@seriousme/openapi-schema-validator');

const INTERNAL_TOKEN = 'internal-token-of-this-test';
const PUSH_SECRET = 'push-secret-of-this-test';
const RING_MS = 6_000;
const SCREENSHOTS = process.env.SCREENSHOTS ?? tmpdir();
const DESKTOP = { viewport: { width: 1280, height: 900 } };
const PHONE = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };

/** Seen only where Redis was away: the test that takes it away sees them. */
const OF_OUTAGES = ['gateway to muster:resync'];

let gateway;
let clients;
let seen;
let pushes;

const webhookBody = (name) => `#/webhooks/${name}/post/requestBody/content/application~1json/schema`;

/** A schema without its titles and descriptions. */
function withoutTexts(value) {
  if (Array.isArray(value)) return value.map(withoutTexts);
  if (value === null || typeof value !== 'object') return value;
  const isText = ([key, part]) => ['description', 'title'].includes(key) && typeof part === 'string';
  return Object.fromEntries(Object.entries(value).filter((entry) => !isText(entry)).map(([key, part]) => [key, withoutTexts(part)]));
}

before(async () => {
  pushes = await startPushReceiver();
  // Without `MOUNTS` every app is mounted.
  gateway = await startGateway({ env: { MOUNTS: null, INTERNAL_TOKEN, PUSH_WEBHOOK_URL: pushes.url, PUSH_WEBHOOK_SECRET: PUSH_SECRET, LEAVE_HOLDBACK: '100ms', CALL_RING: `${RING_MS}ms`, PRESENCE_GRACE: '500ms' } });
  clients = keeper(gateway);
  gateway.clients = clients;
  seen = await witness(gateway, { internalToken: INTERNAL_TOKEN });
});

after(async () => {
  clients?.closeAll();
  await gateway?.stop();
  await pushes?.stop();
});

describe('the documents are valid', () => {
  test('OpenAPI 3.1', async () => {
    const result = await new Validator().validate(structuredClone(seen.openapi));
    assert.ok(result.valid, JSON.stringify(result.errors, null, 1));
    const ajv = new Ajv2020({ strict: false, logger: false });
    for (const [name, schema] of Object.entries(seen.openapi.components.schemas)) assert.ok(ajv.validateSchema(schema), `${name}: ${ajv.errorsText()}`);
  });

  test('AsyncAPI 3.0', () => {
    // The specification brings its own copy of the meta-schema.
    const ajv = new Ajv({ strict: false, logger: false, meta: false, validateSchema: false });
    addFormats(ajv);
    const validate = ajv.compile(asyncapiSpecs.schemas['3.0.0']);
    assert.ok(validate(seen.asyncapi), ajv.errorsText(validate.errors));
  });

  test('an operation has one id, and tells who may call it, where, and what it answers', () => {
    const ids = endpoints(seen.openapi).map(([, , operation]) => operation.operationId);
    assert.equal(new Set(ids).size, ids.length);
    for (const [method, path, operation] of endpoints(seen.openapi)) {
      const what = `${method} ${path}`;
      const isInternal = path.startsWith('/internal/');
      assert.equal(servedBy(operation).join(), isInternal || path === '/metrics' ? 'internal' : ['/live', '/ready', '/health'].includes(path) ? 'public,internal' : 'public', what);
      assert.equal(operation.security.some((one) => one.internalRequest), isInternal, what);
      assert.ok(Object.keys(operation.responses).some((status) => status.startsWith('2')), what);
      for (const [status, response] of Object.entries(operation.responses)) assert.ok(response.description, `${what} ${status}`);
      if (operation.security.length > 0) assert.ok(operation.responses[isInternal ? 403 : 401], what);
    }
  });

  test('every body, answer, payload and ack has an example that fits its schema', () => {
    const [checkHttp, checkEvent] = [checker(Ajv2020, seen.openapi), checker(Ajv, seen.asyncapi)];
    const inPath = (part) => encodeURIComponent(part.replaceAll('~', '~0').replaceAll('/', '~1'));
    let examples = 0;
    for (const [method, path, operation] of endpoints(seen.openapi)) {
      const at = `#/paths/${inPath(path)}/${method.toLowerCase()}`;
      const parts = [['requestBody', operation.requestBody], ...Object.entries(operation.responses).map(([status, response]) => [`responses/${status}`, response])];
      for (const [place, part] of parts) {
        const content = part?.content?.['application/json'];
        if (content === undefined) continue;
        checkHttp(`${at}/${place}/content/${inPath('application/json')}/schema`, content.example, `the example of ${method} ${path}, ${place}`);
        examples += 1;
      }
    }
    for (const [app, channel] of Object.entries(seen.asyncapi.channels)) {
      for (const [id, message] of Object.entries(channel.messages)) {
        if (message.payload === undefined) continue;
        checkEvent(`#/channels/${app}/messages/${inPath(id)}/payload`, message.examples[0].payload, `the example of ${app}, ${id}`);
        examples += 1;
      }
    }
    assert.ok(examples > 250, `${examples} examples`);
  });

  test('an id of an operation is a name for a method', () => {
    const verbs = 'add|cancel|check|count|emit|end|get|join|leave|list|logIn|raise|remove|replace|report|resolve|respondTo|send|update';
    for (const [method, path, { operationId }] of endpoints(seen.openapi)) assert.match(operationId, new RegExp(`^(?:${verbs})[A-Z][A-Za-z]*$`), `${method} ${path}`);
    const webhooks = Object.values(seen.openapi.webhooks).map(({ post }) => post.operationId);
    for (const id of [...webhooks, ...Object.keys(seen.asyncapi.operations)]) assert.match(id, /^(?:receive|send)[A-Z][A-Za-z]*$/);
    // Two events with the same id would leave one operation fewer.
    const messages = Object.values(seen.asyncapi.channels).flatMap((channel) => Object.keys(channel.messages));
    assert.equal(Object.keys(seen.asyncapi.operations).length, messages.filter((id) => /^(?:receive|send)[.]/.test(id)).length);
  });

  test('a type has the same public name in both documents', () => {
    const properties = new Map();
    for (const { components: { schemas } } of [seen.openapi, seen.asyncapi]) {
      const alike = new Map();
      for (const [name, schema] of Object.entries(schemas)) {
        // schemars adds a digit to the name of a second type of the same name.
        assert.match(name, /^(?:[A-Z][a-z]+)+$/);
        assert.doesNotMatch(name, /Told|Heard|Asked|Shown|Stepped|Listed|Moved|Gone|Body$/, name);
        const own = JSON.stringify([schema.type, Object.keys(schema.properties ?? {}).sort(), schema.enum]);
        assert.equal(properties.get(name) ?? own, own, `${name} differs between the documents`);
        properties.set(name, own);
        const shape = JSON.stringify(withoutTexts(schema));
        alike.set(shape, [...(alike.get(shape) ?? []), name]);
      }
      const same = [...alike.values()].filter((names) => names.length > 1).map((names) => names.sort().join(' = '));
      assert.deepEqual(same, [], 'one type under several names');
    }
  });

  test('an example of a webhook fits its schema', () => {
    const check = checker(Ajv2020, seen.openapi);
    assert.deepEqual(Object.keys(seen.openapi.webhooks), ['emergencyCreated', 'emergencyEnded']);
    for (const [name, { post }] of Object.entries(seen.openapi.webhooks)) check(webhookBody(name), post.requestBody.content['application/json'].example, `the example of ${name}`);
  });

  test('they are asked for again with their tag, and answered without a body', async () => {
    for (const name of ['openapi', 'asyncapi']) {
      const first = await fetch(`${gateway.url}/api/${name}.json`);
      const again = await fetch(`${gateway.url}/api/${name}.json`, { headers: { 'If-None-Match': first.headers.get('etag') } });
      assert.deepEqual([again.status, await again.text()], [304, '']);
      assert.equal(first.headers.get('x-content-type-options'), 'nosniff');
    }
  });
});

describe('the documents are whole', () => {
  test('every described path is served where it is said to be, by those methods', async () => {
    const byPath = new Map();
    for (const [method, path, operation] of endpoints(seen.openapi)) byPath.set(path, { methods: [...(byPath.get(path)?.methods ?? []), method], listeners: servedBy(operation) });
    for (const [path, { methods, listeners }] of byPath) {
      const target = path.replace('/socket.io/{file}', '/socket.io/socket.io.js').replaceAll(/\{\w+\}/g, 'x');
      for (const [port, serves] of [[gateway.port, listeners.includes('public')], [gateway.internalPort, listeners.includes('internal')]]) {
        const answer = await rawRequest(port, 'PROPFIND', target);
        assert.equal(answer.status, serves ? 405 : 404, `${target} on ${port}`);
        if (!serves) continue;
        assert.deepEqual(answer.headers.allow.split(',').filter((method) => !['HEAD', 'OPTIONS'].includes(method)).sort(), [...methods].sort(), target);
      }
    }
  });

  test('only what is mounted is described', async () => {
    const other = await startGateway({ args: ['--mount', 'chat=/talk'] });
    try {
      const { openapi, asyncapi } = await documentsOf(other);
      assert.deepEqual(openapi.tags.map(({ name }) => name), ['gateway']);
      assert.deepEqual(Object.keys(openapi.paths).filter((path) => /sos|participants|emergencies|notifications|members/.test(path)), []);
      assert.deepEqual(Object.keys(asyncapi.channels).sort(), ['chat', 'gateway']);
      assert.equal(asyncapi.channels.chat.address, '/talk');
      assert.deepEqual(events(asyncapi).find(({ app }) => app === 'gateway').namespaces, ['/talk']);
    } finally {
      await other.stop();
    }
  });
});

describe('the documents are true', () => {
  afterEach(() => clients.closeAll());

  test('the node: its condition, its pages, its documents', async () => {
    for (const path of ['/live', '/ready', '/health']) {
      await seen.request('GET', path);
      await seen.request('GET', path, { internal: true });
    }
    await seen.request('GET', '/metrics');
    for (const path of ['/api/openapi.json', '/api/asyncapi.json', '/api/types.d.ts']) await seen.request('GET', path);
    await seen.request('GET', '/socket.io/{file}', { params: { file: 'socket.io.js' } });
    // Pages for people, and their files, are in no document.
    for (const path of ['/', '/favicon.ico', '/api/docs', '/api/docs/docs.js', '/console/console.js', '/docs', '/docs/start/install', '/docs/book.js']) {
      assert.equal((await fetch(`${gateway.url}${path}`)).status, 200, path);
      assert.equal(seen.openapi.paths[path], undefined, path);
    }
    for (const path of ['/console/none', '/api/docs/none', '/docs/none']) assert.equal((await fetch(`${gateway.url}${path}`)).status, 404, path);
  });

  test('logging in', async () => {
    const [email, password] = ['ann@example.com', 'a long password'];
    const added = await runGateway(['user', 'add', '--email', email, '--name', 'Ann'], { env: { DATABASE_URL: gateway.databaseUrl }, input: `${password}\n` });
    assert.equal(added.code, 0, added.stderr);
    const login = (body, headers) => seen.request('POST', '/api/v1/auth/login', { body, headers });
    assert.equal((await login({ email, password })).status, 200);
    assert.equal((await login({ email: 'a@b', password: '' })).status, 400);
    assert.equal((await login('{')).status, 400);
    assert.equal((await login({ email })).status, 400);
    assert.equal((await login('x=1', { 'Content-Type': 'text/plain' })).status, 415);
    assert.equal((await login({ email, password: 'x'.repeat(70_000) })).status, 413);
    for (let n = 0; n < 5; n += 1) assert.equal((await login({ email: 'eve@example.com', password: 'x' })).status, 401);
    assert.equal((await login({ email: 'eve@example.com', password: 'x' })).status, 429);
  });

  test('every namespace: refusals, and a newer token', async () => {
    await refused(seen.watch(clients.socket({ auth: {} })));
    await refused(seen.watch(clients.socket({ token: 'no token' })));
    assert.deepEqual(seen.seeConnectError(await refused(clients.socket({ namespace: '/nowhere' }))), { message: 'Invalid namespace' });
    const socket = seen.watch(await clients.connect({ claims: { sub: 'ann' } }));
    await seen.send(socket, 'auth:refresh', { token: gateway.token({ sub: 'ann' }) });
    await seen.send(socket, 'auth:refresh', { token: gateway.token({ sub: 'bob' }) }, { refused: true });
    await seen.send(socket, 'auth:refresh', {}, { refused: true });
    const error = once(socket, 'error');
    socket.emit('send_message', { roomId: 'r', content: '' });
    await error;
    seen.assertClean();
  });

  test('chat', async () => {
    const room = unique('room');
    const [ann, bob] = await Promise.all(['ann', 'bob'].map((sub) => clients.connect({ claims: { sub, email: `${sub}@example.com` } })));
    for (const socket of [ann, bob]) seen.watch(socket);
    await seen.send(ann, 'send_message', { roomId: room, content: 'hello' }, { refused: true });
    await seen.send(ann, 'join_room', room);
    const joined = once(ann, 'user_joined');
    await seen.send(bob, 'join_room', room);
    await joined;
    const message = once(bob, 'new_message');
    await seen.send(ann, 'send_message', { roomId: room, content: 'hello' });
    const [{ id }] = await message;
    const typing = once(bob, 'user_typing');
    await seen.send(ann, 'typing_start', room);
    await typing;
    const stopped = once(bob, 'user_stopped_typing');
    await seen.send(ann, 'typing_stop', room);
    await stopped;
    assert.equal((await seen.send(ann, 'room_history', { roomId: room, limit: 10 })).messages.length, 1);
    await seen.send(ann, 'room_history', { roomId: room, before: id });
    await seen.send(ann, 'room_history', { roomId: room, before: 'none' }, { refused: true });
    for (const content of ['', 'x'.repeat(1_001), 'a\0b']) await seen.send(ann, 'send_message', { roomId: room, content }, { refused: true });
    for (const name of ['join_room', 'leave_room', 'typing_start', 'typing_stop', 'send_message', 'room_history']) await seen.send(ann, name, { a: 1 }, { refused: true });
    const left = once(ann, 'user_left');
    await seen.send(bob, 'leave_room', room);
    await left;
    seen.assertClean();
  });

  test('relay', async () => {
    const room = unique('room');
    const [ann, bob] = await Promise.all(['ann', 'bob'].map((sub) => clients.connect({ namespace: '/relay', claims: { sub, ...EVERYTHING } })));
    for (const socket of [ann, bob]) {
      seen.watch(socket, { passing: ['reading', 'asked'] });
      await seen.send(socket, 'join', { room });
    }
    const heard = once(bob, 'reading');
    await seen.send(ann, 'publish', { room, event: 'reading', data: { celsius: -11.5 }, self: false });
    await heard;
    bob.on('asked', (data, answer) => answer(data));
    const answered = await seen.send(ann, 'publish', { room, event: 'asked', data: { n: 1 }, self: false, ack: 5_000 });
    assert.deepEqual(answered, { success: true, receivers: 1, missing: 0, answers: [{ n: 1 }] });
    assert.equal((await seen.send(ann, 'members', { room })).count, 2);
    for (const data of [null, 7, ['a'], { b: {} }]) assert.deepEqual(await seen.send(ann, 'echo', data), data);
    await seen.send(ann, 'publish', { room, event: 'disconnect' }, { refused: true });
    await seen.send(ann, 'publish', { room, event: 'x', ack: 0 }, { refused: true });
    await seen.send(ann, 'publish', 7, { refused: true });
    for (const name of ['join', 'leave', 'members']) await seen.send(ann, name, { room: 'a\nb' }, { refused: true });
    const stranger = seen.watch(await clients.connect({ namespace: '/relay', claims: { sub: 'eve' } }));
    for (const name of ['join', 'leave', 'members', 'publish', 'echo']) await seen.send(stranger, name, { room }, { refused: true });
    await seen.send(ann, 'leave', { room });
    seen.assertClean();
  });

  test('sos, by its REST API', async () => {
    const claims = { sub: unique('ann'), name: 'Ann', actor: { type: 'USER' } };
    const raised = await seen.request('POST', '/api/sos', { claims, body: { latitude: 48.9, longitude: 2.4, description: 'help' } });
    assert.equal(raised.status, 201);
    const params = { sosId: raised.body.data.id, userId: claims.sub };
    const around = '/api/sos/nearby';
    assert.ok((await seen.request('GET', around, { claims, query: { latitude: 48.9, longitude: 2.4 } })).body.count > 0);
    for (const query of [{}, { latitude: 91, longitude: 0 }, { latitude: 0, longitude: 0, radius: -1 }, { latitude: 0, longitude: 0, limit: 'x' }, { latitude: 0, longitude: 0, cursor: 'x' }]) assert.equal((await seen.request('GET', around, { claims, query })).status, 400);
    for (const body of [{ latitude: 1 }, { description: 'x'.repeat(2_001) }, { description: 'a\0' }]) assert.equal((await seen.request('POST', '/api/sos', { claims, body })).status, 400);
    assert.equal((await seen.request('POST', '/api/sos')).status, 401);

    const path = '/api/sos/{sosId}/participants';
    assert.equal((await seen.request('POST', `${path}/join`, { claims, params })).status, 200);
    const helper = { sub: unique('bob'), name: 'Bob', role: 'rescuer' };
    const socket = seen.watch(await clients.connect({ claims: helper }));
    const [joined, moved, left] = ['participant:joined', 'participant:location', 'participant:left'].map((name) => once(socket, name));
    for (const unused of [moved, left]) unused.catch(() => {});
    assert.equal((await seen.request('POST', `${path}/join`, { claims: helper, params, body: { userType: 'rescuer' } })).status, 201);
    await joined;
    assert.equal((await seen.request('POST', `${path}/join`, { claims: helper, params, body: { userType: 'king' } })).status, 400);

    const other = seen.watch(await clients.connect({ claims }));
    const where = { sosId: params.sosId, latitude: 48.9, longitude: 2.4 };
    // A socket enters its rooms after its client knows that it is connected.
    await eventually(async () => (await seen.request('GET', '/internal/participants/{sosId}/count', { params })).body.data.count === 2);
    await seen.send(other, 'sos:location', where);
    await moved;
    await seen.send(other, 'sos:location', { ...where, latitude: 91 }, { refused: true });
    await seen.send(other, 'sos:location', { ...where, sosId: 'elsewhere' }, { refused: true });
    await seen.send(other, 'sos:location', 7, { refused: true });

    for (const list of ['active', 'history']) assert.equal((await seen.request('GET', `${path}/${list}`, { claims, params })).body.count, 2);
    const eve = { sub: 'eve' };
    for (const list of ['active', 'history', '{userId}/check', 'user/{userId}/history']) assert.equal((await seen.request('GET', `${path}/${list}`, { claims: eve, params })).status, 403);
    assert.equal((await seen.request('GET', `${path}/history`, { claims, params, query: { limit: 'x' } })).status, 400);
    assert.equal((await seen.request('GET', `${path}/history`, { claims, params, query: { before: 'none' } })).status, 400);
    assert.equal((await seen.request('GET', `${path}/{userId}/check`, { claims, params })).body.data.isActive, true);
    assert.equal((await seen.request('GET', `${path}/active`, { claims, params: { sosId: 'a\nb' } })).status, 400);
    const leave = `${path}/{userId}/leave`;
    assert.equal((await seen.request('PATCH', leave, { claims: eve, params })).status, 403);
    assert.equal((await seen.request('PATCH', leave, { claims, params })).status, 200);
    await left;
    assert.equal((await seen.request('PATCH', leave, { claims, params })).status, 404);
    const page = await seen.request('GET', `${path}/user/{userId}/history`, { claims, params, query: { limit: 1 } });
    assert.equal(page.body.data[0].status, 'INACTIVE');

    const [alarm, end] = ['/api/sos/{sosId}/false-alarm', '/api/sos/{sosId}/end'];
    assert.equal((await seen.request('POST', alarm, { claims: eve, params })).status, 403);
    assert.equal((await seen.request('POST', alarm, { claims: helper, params: { sosId: unique('none') } })).status, 404);
    assert.equal((await seen.request('POST', alarm, { claims: helper, params: { sosId: 'a\nb' } })).status, 400);
    const ended = once(socket, 'sos:ended', { timeout: 15_000 });
    assert.equal((await seen.request('POST', alarm, { claims: helper, params })).body.data.endReason, 'false_alarm');
    await ended;
    assert.equal((await seen.request('POST', alarm, { claims: helper, params })).status, 409);
    assert.equal((await seen.request('POST', `${path}/join`, { claims, params })).status, 409);
    const second = { sosId: (await seen.request('POST', '/api/sos', { claims })).body.data.id };
    assert.equal((await seen.request('POST', end, { claims: eve, params: second })).status, 403);
    assert.equal((await seen.request('POST', end, { claims, params: { sosId: unique('none') } })).status, 404);
    assert.equal((await seen.request('POST', end, { claims, params: { sosId: 'a\nb' } })).status, 400);
    assert.equal((await seen.request('POST', end, { claims, params: second })).body.data.status, 'ENDED');
    assert.equal((await seen.request('POST', end, { claims, params: second })).status, 409);
    seen.assertClean();
  });

  test('sos, by the internal API', async () => {
    const [sosId, userId] = [unique('incident'), unique('ann')];
    const told = (news, body, more) => seen.request('POST', `/internal/participants/${news}`, { body, ...more });
    assert.equal((await told('joined', { sosId, userId, userType: 'citizen', displayName: 'Ann', joinedAt: new Date().toISOString() })).status, 200);
    seen.watch(await clients.connect({ claims: { sub: userId } }));
    const active = await eventually(async () => {
      const answer = await seen.request('GET', '/internal/participants/{sosId}/active', { params: { sosId } });
      return answer.body.data.count === 1 && answer;
    });
    assert.equal(active.body.data.participants[0].userType, 'citizen');
    for (const wrong of [{ sosId: '' }, { userId: 'a\nb' }, { userType: 'king' }, { displayName: 'x'.repeat(257) }, { joinedAt: 'soon' }]) assert.equal((await told('joined', { sosId, userId, userType: 'citizen', ...wrong })).status, 400);
    assert.equal((await told('left', { sosId, userId, leftAt: 'soon' })).status, 400);
    assert.equal((await told('left', { sosId, userId })).status, 200);
    assert.equal((await told('left', { sosId, userId })).status, 404);
    assert.equal((await told('left', { sosId, userId }, { stranger: true })).status, 403);
    seen.assertClean();
  });

  test('emergencies', { timeout: 60_000 }, () => driveEmergencies(seen, gateway));

  test('care', { timeout: 120_000 }, () => driveCare(seen, gateway, { ringMs: RING_MS }));

  test('rooms and events of any app, by the internal API', async () => {
    const room = unique('room');
    const socket = seen.watch(await clients.connect({ namespace: '/relay', claims: { sub: 'ann', ...EVERYTHING } }), { passing: ['news'] });
    await seen.send(socket, 'join', { room });
    for (const what of ['active', 'count']) {
      const path = `/internal/rooms/{room}/${what}`;
      assert.equal((await seen.request('GET', path, { params: { room }, query: { namespace: '/relay' } })).body.data.count, 1);
      assert.equal((await seen.request('GET', path, { params: { room: 'a\nb' } })).status, 400);
      assert.equal((await seen.request('GET', path, { params: { room }, stranger: true })).status, 403);
    }
    const emit = (body, headers) => seen.request('POST', '/internal/emit', { body, headers });
    const news = { namespace: '/relay', event: 'news', data: 1 };
    for (const to of [{ user: 'ann' }, { room }, 'all', 'servers']) assert.equal((await emit({ ...news, to })).status, 200);
    const key = { 'Idempotency-Key': unique('key') };
    assert.equal((await emit({ ...news, to: 'all' }, key)).body.repeated, false);
    assert.deepEqual((await emit({ ...news, to: 'all' }, key)).body, { success: true, nodes: 0, sockets: null, place: null, repeated: true });
    assert.equal((await emit({ ...news, to: { room } }, key)).status, 422);
    for (const wrong of [{ to: 'nobody' }, { to: { user: '' } }, { to: { room: '' } }, { to: 'all', event: 'disconnect' }, { to: 'all', namespace: 'x' }, {}]) assert.equal((await emit({ ...news, ...wrong })).status, 400, JSON.stringify(wrong));
    assert.equal((await emit({ ...news, to: 'all' }, { 'Idempotency-Key': 'a b' })).status, 400);
    seen.assertClean();
  });

  test('the push webhook', async () => {
    const check = checker(Ajv2020, seen.openapi);
    for (const [name, { post }] of Object.entries(seen.openapi.webhooks)) {
      const { event } = post.requestBody.content['application/json'].example;
      const about = () => pushes.deliveries.filter(({ body }) => body.event === event);
      await eventually(() => about().length > 0, { what: `a request about ${event}` });
      for (const { headers, body } of about()) {
        check(webhookBody(name), body, name);
        for (const parameter of post.parameters) assert.ok(headers[parameter.name.toLowerCase()], parameter.name);
      }
    }
  });

  test('everything that is described has been seen', () => {
    assert.deepEqual(seen.unseen().filter((what) => !OF_OUTAGES.includes(what)), []);
  });
});

test('what only a cluster and an outage bring is as described, too', { timeout: 120_000 }, async () => {
  const cluster = await startCluster(1);
  try {
    const [node] = cluster.nodes;
    const there = await witness(node);
    const room = unique('room');
    const socket = there.watch(await node.clients.connect({ claims: { sub: 'ann' } }), { passing: ['news'] });
    await there.send(socket, 'join_room', room);
    const emitted = await there.request('POST', '/internal/emit', { body: { to: { room: `room:${room}` }, event: 'news' } });
    assert.match(emitted.body.place, /:\d+$/);
    const count = () => there.request('GET', '/internal/rooms/{room}/count', { params: { room: `room:${room}` } });
    assert.equal((await count()).body.data.stale, undefined);
    const resync = once(socket, 'muster:resync', { timeout: 60_000 });
    await cluster.redis.kill();
    await eventually(async () => (await there.request('GET', '/ready')).status === 503, { timeout: 15_000, what: 'the node to miss Redis' });
    assert.equal((await count()).body.data.stale, true);
    assert.equal((await there.send(socket, 'send_message', { roomId: room, content: 'meanwhile' })).realtime, false);
    await there.send(socket, 'typing_start', room, { refused: true });
    assert.equal((await there.send(socket, 'message:send', { recipientId: 'bob', message: 'meanwhile' })).realtime, false);
    assert.equal((await there.send(socket, 'call:initiate', { recipientId: 'bob' })).realtime, false);
    assert.equal((await there.send(socket, 'room:join', { roomId: 'topic:all' })).stale, true);
    const raised = await there.request('POST', '/api/v1/emergencies', { claims: { sub: 'ann' }, body: { type: 'other', location: { latitude: 0, longitude: 0 } } });
    assert.deepEqual([raised.status, raised.body.data.realtime, raised.body.data.nearbyHelperCount], [201, false, null]);
    assert.equal((await there.request('GET', '/health')).body.checks.redis, 'failed');
    await cluster.redis.restart();
    await resync;
    there.assertClean();
    assert.deepEqual(OF_OUTAGES.filter((what) => there.unseen().includes(what)), []);
  } finally {
    await cluster.stop();
  }
});

describe('the examples in Python', () => {
  let python;
  before(async () => { python = await pythonWithLibraries(); }, { timeout: 600_000 });

  const sourceOf = (operation) => operation['x-codeSamples'].find(({ lang }) => lang === 'Python').source;

  /** Starts Python on `source`, with the addresses and tokens of the gateway under test, and `input` to read. */
  function start(source, { claims = { sub: 'ann' }, input = '' } = {}) {
    const here = source.replaceAll('http://127.0.0.1:8080', gateway.url).replaceAll('http://127.0.0.1:9090', gateway.internalUrl);
    const env = { ...process.env, TOKEN: gateway.token(claims), INTERNAL_TOKEN, PYTHONUNBUFFERED: '1' };
    const child = spawn(python, ['-c', here], { env });
    const run = { child, stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr']) child[name].setEncoding('utf8').on('data', (text) => { run[name] += text; });
    child.stdin.end(input);
    run.ended = onceEvent(child, 'close').then(([code]) => code);
    return run;
  }

  async function output(source, options) {
    const run = start(source, options);
    assert.equal(await run.ended, 0, `${source}\n${run.stderr}`);
    return run.stdout;
  }

  test('all compile', async () => {
    const operations = [...endpoints(seen.openapi).map(([, , operation]) => operation), ...Object.values(seen.openapi.webhooks).map(({ post }) => post), ...Object.values(seen.asyncapi.operations)];
    const compiled = await output('import json, sys\nfor source in json.load(sys.stdin):\n    compile(source, source, "exec")\nprint("compiled")', { input: JSON.stringify(operations.map(sourceOf)) });
    assert.equal(compiled, 'compiled\n');
  });

  test('send requests', async () => {
    const byId = new Map(endpoints(seen.openapi).map(([, , operation]) => [operation.operationId, operation]));
    const answers = {};
    for (const id of ['getHealth', 'getMetrics', 'raiseIncident', 'listNearbyIncidents', 'raiseEmergency', 'emitEvent', 'replaceRoomGrants']) answers[id] = await output(sourceOf(byId.get(id)));
    assert.match(answers.getMetrics, /^# HELP /m);
    assert.match(answers.raiseIncident, /'success': True/);
    assert.match(answers.listNearbyIncidents, /'success': True/);
    assert.match(answers.emitEvent, /'repeated': False/);
  });

  test('send and receive events', async () => {
    const of = (id) => sourceOf(seen.asyncapi.operations[id]);
    assert.match(await output(of('receiveRelayJoin'), { claims: { sub: 'ann', ...EVERYTHING } }), /'success': True/);
    assert.match(await output(of('receiveChatJoinRoom')), /'success': True/);
    const run = start(of('sendChatNewMessage'), { claims: { sub: unique('listener') } });
    try {
      await eventually(async () => {
        const headers = { 'Content-Type': 'application/json', 'X-Internal-Request': 'true', Authorization: `Bearer ${INTERNAL_TOKEN}` };
        await fetch(`${gateway.internalUrl}/internal/emit`, { method: 'POST', headers, body: JSON.stringify({ to: 'all', event: 'new_message', data: { content: 'to Python' } }) });
        return run.stdout.includes("{'content': 'to Python'}");
      }, { timeout: 20_000, what: 'Python to print the event' });
    } finally {
      run.child.kill();
      await run.ended;
    }
  });

  test('verify the signature of a request', async () => {
    const [{ headers, raw }] = pushes.deliveries;
    const check = `${sourceOf(seen.openapi.webhooks.emergencyCreated.post)}
import json, sys
secret, headers, body = json.load(sys.stdin)
print(is_genuine(secret, headers, body.encode()), is_genuine(secret, headers, body.encode() + b" "), is_genuine("another", headers, body.encode()))
`;
    const named = Object.fromEntries(['X-Muster-Timestamp', 'X-Muster-Signature'].map((name) => [name, headers[name.toLowerCase()]]));
    assert.equal(await output(check, { input: JSON.stringify([PUSH_SECRET, named, raw]) }), 'True False False\n');
  });
});

describe('the page', () => {
  let browser;
  before(async () => {
    mkdirSync(SCREENSHOTS, { recursive: true });
    browser = await launchBrowser();
  });
  after(() => browser?.close());

  /** Opens the page in a fresh context, runs `work`, and fails on a console error or a foreign host. */
  async function visit(work, { screen = DESKTOP, colorScheme = 'light', hash = '' } = {}) {
    const context = await browser.newContext({ ...screen, colorScheme, locale: 'en-GB' });
    const page = await context.newPage();
    page.setDefaultTimeout(30_000);
    const [problems, asked] = [[], []];
    page.on('console', (message) => { if (message.type() === 'error') problems.push(message.text()); });
    page.on('pageerror', (error) => problems.push(String(error)));
    page.on('request', (request) => asked.push(request.url()));
    try {
      await page.goto(`${gateway.url}/api/docs${hash}`);
      await page.waitForFunction(() => document.body.dataset.version !== undefined);
      await work(page, asked);
      assert.deepEqual(problems, []);
      assert.deepEqual(asked.filter((address) => new URL(address).host !== new URL(gateway.url).host), []);
    } finally {
      await context.close();
    }
  }

  const entries = (page) => page.locator('.app .entry:visible');
  const total = () => endpoints(seen.openapi).length + events(seen.asyncapi).length + Object.keys(seen.openapi.webhooks).length;
  const photograph = (page, name) => page.screenshot({ path: join(SCREENSHOTS, `api-docs-${name}.png`) });

  test('shows every endpoint and event, by app, under the strict policy', async () => {
    await visit(async (page, asked) => {
      assert.equal(await entries(page).count(), total());
      const paths = asked.map((address) => new URL(address).pathname);
      for (const path of ['/api/docs/docs.js', '/api/docs/docs.css', '/api/openapi.json', '/api/asyncapi.json']) assert.ok(paths.includes(path), `${paths}`);
      await page.click('#apps [data-app=chat]');
      assert.equal(await entries(page).count(), events(seen.asyncapi).filter(({ app }) => app === 'chat').length);
      await photograph(page, 'desktop');
    });
    const answer = await fetch(`${gateway.url}/api/docs`);
    const console_ = await fetch(gateway.url);
    assert.equal(answer.headers.get('content-security-policy'), console_.headers.get('content-security-policy'));
    assert.match(answer.headers.get('content-security-policy'), /script-src 'self'/);
    assert.equal(answer.headers.get('referrer-policy'), 'no-referrer');
    assert.doesNotMatch(await answer.text(), /<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)/i);
  });

  test('finds what it is asked for, in fields and errors as well', async () => {
    await visit(async (page) => {
      for (const [text, wanted] of [['user_stopped_typing', 'user_stopped_typing'], ['metres latitude get', '/api/sos/nearby'], ['message cannot be empty', 'send_message'], ['post credentials', '/api/v1/auth/login']]) {
        await page.fill('#search', text);
        const names = await page.locator('.app .entry:visible .name').allTextContents();
        assert.ok(names.includes(wanted), `${text}: ${names}`);
        assert.ok(names.length < total() / 3, `${text}: ${names}`);
      }
      await page.fill('#search', 'nothing-like-this');
      assert.equal(await entries(page).count(), 0);
      assert.match(await page.textContent('#found'), /^0 of \d+/);
    });
  });

  test('every entry opens and holds its types, acks and errors', async () => {
    await visit(async (page) => {
      await page.evaluate(() => { for (const entry of document.querySelectorAll('.entry')) entry.open = true; });
      await page.waitForFunction(() => [...document.querySelectorAll('.app .entry')].every((entry) => entry.querySelector('.facts')));
      const text = await page.textContent('#content');
      assert.doesNotMatch(text, /undefined|\[object|NaN/);
      const message = page.locator('[id="receiveChatSendMessage"]');
      for (const part of ['roomId', 'content', 'realtime', 'Message cannot be empty', 'socket[.]emitWithAck', 'client[.]call']) assert.match(await message.textContent(), new RegExp(part));
      const join = page.locator('[id="joinIncident"]');
      for (const part of ['userType', '"rescuer"', '201', '401', 'Token expired', 'joinedAt', 'date-time', 'curl -X POST', 'requests[.]post']) assert.match(await join.textContent(), new RegExp(part));
    });
  });

  test('the contents lead to every entry, and the address names the one that is opened', async () => {
    await visit(async (page) => {
      const links = page.locator('#toc li:visible');
      assert.equal(await links.count(), total());
      await page.locator('#toc a', { hasText: 'send_message' }).click();
      await page.locator('[id="receiveChatSendMessage"][open] .facts').waitFor();
      await page.click('[id="receiveRelayPublish"] > summary');
      await page.waitForFunction(() => location.hash === '#receiveRelayPublish');
      await page.fill('#search', 'latitude');
      assert.equal(await links.count(), await entries(page).count());
      assert.ok(await links.count() < total());
    });
  });

  test('an address points at an entry', async () => {
    await visit(async (page) => {
      const entry = page.locator('[id="receiveRelayPublish"]');
      assert.equal(await entry.getAttribute('open'), '');
      await entry.locator('.facts').waitFor();
      await photograph(page, 'entry');
    }, { hash: '#receiveRelayPublish', colorScheme: 'dark' });
  });

  test('fits a phone without horizontal scrolling, whatever is open', async () => {
    await visit(async (page) => {
      await photograph(page, 'phone');
      await page.evaluate(() => { for (const entry of document.querySelectorAll('.entry')) entry.open = true; });
      await page.waitForFunction(() => [...document.querySelectorAll('.app .entry')].every((entry) => entry.querySelector('.facts')));
      const wide = await page.evaluate(() => [...document.querySelectorAll('body *')]
        .filter((node) => node.getClientRects().length > 0 && !node.closest('.apps, svg'))
        .filter((node) => node.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
        .map((node) => `${node.tagName}.${node.className}: ${node.textContent.slice(0, 60)}`));
      assert.deepEqual(wide, []);
      await page.locator('[id="listNearbyIncidents"]').scrollIntoViewIfNeeded();
      await photograph(page, 'phone-entry');
    }, { screen: PHONE });
  });
});
