// Official clients for the tests: one list of transports that every protocol scenario uses, and a keeper that opens
// sockets and closes those that a test left open.

import { load } from './packages.mjs';
import { until, within } from './wait.mjs';

const { io } = load('socket.io-client');

/** The three ways to reach the gateway. `upgraded` sockets are returned once they are on WebSocket. */
export const TRANSPORTS = [
  { name: 'websocket', options: { transports: ['websocket'] }, final: 'websocket' },
  { name: 'polling', options: { transports: ['polling'] }, final: 'polling' },
  { name: 'polling, upgraded', options: { transports: ['polling', 'websocket'] }, final: 'websocket', upgraded: true },
];

/** Claims that allow everything on the relay. */
export const EVERYTHING = { rooms: ['*'], publish: ['*'] };

let counter = 0;

/** A name that is unique within this process, for rooms and users. */
export function unique(prefix = 'x') {
  counter += 1;
  return `${prefix}-${process.pid}-${counter}`;
}

/** Opens Socket.IO clients against `gateway` (anything with `url` and `token()`), and closes them all. */
export function keeper(gateway) {
  const open = new Set();

  /** A socket that may still be connecting. Reconnection is off by default. */
  const socket = ({ namespace = '/', transport = TRANSPORTS[0], token, claims = {}, url = gateway.url, ...options } = {}) => {
    const auth = options.auth ?? { token: token ?? gateway.token(claims) };
    const created = io(`${url}${namespace}`, { forceNew: true, reconnection: false, timeout: 10_000, ...transport.options, ...options, auth });
    open.add(created);
    return created;
  };

  /** A connected socket, on its final transport. */
  const connect = async (options = {}) => {
    const created = socket(options);
    await connected(created, options);
    return created;
  };

  /** Another namespace over the connection of `created`. */
  const also = async (created, namespace, { token, claims = {} } = {}) => {
    const other = created.io.socket(namespace, { auth: { token: token ?? gateway.token(claims) } });
    open.add(other);
    await connected(other);
    return other;
  };

  /** Disconnects everything that was opened. */
  const closeAll = () => {
    for (const created of open) {
      created.io.reconnection(false);
      created.disconnect();
      created.io.engine?.close();
    }
    open.clear();
  };

  return { socket, connect, connected, also, closeAll, open };
}

/** Waits for `connect`, and for the upgrade if the transport has one; throws on a refusal. */
export async function connected(socket, { transport, timeout = 10_000 } = {}) {
  if (!socket.connected) {
    await new Promise((resolve, reject) => {
      const done = (settle, value) => {
        clearTimeout(timer);
        socket.off('connect', onConnect);
        socket.off('connect_error', onError);
        settle(value);
      };
      const onConnect = () => done(resolve);
      const onError = (error) => done(reject, error);
      const timer = setTimeout(() => done(reject, new Error(`not connected within ${timeout} ms`)), timeout);
      socket.on('connect', onConnect);
      socket.on('connect_error', onError);
    });
  }
  if (transport?.upgraded) {
    const { engine } = socket.io;
    let failure;
    const onFailure = (error) => { failure = error instanceof Error ? error : new Error(`the engine closed before the upgrade: ${error}`); };
    engine.once('upgradeError', onFailure).once('close', onFailure);
    await until(engine, ['upgrade', 'upgradeError', 'close'], () => {
      if (failure) throw failure;
      return engine.transport.name === 'websocket';
    }, { timeout, what: 'the upgrade to websocket' });
    engine.off('upgradeError', onFailure).off('close', onFailure);
  }
  return socket;
}

/** The `connect_error` of a socket that must not connect. */
export function refused(socket, { timeout = 5_000 } = {}) {
  return new Promise((resolve, reject) => {
    const done = (settle, value) => {
      clearTimeout(timer);
      socket.off('connect_error', onError);
      socket.off('connect', onConnect);
      settle(value);
    };
    const onError = (error) => done(resolve, error);
    const onConnect = () => done(reject, new Error('it connected'));
    const timer = setTimeout(() => done(reject, new Error(`no 'connect_error' within ${timeout} ms`)), timeout);
    socket.on('connect_error', onError);
    socket.on('connect', onConnect);
  });
}

/** Emits with an ack and returns its first argument, within a deadline. */
export function ask(socket, event, ...args) {
  return within(socket.emitWithAck(event, ...args), 5_000, `the ack of '${event}'`);
}

/** Runs `work(0..count-1)`, at most `width` in parallel; returns the results in order. */
export async function bounded(count, width, work) {
  const results = new Array(count);
  let next = 0;
  const worker = async () => {
    while (next < count) {
      const at = next;
      next += 1;
      results[at] = await work(at);
    }
  };
  await Promise.all(Array.from({ length: Math.min(width, count) }, worker));
  return results;
}
