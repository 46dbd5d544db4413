// Two steps in a room, one right after the other: all members see one order, and a leave overtakes no event.

import { testPairs } from './support/pairs.mjs';
import { chatter, emit, members, must, order, patient, person, relay, settle } from './support/pairs_people.mjs';
import { ask } from './support/clients.mjs';
import { delay } from './support/wait.mjs';

testPairs('in a room', {}, {
  'relay: publish {ack}, then publish': {
    async run(world) {
      const room = world.name('room');
      const sender = await relay(world, 0);
      const receivers = await Promise.all([0, 1].map((at) => relay(world, at, [room])));
      for (const { socket } of receivers) socket.on('question', (data, answer) => answer?.(data));
      const answered = ask(sender.socket, 'publish', { room, event: 'question', data: 1, ack: 4_000 });
      await world.pause();
      await must(sender, 'publish', { room, event: 'event', data: 2 });
      await answered;
      await settle(world, ...receivers);
      const orders = receivers.map((one) => order(one, 'question', 'event').join(', '));
      if (new Set(orders).size > 1) return 'the receivers saw different orders';
      return orders[0] === 'question, event' ? undefined : `they saw ${orders[0]}`;
    },
  },

  'relay: two publishers at once': {
    async run(world) {
      const room = world.name('room');
      const both = await Promise.all([0, 1].map((at) => relay(world, at, [room])));
      const watchers = await Promise.all([0, 1].map((at) => relay(world, at, [room])));
      await Promise.all(both.map(async (one, at) => {
        for (let n = 0; n < 5; n += 1) {
          one.socket.emit('publish', { room, event: 'event', data: `${at} ${n}` });
          await world.pause(2);
        }
        await must(one, 'publish', { room, event: 'last' });
      }));
      await settle(world, ...both, ...watchers);
      const seen = [...both, ...watchers].map(({ events }) => events.seen('event').map(([data]) => data));
      if (new Set(seen.map((each) => each.join())).size > 1) return 'they saw different orders';
      const isOrdered = [0, 1].every((at) => seen[0].filter((data) => data.startsWith(String(at))).join() === [0, 1, 2, 3, 4].map((n) => `${at} ${n}`).join());
      return isOrdered ? undefined : 'events of one publisher were lost or reversed';
    },
  },

  'relay: join acked, then an event': {
    async run(world) {
      const room = world.name('room');
      const [one, other] = await Promise.all([relay(world, 0), relay(world, 1)]);
      await must(one, 'join', { room });
      await world.pause();
      await must(other, 'publish', { room, event: 'event', data: 1 });
      await settle(world, one);
      return order(one, 'event').length === 1 ? undefined : 'the new member missed the event';
    },
  },

  'relay: leave acked, then an event and the members': {
    async run(world) {
      const room = world.name('room');
      const [one, other] = await Promise.all([relay(world, 0, [room]), relay(world, 1)]);
      await must(one, 'leave', { room });
      await world.pause();
      const here = await members(world, 1, room, '/relay');
      await must(other, 'publish', { room, event: 'event', data: 1 });
      await settle(world, one);
      if (order(one, 'event').length > 0) return 'the former member got the event';
      return here.length === 0 ? undefined : 'the former member was counted';
    },
  },

  'relay: join, publish, leave in a row': {
    async run(world) {
      const room = world.name('room');
      const [one, other] = await Promise.all([relay(world, 0), relay(world, 1, [room])]);
      one.socket.emit('join', { room });
      await world.pause();
      one.socket.emit('publish', { room, event: 'event', data: 1 });
      await world.pause();
      await must(one, 'leave', { room });
      await settle(world, one, other);
      if (order(other, 'event').length !== 1) return 'another member missed the event';
      return order(one, 'event').length === 1 ? undefined : 'the publisher missed their own event';
    },
  },

  'chat: send, leave: the sender\'s own message': {
    async run(world) {
      const roomId = world.name('room');
      const one = await chatter(world, 0, roomId);
      one.socket.emit('send_message', { roomId, content: 'mine' });
      await world.pause();
      await must(one, 'leave_room', roomId);
      await settle(world, one);
      return order(one, 'new_message').length === 1 ? undefined : 'the sender missed their own message';
    },
  },

  'chat: send, leave: as other members see it': {
    async run(world) {
      const roomId = world.name('room');
      const watcher = await chatter(world, 1, roomId);
      const one = await chatter(world, 0, roomId);
      one.socket.emit('send_message', { roomId, content: 'last' });
      await world.pause();
      await must(one, 'leave_room', roomId);
      await watcher.events.count('user_left', 1);
      await settle(world, watcher);
      const seen = order(watcher, 'new_message', 'user_left').join(', ');
      return seen === 'new_message, user_left' ? undefined : `they saw ${seen}`;
    },
  },

  'chat: typing_start, send, typing_stop': {
    async run(world) {
      const roomId = world.name('room');
      const [one, watcher] = [await chatter(world, 0, roomId), await chatter(world, 1, roomId)];
      one.socket.emit('typing_start', roomId);
      await world.pause();
      one.socket.emit('send_message', { roomId, content: 'typed' });
      await world.pause();
      await must(one, 'typing_stop', roomId);
      await watcher.events.count('new_message', 1);
      await settle(world, watcher);
      const seen = order(watcher, 'user_typing', 'new_message', 'user_stopped_typing').join(', ');
      return seen === 'user_typing, new_message, user_stopped_typing' ? undefined : `they saw ${seen}`;
    },
  },

  'care: typing:start, send, typing:stop': {
    async run(world) {
      const roomId = `topic:${world.name('t')}`;
      const [one, watcher] = await Promise.all([0, 1].map((at) => patient(world, at, [roomId])));
      one.socket.emit('typing:start', { roomId });
      await world.pause();
      one.socket.emit('message:send', { roomId, message: 'typed' });
      await world.pause();
      await must(one, 'typing:stop', { roomId });
      await watcher.events.count('message:new', 1);
      await settle(world, watcher);
      const seen = order(watcher, 'typing:start', 'message:new', 'typing:stop').join(', ');
      return seen === 'typing:start, message:new, typing:stop' ? undefined : `they saw ${seen}`;
    },
  },

  'chat: join, then another user\'s message': {
    async run(world) {
      const roomId = world.name('room');
      const [one, other] = [await person(world, 0), await chatter(world, 1, roomId)];
      const sending = must(other, 'send_message', { roomId, content: 'now' });
      await world.pause();
      await must(one, 'join_room', roomId);
      const { message: { id } } = await sending;
      const [[{ messages }]] = one.events.seen('room_history');
      if (!messages.some((message) => message.id === id)) await one.events.count('new_message', 1, { timeout: 3_000 }).catch(() => {});
      await settle(world, one);
      const times = messages.filter((message) => message.id === id).length + one.events.seen('new_message', (message) => message.id === id).length;
      return times === 1 ? undefined : `it came ${times} times`;
    },
  },
});

/** How long a lost user may take to reconnect, in milliseconds. */
const HOLDBACK = 300;

testPairs('at the end of a hold-back', { env: { LEAVE_HOLDBACK: `${HOLDBACK}ms` } }, {
  'chat: a lost user joins again as the hold-back ends': {
    atOnce: 32,
    async run(world) {
      const roomId = world.name('room');
      const watcher = await chatter(world, 1, roomId);
      const lost = await chatter(world, 0, roomId);
      const again = await person(world, 1, lost.claims);
      lost.socket.io.engine.close();
      // Waits until just before the hold-back ends.
      await world.wait(HOLDBACK - 10, 40);
      await must(again, 'join_room', roomId);
      await delay(HOLDBACK);
      await settle(world, watcher);
      const seen = watcher.events.events.filter(({ event, args: [who] }) => ['user_joined', 'user_left'].includes(event) && who.userId === lost.user).map(({ event }) => event);
      return seen.at(-1) === 'user_joined' ? undefined : `a member was announced as ${seen.at(-1)}`;
    },
  },

  'chat: a lost user reconnects in time': {
    atOnce: 32,
    async run(world) {
      const roomId = world.name('room');
      const watcher = await chatter(world, 1, roomId);
      const lost = await chatter(world, 0, roomId);
      const left = performance.now();
      lost.socket.io.engine.close();
      await world.pause();
      await chatter(world, 1, roomId, lost.claims);
      // On a busy machine they may have reconnected too late, and are announced correctly.
      if (performance.now() - left > HOLDBACK / 2) return undefined;
      await delay(HOLDBACK * 1.5);
      await emit(world, 0, { room: `room:${roomId}` }, 'still here');
      await settle(world, watcher);
      return order(watcher, 'user_left').length === 0 ? undefined : 'the reconnected user was announced as gone';
    },
  },
});
