// Uses and misuses everything in the emergencies app once, before a witness.

import assert from 'node:assert/strict';

import { unique } from './clients.mjs';
import { about, admin, citizen, emergencies, helper, north, place } from './emergencies.mjs';

const PATH = '/api/v1/emergencies';
const UNKNOWN = '507f1f77bcf86cd799439011';
const LONG = 'x'.repeat(2_001);

/** Uses the app on `gateway`, which has `clients`, before the witness `seen`. */
export async function driveEmergencies(seen, gateway) {
  const app = emergencies([gateway]);
  const online = (claims) => app.online(0, claims, { watch: seen.watch });
  const request = async (status, method, path, claims, { id, ...more } = {}) => {
    const answer = await seen.request(method, `${PATH}${path}`, { claims, params: { id }, ...more });
    assert.equal(answer.status, status, answer.text);
    return answer.body.data;
  };
  const people = {
    owner: await online(citizen()), near: await online(helper({ avatar: 'j.png' })), second: await online(helper({ name: 'Jo', trustScore: undefined, helperRating: undefined })), stranger: await online(citizen()),
  };
  const use = { seen, online, request, ...people };
  const { id, spot } = await raising(use);
  await joining(use, id);
  await helping(use, id, spot);
  await writing(use, id);
  await comingAndGoing(use, id);
  await ending(use, id);
  await anonymously(use);
  seen.assertClean();
}

async function raising({ seen, request, owner, near, stranger }) {
  const spot = place();
  await seen.send(near.socket, 'location:update', spot);
  await near.events.take('location:updated');
  for (const wrong of [7, { latitude: 91, longitude: 0 }]) await seen.send(near.socket, 'location:update', wrong, { refused: true });
  const body = { type: 'medical', location: { ...north(spot, 100), address: '1 Main St' } };
  const { id, nearbyHelperCount } = await request(201, 'POST', '', owner.claims, { body: { ...body, category: 'heart', description: 'help', priority: 'high', severity: 7, anonymousMode: false } });
  assert.equal(nearbyHelperCount, 1);
  for (const event of ['emergency:created', 'emergency:nearby']) await near.events.take(event, about(id));
  const address = (text) => ({ location: { ...spot, address: text } });
  for (const wrong of [{ type: 'a b' }, { category: 'a b' }, { severity: 11 }, { priority: 'x' }, { location: { latitude: 91, longitude: 0 } }, { description: LONG }, { description: 'a\0' }, address('x'.repeat(501)), address('a\0'), { location: 7 }]) {
    await request(400, 'POST', '', owner.claims, { body: { ...body, ...wrong } });
  }
  await request(401, 'POST', '', undefined, { body });
  const eager = citizen();
  for (let n = 0; n < 10; n += 1) await request(201, 'POST', '', eager, { body: { ...body, location: place() } });
  await request(429, 'POST', '', eager, { body });

  const around = { ...spot, radius: 1_000 };
  assert.equal((await request(200, 'GET', '/nearby', near.claims, { query: around })).length, 1);
  await request(403, 'GET', '/nearby', stranger.claims, { query: around });
  for (const query of [{}, { ...around, radius: -1 }, { latitude: 91, longitude: 0 }]) await request(400, 'GET', '/nearby', near.claims, { query });
  await request(200, 'GET', '/{id}', owner.claims, { id });
  await request(403, 'GET', '/{id}', stranger.claims, { id });
  await request(404, 'GET', '/{id}', near.claims, { id: UNKNOWN });
  await request(400, 'GET', '/{id}', near.claims, { id: 'a\nb' });
  return { id, spot };
}

async function joining({ seen, owner, near, stranger }, emergencyId) {
  for (const event of ['emergency:join', 'emergency:leave']) {
    for (const wrong of [7, { emergencyId: 'a\nb' }]) await seen.send(near.socket, event, wrong, { refused: true });
  }
  await seen.send(near.socket, 'emergency:join', { emergencyId: UNKNOWN }, { refused: true });
  await seen.send(stranger.socket, 'emergency:join', { emergencyId }, { refused: true });
  for (const { socket, events } of [near, owner]) {
    await seen.send(socket, 'emergency:join', { emergencyId });
    await events.take('emergency:joined', about(emergencyId));
  }
  await seen.send(near.socket, 'emergency:leave', { emergencyId });
  await near.events.take('emergency:left', about(emergencyId));
}

async function helping({ seen, request, owner, near, second, stranger }, id, spot) {
  assert.equal((await request(200, 'POST', '/{id}/respond', near.claims, { id })).helpers.length, 1);
  for (const event of ['helper:joined', 'emergency:status_changed']) await owner.events.take(event, about(id));
  await request(200, 'POST', '/{id}/respond', second.claims, { id });
  await owner.events.take('helper:joined', about(id));
  await request(403, 'POST', '/{id}/respond', stranger.claims, { id });
  await request(403, 'POST', '/{id}/respond', { ...owner.claims, role: 'helper' }, { id });
  await request(404, 'POST', '/{id}/respond', near.claims, { id: UNKNOWN });
  await request(400, 'POST', '/{id}/respond', near.claims, { id: 'a\nb' });

  const status = '/{id}/helper-status';
  await request(200, 'PUT', status, near.claims, { id, body: { status: 'on_way', notes: 'soon' } });
  await owner.events.take('helper:status_update', about(id));
  for (const wrong of [{ status: 'asleep' }, { status: 'arrived', notes: LONG }, { status: 'arrived', notes: 'a\0' }, {}]) await request(400, 'PUT', status, near.claims, { id, body: wrong });
  await request(403, 'PUT', status, stranger.claims, { id, body: { status: 'arrived' } });
  await request(404, 'PUT', status, near.claims, { id: UNKNOWN, body: { status: 'arrived' } });

  const eager = helper();
  for (const [method, path, body] of [['POST', '/{id}/respond'], ['PUT', status, { status: 'arrived' }]]) {
    const answers = [];
    for (let n = 0; n < 40 && answers.at(-1) !== 429; n += 1) answers.push((await seen.request(method, `${PATH}${path}`, { claims: eager, params: { id: UNKNOWN }, body })).status);
    assert.equal(answers.at(-1), 429);
  }

  await seen.send(near.socket, 'location:update', north(spot, 50));
  await owner.events.take('helper:location', about(id));
}

async function writing({ seen, request, owner, near, stranger }, emergencyId) {
  const write = (from, more, options) => seen.send(from.socket, 'emergency:message', { emergencyId, message: 'hello', ...more }, options);
  await write(owner, { recipientId: near.claims.sub });
  await write(owner, {});
  await write(near, {});
  for (const { events } of [owner, near]) await events.take('emergency:message', about(emergencyId));
  const refused = { refused: true };
  for (const wrong of [{ emergencyId: 'a\nb' }, { recipientId: 'a\nb' }, { message: ' ' }, { message: 'x'.repeat(1_001) }, { message: 'a\0' }, { message: 7 }, { emergencyId: UNKNOWN }, { recipientId: 'nobody' }]) await write(owner, wrong, refused);
  await write(stranger, {}, refused);

  const list = '/{id}/messages';
  const [newest] = await request(200, 'GET', list, owner.claims, { id: emergencyId, query: { limit: 1 } });
  assert.equal((await request(200, 'GET', list, near.claims, { id: emergencyId, query: { before: newest.id } })).length, 2);
  await request(403, 'GET', list, stranger.claims, { id: emergencyId });
  await request(404, 'GET', list, owner.claims, { id: UNKNOWN });
  await request(400, 'GET', list, owner.claims, { id: 'a\nb' });
  for (const query of [{ limit: 'x' }, { before: 'a\0' }]) await request(400, 'GET', list, owner.claims, { id: emergencyId, query });
}

async function comingAndGoing({ online, request, owner, second }, id) {
  second.socket.disconnect();
  await owner.events.take('helper:offline', about(id));
  await online(second.claims);
  await owner.events.take('helper:online', about(id));
  const cancel = { id, body: { status: 'cancelled' } };
  await request(200, 'PUT', '/{id}/helper-status', second.claims, cancel);
  await request(409, 'PUT', '/{id}/helper-status', second.claims, cancel);
}

async function ending({ seen, request, owner, near, stranger }, id) {
  const path = '/{id}/resolve';
  for (const body of [{ resolutionType: 'a b' }, { resolutionNotes: LONG }, { resolutionNotes: 'a\0' }]) await request(400, 'POST', path, owner.claims, { id, body });
  await request(403, 'POST', path, stranger.claims, { id });
  await request(404, 'POST', path, owner.claims, { id: UNKNOWN });
  await request(200, 'POST', path, owner.claims, { id, body: { resolutionType: 'helped', resolutionNotes: 'well' } });
  await owner.events.take('emergency:resolved', about(id));
  await near.events.take('emergency:ended', about(id));
  await request(409, 'POST', path, owner.claims, { id });
  await request(409, 'POST', '/{id}/cancel', owner.claims, { id });
  await request(409, 'POST', '/{id}/respond', near.claims, { id });
  await request(409, 'PUT', '/{id}/helper-status', near.claims, { id, body: { status: 'arrived' } });
  await seen.send(owner.socket, 'emergency:message', { emergencyId: id, message: 'thanks' }, { refused: true });
}

async function anonymously({ seen, request, owner, near }) {
  const { id } = await request(201, 'POST', '', owner.claims, { body: { type: 'other', location: place(), anonymousMode: true } });
  assert.equal((await request(200, 'GET', '/{id}', near.claims, { id })).user, null);
  await request(200, 'POST', '/{id}/respond', near.claims, { id });
  await seen.send(owner.socket, 'emergency:message', { emergencyId: id, message: unique('hello') });
  assert.equal((await near.events.take('emergency:message', about(id))).senderId, null);
  await request(403, 'POST', '/{id}/cancel', near.claims, { id });
  await request(404, 'POST', '/{id}/cancel', owner.claims, { id: UNKNOWN });
  await request(200, 'POST', '/{id}/cancel', admin(), { id });
  await owner.events.take('emergency:cancelled', about(id));
  await request(409, 'POST', '/{id}/respond', near.claims, { id });
}
