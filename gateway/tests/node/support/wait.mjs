// Waiting without sleeping: for one event, for a condition that events change, for a recorded event. Every wait has a
// deadline, and its error says what it waited for and what it saw instead.

const DEADLINE = 5_000;

/**
 * The arguments of the next `event` of `emitter` (anything with on/off), as an array. `filter(...args)` selects one;
 * others are skipped.
 */
export function once(emitter, event, { timeout = DEADLINE, filter = () => true } = {}) {
  return new Promise((resolve, reject) => {
    const passed = [];
    const done = (settle, value) => {
      clearTimeout(timer);
      emitter.off(event, listener);
      settle(value);
    };
    const listener = (...args) => {
      if (filter(...args)) done(resolve, args);
      else passed.push(args);
    };
    const timer = setTimeout(() => {
      const seen = passed.length ? `; passed over ${preview(passed)}` : '';
      done(reject, new Error(`no '${event}' within ${timeout} ms${seen}`));
    }, timeout);
    emitter.on(event, listener);
  });
}

/**
 * Resolves with the first truthy `condition()`, checked now and after each of `events` of `emitter`. `what` names the
 * condition in the error.
 */
export function until(emitter, events, condition, { timeout = DEADLINE, what = String(condition) } = {}) {
  return new Promise((resolve, reject) => {
    const names = [events].flat();
    const done = (settle, value) => {
      clearTimeout(timer);
      for (const name of names) emitter.off(name, look);
      settle(value);
    };
    const look = () => {
      let value;
      try {
        value = condition();
      } catch (error) {
        done(reject, error);
        return;
      }
      if (value) done(resolve, value);
    };
    const timer = setTimeout(() => done(reject, new Error(`not within ${timeout} ms: ${what}`)), timeout);
    for (const name of names) emitter.on(name, look);
    look();
  });
}

/**
 * Polls `probe` until it returns something truthy. Only for changes without an event: a metric, a database row, another
 * process.
 */
export async function eventually(probe, { timeout = DEADLINE, interval = 25, what = String(probe) } = {}) {
  const deadline = performance.now() + timeout;
  let last;
  for (;;) {
    try {
      last = await probe();
      if (last) return last;
    } catch (error) {
      last = error;
    }
    if (performance.now() > deadline) throw new Error(`not within ${timeout} ms: ${what}; last answer ${preview(last)}`);
    await delay(interval);
  }
}

/** Rejects if `promise` has not settled in `timeout` milliseconds. */
export function within(promise, timeout, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${timeout} ms: ${what}`)), timeout);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** A pause that the test itself is about (a clock has to advance), never a substitute for an event. */
export function delay(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** An event's arguments without the `eventId` of the first, and that id, which differs for every event. */
export function identified([body, ...rest]) {
  if (typeof body?.eventId !== 'string') return { args: [body, ...rest] };
  const { eventId, ...plain } = body;
  return { args: [plain, ...rest], eventId };
}

/**
 * Records all events of a Socket.IO socket from now on, so that none is missed between two awaits. `take` returns each
 * event once; `seen` reads without taking. Both omit the event's `eventId`.
 */
export function record(socket) {
  const events = [];
  const waiting = new Set();
  socket.onAny((event, ...args) => {
    events.push(args.length > 0 ? { event, ...identified(args) } : { event, args });
    for (const wake of [...waiting]) wake();
  });
  const find = (event, filter) => events.findIndex((entry) => entry.event === event && filter(...entry.args));

  return {
    events,
    /** All recorded argument lists of `event` that were not taken. */
    seen(event, filter = () => true) {
      return events.filter((entry) => entry.event === event && filter(...entry.args)).map((entry) => entry.args);
    },
    /** The first argument of the next matching `event`, recorded already or still to come. */
    async take(event, filter = () => true, { timeout = DEADLINE } = {}) {
      const args = await this.takeAll(event, filter, { timeout });
      return args[0];
    },
    /** Like `take`, with all arguments. */
    takeAll(event, filter = () => true, { timeout = DEADLINE } = {}) {
      return new Promise((resolve, reject) => {
        const look = () => {
          const at = find(event, filter);
          if (at < 0) return false;
          clearTimeout(timer);
          waiting.delete(look);
          resolve(events.splice(at, 1)[0].args);
          return true;
        };
        const timer = setTimeout(() => {
          waiting.delete(look);
          reject(new Error(`no '${event}' within ${timeout} ms; recorded: ${preview(events)}`));
        }, timeout);
        waiting.add(look);
        look();
      });
    },
    /** Resolves when `count` events with that name are recorded and not taken; returns their first arguments. */
    count(event, count, { timeout = DEADLINE } = {}) {
      return new Promise((resolve, reject) => {
        const look = () => {
          const got = this.seen(event);
          if (got.length < count) return;
          clearTimeout(timer);
          waiting.delete(look);
          resolve(got.map((args) => args[0]));
        };
        const timer = setTimeout(() => {
          waiting.delete(look);
          reject(new Error(`${this.seen(event).length} of ${count} '${event}' within ${timeout} ms; recorded: ${preview(events)}`));
        }, timeout);
        waiting.add(look);
        look();
      });
    },
    clear() {
      events.length = 0;
    },
  };
}

/** A value as one short line for an error message. */
export function preview(value) {
  let text;
  try {
    text = value instanceof Error ? String(value) : JSON.stringify(value);
  } catch {
    text = String(value);
  }
  text ??= String(value);
  return text.length > 600 ? `${text.slice(0, 600)}… (${text.length} characters)` : text;
}
