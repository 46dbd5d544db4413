// The signed-in user, the sockets, and requests to the node. `link.js` opens and closes connections.
//
// A part of the page registers itself in `parts`. It is notified by these methods, all of them optional: `listen()`
// once at the start; `attach(sockets)` with each new connection; `detach()` when one has ended; `recall()` to
// restore the state that this tab remembers for a user; `shown(view)`; `offered(apps)` when the node has reported
// its apps; `seen()` when the window comes to the front; `paint()`; `putOut()` when the token is no longer valid;
// `forget()` when the user signs out; and `clear()` before another user may sign in.

import { log } from './log.js';
import { $, setText } from './page.js';

export const MAIN = '/';
export const RELAY = '/relay';
export const EMERGENCIES = '/emergencies';

/** The node's error for an event that no app in the namespace knows. */
export const UNKNOWN_EVENT = 'Unknown event';

const ACK_TIMEOUT_MS = 10_000;
const REST_TIMEOUT_MS = 15_000;

export const session = {
  token: null,
  claims: {},
  user: { id: '', name: '' },
  manager: null,
  // The sockets of the current connection, or of the last one; empty before the first.
  sockets: {},
  // Whether the user wants to be connected. The sockets determine the rest of the state.
  wanted: false,
  attempt: 0,
  wasConnected: false,
  problem: '',
  // Counts connections of the main socket, so that the chat knows what it saw live in this one.
  epoch: 0,
  // The node disconnects a user's sockets when the user leaves an incident; this page's socket must then reconnect.
  returning: false,
};

export const parts = [];

/** Calls a method of all parts, in the order of their registration. */
export function each(what, ...args) {
  for (const part of parts) part[what]?.(...args);
}

export function sockets() {
  return Object.values(session.sockets);
}

/** `signed-out`, `offline`, `connecting`, `reconnecting` or `connected`. */
export function linkState() {
  if (!session.token) return 'signed-out';
  if (!session.wanted) return 'offline';
  if (sockets().some((socket) => socket.connected)) return 'connected';
  return session.wasConnected ? 'reconnecting' : 'connecting';
}

/** Connected, but not in the namespace of `socket`: the node does not have it, or has disconnected this page. */
export function isGone(socket) {
  return linkState() === 'connected' && !socket?.active;
}

/**
 * Emits an event and resolves with `{answer, ms}`, or with `{lost}`, the reason why no answer can arrive anymore.
 * Never rejects, because all callers show the outcome to the user.
 */
export function request(socket, event, ...args) {
  if (!socket?.connected) return Promise.resolve({ lost: 'Not connected' });
  const started = performance.now();
  return new Promise((resolve) => {
    const settle = (error, answer) => {
      const ms = performance.now() - started;
      if (error) {
        resolve({ lost: socket.connected ? 'No answer from the node' : 'The connection was lost' });
        return;
      }
      log.add('in', socket.nsp, `ack ${event}`, [answer]);
      ping.show(ms);
      resolve({ answer, ms });
    };
    socket.timeout(ACK_TIMEOUT_MS).emit(event, ...args, settle);
  });
}

/**
 * Calls the REST API as the signed-in user and resolves with `{answer, status}`, or with `{lost}`. Like `request`
 * it never rejects. An answer to a user who has signed out meanwhile is `{lost}`, too.
 */
export async function rest(method, path, body) {
  const { token } = session;
  log.add('out', 'http', `${method} ${path}`, body === undefined ? [] : [body]);
  const headers = { authorization: `Bearer ${token}`, ...(body === undefined ? {} : { 'content-type': 'application/json' }) };
  try {
    const response = await fetch(path, { method, headers, body: JSON.stringify(body), cache: 'no-store', signal: AbortSignal.timeout(REST_TIMEOUT_MS) });
    const answer = await response.json().catch(() => null);
    if (token !== session.token) return { lost: 'Signed out' };
    log.add('in', 'http', `${response.status} ${path}`, [answer]);
    return { answer, status: response.status };
  } catch {
    return { lost: 'The node does not answer' };
  }
}

/** Why a request failed, in the node's words if it sent any; '' if it succeeded. */
export function failureOf({ answer, lost, status }) {
  if (answer?.success) return '';
  return lost ?? String(answer?.error ?? (status ? `HTTP ${status}` : 'The node did not say why'));
}

export const ping = {
  // Set while a ping is emitted, so that the log can skip it.
  quiet: false,

  /**
   * Measures with the relay's `echo`, which uses no room and no record. Without the relay, acks of other events
   * measure.
   */
  now() {
    const socket = session.sockets.relay;
    if (!session.manager || !socket?.connected || document.hidden) return;
    const started = performance.now();
    this.quiet = true;
    socket.timeout(ACK_TIMEOUT_MS).emit('echo', null, (error, answer) => {
      if (error || socket !== session.sockets.relay) return;
      if (log.pings) log.add('in', RELAY, 'ack echo', [answer]);
      this.show(performance.now() - started);
    });
    this.quiet = false;
  },

  show(ms) {
    setText($('fact-ping'), ms === null ? '–' : ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`);
  },
};
