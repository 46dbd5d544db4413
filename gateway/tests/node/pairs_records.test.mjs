// Changes of records, and the events and snapshots that report them: ordered, true when they arrive, and complete
// together.

import { testPairs } from './support/pairs.mjs';
import { done, must, order, patient, person, rest, settle } from './support/pairs_people.mjs';
import { citizen, helper, place } from './support/emergencies.mjs';
import { eventually, once } from './support/wait.mjs';

const EMERGENCIES = '/emergencies';

/** The statuses of these users as `asker` receives them. */
const statuses = async (asker, ...people) => (await must(asker, 'presence:get', { userIds: people.map(({ user }) => user) })).presences.map(({ status }) => status);

/** A ringing call: `{caller, callee, callId}`. */
async function ringing(world) {
  const [caller, callee] = [await patient(world, 0), await patient(world, 1)];
  const { callId } = await must(caller, 'call:initiate', { recipientId: callee.user });
  await callee.events.take('call:incoming');
  return { caller, callee, callId };
}

/** Both parties' presence at the moment when `one` receives `event`. */
async function presenceAt(one, event, ...people) {
  await once(one.socket, event);
  return statuses(one, ...people);
}

const api = (path = '') => `/api/v1/emergencies${path}`;
const raise = (world, at, claims) => done(world, at, 'POST', api(), claims, { type: 'medical', location: place() });

/** The set of ids that a client knows from a snapshot and every event after it. */
function known(snapshot, events, [came, went]) {
  const ids = new Set(snapshot);
  for (const [event, id] of events) {
    if (event === came) ids.add(id);
    if (event === went) ids.delete(id);
  }
  return ids;
}

testPairs('records, events and snapshots', {}, {
  'care: call:accepted, then presence:get': {
    async run(world) {
      const { caller, callee, callId } = await ringing(world);
      const seen = presenceAt(caller, 'call:accepted', caller, callee);
      await must(callee, 'call:accept', { callId });
      const [own, other] = await seen;
      return own === 'in_call' && other === 'in_call' ? undefined : `the caller is ${own}, the recipient ${other}`;
    },
  },

  'care: call:accept acked, then presence:get': {
    async run(world) {
      const { caller, callee, callId } = await ringing(world);
      await must(callee, 'call:accept', { callId });
      const [own, other] = await statuses(callee, callee, caller);
      return own === 'in_call' && other === 'in_call' ? undefined : `the recipient is ${own}, the caller ${other}`;
    },
  },

  'care: call:ended, then presence:get': {
    async run(world) {
      const { caller, callee, callId } = await ringing(world);
      await must(callee, 'call:accept', { callId });
      await eventually(async () => (await statuses(caller, caller, callee)).join() === 'in_call,in_call', { what: 'both to be in the call' });
      const seen = presenceAt(caller, 'call:ended', caller, callee);
      await must(callee, 'call:end', { callId });
      const [own, other] = await seen;
      return own === 'online' && other === 'online' ? undefined : `the caller is ${own}, the recipient ${other}`;
    },
  },

  'care: call:accept, then call:end': {
    async run(world) {
      const { caller, callee, callId } = await ringing(world);
      callee.socket.emit('call:accept', { callId }, () => {});
      await world.pause();
      world.pick(caller, callee).socket.emit('call:end', { callId }, () => {});
      await caller.events.count('call:ended', 1);
      await settle(world, caller);
      const seen = order(caller, 'call:accepted', 'call:ended').join(', ');
      return seen === 'call:ended' || seen === 'call:accepted, call:ended' ? undefined : `the caller got ${seen}`;
    },
  },

  'care: a message delivered and read': {
    async run(world) {
      const sender = await patient(world, 0);
      const reader = await patient(world, 1);
      const more = await patient(world, 0, [], reader.claims);
      const read = new Promise((resolve, reject) => {
        reader.socket.on('message:new', async ({ id }) => {
          await world.pause();
          must(reader, 'message:read', { messageIds: [id] }).then(resolve, reject);
        });
      });
      await must(sender, 'message:send', { recipientId: reader.user, message: 'x' });
      await read;
      await sender.events.count('message:status', 1);
      await settle(world, sender, more);
      const seen = sender.events.seen('message:status').map(([{ status }]) => status);
      if (seen.at(-1) !== 'read') return `the sender got ${seen.join(', ')}`;
      return seen.filter((status) => status === 'read').length === 1 ? undefined : 'read came twice';
    },
  },

  'emergencies: respond beside resolve': {
    async run(world) {
      const owner = await person(world, 0, { namespace: EMERGENCIES, ...citizen() });
      const watcher = await person(world, 1, { namespace: EMERGENCIES, ...helper() });
      const { id } = await raise(world, 0, owner.claims);
      for (const one of [watcher, owner]) await must(one, 'emergency:join', { emergencyId: id });
      const responded = rest(world, 1, 'POST', api(`/${id}/respond`), helper());
      await world.pause();
      await done(world, 0, 'POST', api(`/${id}/resolve`), owner.claims);
      const { status } = await responded;
      const people = [owner, watcher];
      await Promise.all(people.map(({ events }) => events.count('emergency:resolved', 1)));
      await settle(world, ...people);
      const expected = status === 200 ? 'emergency:status_changed, emergency:resolved' : 'emergency:resolved';
      const seen = people.map((one) => order(one, 'emergency:status_changed', 'emergency:resolved').join(', '));
      const wrong = seen.find((each) => each !== expected);
      return wrong === undefined ? undefined : `they got ${wrong}`;
    },
  },

  'sos: join beside leave': {
    async run(world) {
      const sosId = world.name('sos');
      const [user, watcher] = [await person(world, 0), await person(world, 1)];
      const participants = `/api/sos/${sosId}/participants`;
      await done(world, 0, 'POST', `${participants}/join`, watcher.claims);
      await done(world, 0, 'POST', `${participants}/join`, user.claims);
      const requests = [
        () => rest(world, 0, 'PATCH', `${participants}/${user.user}/leave`, user.claims),
        () => rest(world, 1, 'POST', `${participants}/join`, user.claims),
        () => rest(world, 1, 'PATCH', `${participants}/${user.user}/leave`, user.claims),
      ];
      const answers = [];
      for (const request of requests) {
        answers.push(request());
        await world.pause(4);
      }
      await Promise.all(answers);
      const { isActive } = await done(world, 0, 'GET', `${participants}/${user.user}/check`, watcher.claims);
      const expected = isActive ? 'participant:joined' : 'participant:left';
      const last = () => watcher.events.events.filter(({ args: [who] }) => who?.userId === user.user).at(-1)?.event;
      await settle(world, watcher);
      return last() === expected ? undefined : `the last event was ${last()}, but the record expects ${expected}`;
    },
  },

  'emergencies: emergency:join beside a helper who responds': {
    async run(world) {
      const owner = citizen();
      const watcher = await person(world, 0, { namespace: EMERGENCIES, ...helper() });
      const { id } = await raise(world, 0, owner);
      const responded = done(world, 1, 'POST', api(`/${id}/respond`), helper());
      await world.pause();
      const { emergency } = await must(watcher, 'emergency:join', { emergencyId: id });
      await responded;
      await settle(world, watcher);
      const isAnnounced = order(watcher, 'emergency:status_changed').length > 0;
      return emergency.status === 'responding' || isAnnounced ? undefined : 'a helper\'s response is neither in the answer nor announced';
    },
  },

  'care: room:join beside another user who enters or leaves': {
    async run(world) {
      const roomId = `topic:${world.name('t')}`;
      const [joiner, mover] = [await patient(world, 0), await patient(world, 1)];
      const isLeaving = world.pick(true, false);
      if (isLeaving) await must(mover, 'room:join', { roomId });
      const events = [];
      joiner.socket.onAny((event, body) => { if (event.startsWith('room:user')) events.push([event, body.userId]); });
      let before;
      const answered = new Promise((resolve) => {
        joiner.socket.emit('room:join', { roomId }, (answer) => {
          before = events.length;
          resolve(answer);
        });
      });
      await world.pause(4);
      await must(mover, isLeaving ? 'room:leave' : 'room:join', { roomId });
      const { participants } = await answered;
      await settle(world, joiner);
      const ids = known(participants.map(({ userId }) => userId), events.slice(before), ['room:userJoined', 'room:userLeft']);
      if (ids.has(mover.user) !== isLeaving) return undefined;
      return isLeaving ? 'a user who left is still listed' : 'a user who entered is missing';
    },
  },
});
