// A thousand random scripts of two users, three devices and two nodes, checked against a model of calls. A failure
// prints its seed: `SEED=… node --test care_call_scripts.test.mjs` plays the same scripts again.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { NOTHING, lapsed, openCall, possibilities } from './support/calls_model.mjs';
import { TERMINAL, device as open, hasStatus } from './support/care.mjs';
import { bounded, unique } from './support/clients.mjs';
import { startCluster } from './support/cluster.mjs';
import { startPostgres } from './support/postgres.mjs';
import { identified, eventually, preview } from './support/wait.mjs';

const SCRIPTS = 1_000;
/** How many scripts run at the same time. */
const WIDTH = 32;
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000_000);

const RING_MS = 2_000;
/** How much earlier than this process's clock another clock may let the ringing end. */
const CLOCK_MS = 100;
/** Deadline for an event that must come, even on a busy machine. */
const DEADLINE_MS = 15_000;

/** The probability of each action while no call is open, while one rings, and while the parties talk. */
const LIKELY = {
  idle: { initiate: 12, accept: 1, reject: 1, end: 1, signal: 1, reconnect: 3 },
  ringing: { initiate: 2, accept: 8, reject: 3, end: 3, signal: 2, reconnect: 3, lapse: 1 },
  active: { initiate: 2, accept: 2, reject: 2, end: 5, signal: 8, reconnect: 3 },
};
/** The share of steps that consist of two simultaneous actions. */
const RACES = 0.35;
/** The share of actions about an earlier call. */
const STALE = 0.1;

/** Random numbers between 0 and 1, reproducible by seed. */
function randomFrom(seed) {
  let state = Math.imul(seed, 0x9e3779b1) >>> 0;
  const next = () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
  next();
  return next;
}

/** One script: its users, their devices, the model's state and the received events. */
class Script {
  constructor(nodes, seed, tally) {
    this.nodes = nodes;
    this.random = randomFrom(seed);
    this.tally = tally;
    this.state = NOTHING;
    this.users = { a: unique('a'), b: unique('b') };
    this.devices = ['a', 'b', 'b'].map((user) => ({ user, connection: 0 }));
    /** The events of every connection: `{user, device, connection, received: [[event, payload]]}`. */
    this.connections = [];
    /**
     * By the action that started a call: `{callId, sent, late}`. `late` if its ringing could not be delivered at
     * once.
     */
    this.made = new Map();
    /** Maps `callId user` to the connection that holds the call, as long as it is certain. */
    this.seats = new Map();
    /** The signals that were sent: `{to, callId, seat}`. */
    this.signals = new Map();
    this.trace = [];
  }

  async play() {
    await Promise.all(this.devices.map((_, at) => this.connect(at)));
    const steps = 4 + this.pick(7);
    for (let n = 0; n < steps; n += 1) await this.step();
    await this.finish();
    this.check();
  }

  /** A random whole number below `count`. */
  pick(count) {
    return Math.floor(this.random() * count);
  }

  async connect(at) {
    const one = this.devices[at];
    const live = await open(this.nodes[this.pick(this.nodes.length)], { user: this.users[one.user] });
    one.live = live;
    one.connection += 1;
    one.since = performance.now();
    // The events before the answer to CONNECT was handled, and all later ones.
    const received = live.events.events.map(({ event, args }) => [event, args[0]]);
    live.socket.onAny((event, ...args) => received.push([event, identified(args).args[0]]));
    this.connections.push({ user: one.user, device: at, connection: one.connection, received });
  }

  close() {
    for (const { live } of this.devices) this.disconnect(live);
  }

  disconnect(live) {
    live?.socket.disconnect();
    live?.node.clients.open.delete(live.socket);
  }

  /** A random device's action that is likely in this state; `beside` is sent at the same time. */
  action(beside) {
    const call = openCall(this.state);
    const weights = Object.entries(LIKELY[call?.phase ?? 'idle']).filter(([what]) => {
      if (what === 'lapse') return !beside;
      // A device that reconnects does not act at the same time, because its events may be lost.
      if (what === 'reconnect') return beside?.what !== 'reconnect';
      return what === 'initiate' || this.state.calls.length > 0;
    });
    let left = this.random() * weights.reduce((sum, [, weight]) => sum + weight, 0);
    const [what] = weights.find(([, weight]) => { left -= weight; return left < 0; }) ?? weights[0];
    const others = this.devices.map((_, at) => at).filter((at) => !beside || at !== beside.device || ![what, beside.what].includes('reconnect'));
    const device = others[this.pick(others.length)];
    const last = this.state.calls.length - 1;
    const at = this.random() < STALE ? this.pick(last + 1) : last;
    return { what, device, user: this.devices[device].user, at };
  }

  async step() {
    const first = this.action();
    if (first.what === 'lapse') return this.lapse();
    const actions = [first];
    if (this.random() < RACES) actions.push(this.action(first));
    return this.act(actions);
  }

  /** Waits until the ringing call is missed. */
  async lapse() {
    this.trace.push('lapse');
    await this.become(lapsed(this.state), []);
  }

  /** Sends `actions` at once, requires that the model can explain the answers, and adopts the explained state. */
  async act(actions) {
    const sent = performance.now();
    const ringing = openCall(this.state)?.phase === 'ringing' ? this.state.calls.at(-1) : undefined;
    const answers = await Promise.all(actions.map((action) => this.send(action)));
    const mayLapse = () => ringing !== undefined && performance.now() >= this.lapses(ringing);
    this.trace.push(actions.map(({ what, device, at }, index) => `${what} of call ${at} by ${device}: ${JSON.stringify(answers[index])}`).join(' | '));
    const explains = ({ refusals }) => actions.every((action, index) => {
      const errors = refusals.get(action);
      return errors === null ? answers[index].success === true : answers[index].success === false && errors.includes(answers[index].error);
    });
    const explanation = possibilities(this.state, actions, { mayLapse: mayLapse() }).find(explains);
    assert.ok(explanation, 'the model has no explanation of the last answers');
    for (const [index, action] of actions.entries()) {
      if (action.what === 'initiate' && answers[index].success) this.made.set(action, { callId: answers[index].callId, sent, late: answers[index].realtime === false });
      if (actions.length === 2 && answers[index].success === false) this.tally.lost += 1;
    }
    const moved = actions.filter(({ what }) => what === 'reconnect').map(({ device }) => device);
    const earlier = this.state;
    await this.become(explanation.next, moved);
    if (actions.length === 1 && moved.length === 1) await this.ringsAgain(earlier, moved[0], mayLapse);
    const signals = actions.filter(({ what }, index) => what === 'signal' && answers[index].success);
    for (const action of signals) this.unseat(action);
    for (const action of signals) await this.arrives(action);
  }

  async send(action) {
    const { what, device, user, at } = action;
    const { live } = this.devices[device];
    if (what === 'reconnect') {
      this.disconnect(live);
      await this.connect(device);
      return { success: true };
    }
    if (what === 'initiate') return live.ask('call:initiate', { recipientId: this.users[user === 'a' ? 'b' : 'a'], callType: 'video' });
    const { callId } = this.made.get(this.state.calls[at].action);
    if (what !== 'signal') return live.ask(`call:${what}`, { callId });
    action.signal = unique('signal');
    const to = user === 'a' ? 'b' : 'a';
    this.signals.set(action.signal, { to, callId, seat: this.seats.get(`${callId} ${to}`) });
    return live.ask('call:signal', { callId, signal: action.signal });
  }

  /** The earliest time at which the call may stop ringing. */
  lapses(call) {
    return this.made.get(call.action).sent + RING_MS - CLOCK_MS;
  }

  /** Adopts the state `next`, and waits until every device except those in `moved` has received its events. */
  async become(next, moved) {
    const earlier = this.state;
    this.state = next;
    const waits = [];
    const hear = (at, event, callId) => {
      if (moved.includes(at)) return;
      waits.push(this.devices[at].live.events.take(event, (payload) => payload.callId === callId, { timeout: DEADLINE_MS }));
    };
    const of = (user) => this.devices.map((_, at) => at).filter((at) => this.devices[at].user === user);
    for (const [index, call] of next.calls.entries()) {
      const before = earlier.calls[index];
      const { callId, late: toldLate } = this.made.get(call.action);
      const [caller, callee] = call.caller === 'a' ? ['a', 'b'] : ['b', 'a'];
      // A late delivery may come when nothing rings anymore, and is then dropped.
      if (!before && toldLate) for (const at of of(callee)) if (!moved.includes(at)) waits.push(this.ringsOrRang(at, callId));
      if (!before && !toldLate) for (const at of of(callee)) hear(at, 'call:incoming', callId);
      for (const user of Object.keys(call.devices)) if (before?.devices[user] === undefined) this.seat(callId, user, call.devices[user]);
      if (call.devices[callee] !== undefined && before?.devices[callee] === undefined) {
        this.tally.accepted += 1;
        for (const at of of(caller)) hear(at, 'call:accepted', callId);
        for (const at of of(callee)) if (at !== call.devices[callee]) hear(at, 'call:answered_elsewhere', callId);
      }
      if (call.ending && !before?.ending) {
        this.tally[call.ending] += 1;
        // A device that connected when the call may already have been missed need not receive `call:missed`.
        const late = (at) => call.ending === 'call:missed' && this.devices[at].since >= this.lapses(call);
        for (const at of this.devices.keys()) if (!late(at)) hear(at, call.ending, callId);
      }
    }
    await Promise.all(waits);
  }

  seat(callId, user, device) {
    this.seats.set(`${callId} ${user}`, { device, connection: this.devices[device].connection });
  }

  /** A device that connects while a call rings for its user receives it. */
  async ringsAgain(state, device, mayLapse) {
    const call = openCall(state);
    if (call?.phase !== 'ringing' || call.caller === this.devices[device].user || mayLapse()) return;
    // On a slow machine the call may be missed before it could ring there.
    await this.ringsOrRang(device, this.made.get(call.action).callId);
  }

  /** A device receives the ringing call or its end. */
  async ringsOrRang(at, callId) {
    const { received } = this.connections.find(({ device, connection }) => device === at && connection === this.devices[at].connection);
    const hasEvent = () => received.some(([event, body]) => body?.callId === callId && ['call:incoming', ...TERMINAL].includes(event));
    await eventually(hasEvent, { timeout: DEADLINE_MS, what: 'the call to ring, or to be over' });
  }

  /** A device that signals without holding the call may have taken it over. */
  unseat({ signal, device, user }) {
    const key = `${this.signals.get(signal).callId} ${user}`;
    const seat = this.seats.get(key);
    if (seat && (seat.device !== device || seat.connection !== this.devices[device].connection)) this.seats.delete(key);
  }

  /** An accepted signal reaches the other party, if that party has had one connection all the time. */
  async arrives({ signal }) {
    const sent = this.signals.get(signal);
    const { to, callId, seat } = sent;
    if (!seat || this.seats.get(`${callId} ${to}`) !== seat || this.devices[seat.device].connection !== seat.connection) {
      sent.seat = undefined;
      return;
    }
    this.tally.signals += 1;
    await this.devices[seat.device].live.events.take('call:signal', (payload) => payload.signal === signal, { timeout: DEADLINE_MS });
  }

  /** No state is stuck: open calls can be ended, both users can call each other, and both are shown as online. */
  async finish() {
    const by = (what, device) => this.act([{ what, device, user: this.devices[device].user, at: this.state.calls.length - 1 }]);
    if (openCall(this.state)) await by('end', this.pick(3));
    for (const caller of [0, 1 + this.pick(2)]) {
      this.trace.push('at last');
      await by('initiate', caller);
      assert.ok(openCall(this.state), 'a user who is free could not call');
      await by('end', this.pick(3));
      assert.equal(openCall(this.state), undefined);
    }
    for (const user of ['a', 'b']) await hasStatus(this.devices[1].live, this.users[user], 'online', { timeout: DEADLINE_MS });
  }

  /**
   * Checks all received events of every connection. Events of later calls prove that those of earlier calls have
   * come.
   */
  check() {
    const endings = new Map();
    for (const connection of this.connections) {
      const calls = connection.received.filter(([event]) => event.startsWith('call:'));
      for (const [event, payload] of calls) this.checkOne(connection, event, payload);
      for (const [callId, ending] of this.checkEndings(connection, calls)) {
        assert.equal(ending, endings.get(callId) ?? ending, `two ends of one call, as received by ${named(connection)} and others`);
        endings.set(callId, ending);
      }
    }
  }

  checkOne(connection, event, payload) {
    const who = named(connection);
    const call = this.state.calls.find(({ action }) => this.made.get(action).callId === payload.callId);
    assert.ok(call, `${who} received an event of an unknown call: ${event} ${JSON.stringify(payload)}`);
    const { user, device } = connection;
    if (TERMINAL.includes(event)) assert.equal(event, call.ending, `${who} received another ending than in the acks`);
    if (event === 'call:incoming') assert.notEqual(call.caller, user, `${who} is the caller, but received its ringing`);
    if (event === 'call:accepted') assert.equal(call.caller, user, `${who} is the recipient, but received its acceptance`);
    if (event === 'call:answered_elsewhere') assert.ok(call.caller !== user && call.devices[user] !== device, `${who} took the call itself`);
    if (event === 'call:signal') {
      const { to, seat } = this.signals.get(payload.signal);
      assert.equal(to, user, `${who} received its own side's signal`);
      if (seat) assert.deepEqual({ device, connection: connection.connection }, seat, `${who} received a signal for another device`);
    }
  }

  /**
   * The endings that a connection received, by call: at most one per call, and exactly one for a call that still
   * rings there.
   */
  checkEndings(connection, calls) {
    const who = named(connection);
    const endings = new Map();
    for (const [event, payload] of calls.filter(([name]) => TERMINAL.includes(name))) {
      assert.ok(!endings.has(payload.callId), `${who} received two endings of one call: ${preview(calls)}`);
      endings.set(payload.callId, `${event} ${JSON.stringify(payload, Object.keys(payload).sort())}`);
    }
    for (const event of ['call:accepted', 'call:answered_elsewhere', 'call:signal']) {
      const received = calls.filter(([name]) => name === event).map(([, payload]) => `${payload.callId} ${payload.signal}`);
      assert.equal(new Set(received).size, received.length, `${who} received '${event}' twice: ${preview(calls)}`);
    }
    if (connection.connection === this.devices[connection.device].connection) {
      for (const [event, { callId }] of calls) assert.ok(event !== 'call:incoming' || endings.has(callId), `on ${who} a call rings forever`);
    }
    return endings;
  }
}

function named({ user, device, connection }) {
  return `device ${device} (${user}), connection ${connection}`;
}

describe('random call scripts', () => {
  let cluster;
  let postgres;
  before(async () => {
    postgres = await startPostgres();
    // Scripts may start any number of calls between the two users.
    cluster = await startCluster(2, { env: { CALLS_PER_MINUTE: '0', CALL_RING: `${RING_MS}ms`, DATABASE_URL: postgres.url } });
  });
  after(async () => {
    await cluster?.stop();
    await postgres?.kill();
  });

  test(`${SCRIPTS} scripts agree with the model`, { timeout: 600_000 }, async () => {
    const tally = { accepted: 0, signals: 0, lost: 0, ...Object.fromEntries(TERMINAL.map((event) => [event, 0])) };
    const failures = [];
    await bounded(SCRIPTS, WIDTH, async (n) => {
      if (failures.length > 0) return;
      const script = new Script(cluster.nodes, SEED + n, tally);
      try {
        await script.play();
      } catch (error) {
        failures.push(`script ${n}: ${error.message}\n  ${script.trace.join('\n  ')}`);
      } finally {
        script.close();
      }
    });
    assert.equal(failures.length, 0, `SEED=${SEED}\n${failures.join('\n\n')}`);
    // Outcomes that no script reached would not be tested.
    for (const [what, times] of Object.entries(tally)) assert.ok(times > SCRIPTS / 50, `SEED=${SEED}: ${what} only ${times} times: ${JSON.stringify(tally)}`);
    for (const node of cluster.nodes) node.assertQuiet();
  });
});
