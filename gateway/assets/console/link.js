// The lifecycle of a connection: signing in and out, the sockets, and the status strip under the top bar.

import { Manager } from '/socket.io/socket.io.esm.min.js';

import { log } from './log.js';
import { $, hueOf, inWords, initials, memory, el, setText, toast } from './page.js';
import { EMERGENCIES, MAIN, RELAY, each, linkState, ping, session, sockets } from './session.js';

export const TRANSPORTS = { auto: ['polling', 'websocket'], websocket: ['websocket'], polling: ['polling'] };

/** Claims as the node will read them. Unverified: good for showing names, never for deciding anything. */
function readClaims(token) {
  try {
    const part = token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/');
    const bytes = Uint8Array.from(atob(part), (char) => char.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes));
    return claims !== null && typeof claims === 'object' ? claims : {};
  } catch {
    return {};
  }
}

export function useToken(token) {
  disconnect();
  const claims = readClaims(token);
  const id = String(claims.userId ?? claims.id ?? claims.sub ?? claims.user_id ?? '');
  const name = String(claims.displayName ?? claims.name ?? claims.email ?? id);
  const sameUser = id === session.user.id;
  Object.assign(session, { token, claims, user: { id, name: name || 'Unknown user' } });
  memory.set('token', token);
  if (!sameUser) {
    each('clear');
    each('recall');
  }
  connect();
}

/**
 * `reason` is `{text, detail}`, or empty when the user signs out. A user who is signed out otherwise, for example
 * by an expired token, sees the reason and later finds the rooms again. After an explicit sign-out, no state is
 * left for the next user.
 */
export function signOut(reason) {
  disconnect();
  Object.assign(session, { token: null, claims: {}, problem: '' });
  memory.set('token', null);
  if (reason) {
    each('putOut');
  } else {
    session.user = { id: '', name: '' };
    each('forget');
    each('clear');
  }
  showSignInAlert(reason);
  paint();
  $('token').value = '';
  if (!$('sign-in').hidden) $('token').focus();
}

export function showSignInAlert(reason) {
  const alert = $('sign-in-alert');
  alert.hidden = !reason;
  alert.replaceChildren();
  if (reason) alert.append(el('span', { text: reason.text }), el('code', { text: reason.detail }));
}

const AUTH_TEXTS = {
  auth_required: 'This node requires a token.',
  invalid_token: 'The node did not accept this token. Was it made for this node, and copied whole?',
  token_expired: 'This token has expired. Sign in again.',
};

/** The auth code of a refusal, also from a node that sends only the message. */
function authCode(error) {
  const code = error.data?.code;
  if (Object.hasOwn(AUTH_TEXTS, code ?? '')) return code;
  if (/authentication required/i.test(error.message)) return 'auth_required';
  if (/token expired/i.test(error.message)) return 'token_expired';
  return /invalid token/i.test(error.message) ? 'invalid_token' : null;
}

/** Describes a transport failure, with the node's own answer if the client kept it. */
function describeFailure(error) {
  try {
    const { message } = JSON.parse(error.context.responseText);
    if (typeof message === 'string') return `${message} (HTTP ${error.context.status})`;
  } catch { /* No JSON answer: the client's message has to do. */ }
  return error.message;
}

export function connect() {
  disconnect();
  Object.assign(session, { wanted: true, attempt: 0, wasConnected: false, problem: '' });
  const choice = $('transport').value;
  const manager = new Manager(location.origin, {
    transports: TRANSPORTS[choice],
    autoConnect: false,
    reconnectionDelayMax: 5_000,
  });
  session.manager = manager;
  const ours = (react) => (...args) => { if (session.manager === manager) react(...args); };

  manager.on('open', ours(() => {
    session.attempt = 0;
    session.problem = '';
    const { engine } = manager;
    log.add('sys', '', 'open', [{ transport: engine.transport.name }]);
    engine.on('upgrade', ours((transport) => {
      log.add('sys', '', 'upgrade', [{ transport: transport.name }]);
      paintLink();
    }));
    paint();
  }));
  manager.on('reconnect_attempt', ours((attempt) => {
    session.attempt = attempt;
    paint();
  }));
  manager.on('error', ours((error) => {
    session.problem = describeFailure(error);
    log.add('sys', '', 'failed', [{ message: session.problem }]);
    checkHealth();
    paint();
  }));

  const auth = (give) => give({ token: session.token });
  const open = (namespace) => watch(manager.socket(namespace, { auth }), namespace, ours);
  session.sockets = { main: open(MAIN), relay: open(RELAY), emergencies: open(EMERGENCIES) };
  each('attach', session.sockets);
  for (const socket of sockets()) socket.connect();
  paint();
}

/** What all sockets share: the log, refusals, and handling of the disconnect. */
function watch(socket, namespace, ours) {
  socket.onAny(ours((event, ...args) => log.add('in', namespace, event, args)));
  socket.onAnyOutgoing(ours((event, ...args) => {
    if (!ping.quiet || log.pings) log.add('out', namespace, event, args);
  }));
  socket.on('connect', ours(() => {
    session.wasConnected = true;
    if (namespace === MAIN) session.returning = false;
    log.add('sys', namespace, 'connect', [{ id: socket.id }]);
    paint();
    ping.now();
  }));
  socket.on('disconnect', ours((reason) => {
    log.add('sys', namespace, 'disconnect', [{ reason }]);
    if (['io server disconnect', 'transport close'].includes(reason) && expired()) {
      signOut({ text: AUTH_TEXTS.token_expired, detail: 'The node ended the connection.' });
      return;
    }
    if (reason === 'io server disconnect' && namespace === MAIN && session.returning) socket.connect();
    if (!socket.active) refused(`${namespace} was disconnected by the node`, true);
    paint();
  }));
  socket.on('connect_error', ours((error) => {
    // The manager reports transport errors once and keeps retrying.
    if (socket.active) return;
    const code = error.data?.code;
    log.add('sys', namespace, 'connect_error', [{ message: error.message, ...(error.data ? { data: error.data } : {}) }]);
    const auth = authCode(error);
    if (auth) {
      signOut({ text: AUTH_TEXTS[auth], detail: `${error.message} · ${auth}` });
      return;
    }
    // A node need not have every app. The app's view shows that it is missing; a toast for each connection would
    // only annoy.
    const text = `${namespace}: ${error.message}${code ? ` (${code})` : ''}`;
    refused(text, error.message !== 'Invalid namespace');
    paint();
  }));
  socket.on('error', ours((answer) => toast(String(answer?.message ?? 'The node reported an error'))));
  return socket;
}

function expired() {
  return typeof session.claims.exp === 'number' && session.claims.exp * 1_000 <= Date.now();
}

/** One namespace is refused for good. If none is left, the connection is useless. */
function refused(text, loud) {
  if (loud) toast(text);
  if (sockets().every((socket) => !socket.active)) {
    session.problem = text;
    disconnect();
  }
}

export function disconnect() {
  if (!session.manager) return;
  Object.assign(session, { manager: null, wanted: false, attempt: 0 });
  each('detach');
  for (const socket of sockets()) socket.disconnect();
  log.add('sys', '', 'closed', [{ by: 'this page' }]);
  ping.show(null);
  paint();
}

const STATE_TEXTS = { offline: 'Disconnected', connecting: 'Connecting', reconnecting: 'Reconnecting', connected: 'Connected' };

export function paintLink() {
  const state = linkState();
  document.body.dataset.link = state;
  const engine = session.manager?.engine;
  const up = state === 'connected';
  $('link').hidden = state === 'signed-out';
  setText($('link-state'), STATE_TEXTS[state] ?? '');
  const attempt = session.attempt > 0 ? `attempt ${session.attempt}` : '';
  setText($('link-reason'), up ? '' : [attempt, session.problem].filter(Boolean).join(' · '));
  $('link-reason').title = $('link-reason').textContent;
  setText($('fact-transport'), (up && engine?.transport?.name) || '–');
  setText($('fact-socket'), (up && sockets().find((socket) => socket.id)?.id) || '–');
  setText($('fact-user'), session.user.id || '–');
  $('fact-user').title = session.user.id;
  const left = session.claims.exp * 1_000 - Date.now();
  setText($('fact-token'), Number.isNaN(left) ? '–' : left > 0 ? `${inWords(left)} left` : 'expired');
  if (!up) ping.show(null);
  setText($('link-toggle'), session.wanted ? 'Disconnect' : 'Connect');
}

/** Repaints everything that depends on the connection. Cheap, because only changes are written. */
export function paint() {
  const signedIn = session.token !== null;
  document.body.dataset.signed = signedIn ? 'in' : 'out';
  $('me').hidden = !signedIn;
  if (signedIn) {
    const { id, name } = session.user;
    setText($('me-name'), name);
    $('me-name').title = session.claims.role ? `${name} (${session.claims.role})` : name;
    setText($('me-avatar'), initials(name));
    $('me-avatar').className = `avatar ${hueOf(id)}`;
  }
  paintLink();
  each('paint');
}

export async function login(event) {
  event.preventDefault();
  $('login-submit').disabled = true;
  showSignInAlert(null);
  const body = JSON.stringify({ email: $('email').value, password: $('password').value });
  try {
    const response = await fetch('/api/v1/auth/login', { method: 'POST', headers: { 'content-type': 'application/json' }, body });
    const answer = await response.json().catch(() => ({}));
    if (response.ok && answer.token) {
      $('login-form').reset();
      useToken(answer.token);
    } else if (response.status === 404) {
      showSignInAlert({ text: 'This node has no sign-in; paste a token.', detail: 'HTTP 404' });
    } else {
      const wait = response.headers.get('retry-after');
      showSignInAlert({ text: answer.error ?? 'The node could not sign you in', detail: `HTTP ${response.status}${wait ? ` · try again in ${wait} s` : ''}` });
    }
  } catch {
    showSignInAlert({ text: 'The node does not answer.', detail: 'POST /api/v1/auth/login' });
  }
  $('login-submit').disabled = false;
}

/** Takes `#token=…` out of the address bar before anything else can copy or log the address. */
export function takeTokenFromAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get('token');
  if (token === null) return null;
  history.replaceState(null, '', location.pathname + location.search);
  return token.trim() || null;
}

export async function checkHealth() {
  let state = 'down';
  let text = 'Node not answering';
  let title = '';
  try {
    const response = await fetch('/health', { cache: 'no-store', signal: AbortSignal.timeout(5_000) });
    const answer = await response.json().catch(() => ({}));
    const node = typeof answer.node === 'string' ? `Node ${answer.node}` : 'Node';
    state = response.ok ? 'up' : 'down';
    text = response.ok ? `${node} alive` : `${node} unwell (${response.status})`;
    const facts = Object.entries({ ...answer, ...answer.checks }).filter(([, value]) => ['string', 'number', 'boolean'].includes(typeof value));
    title = facts.map(([key, value]) => `${key}: ${value}`).join('\n');
    if (response.ok && Array.isArray(answer.apps)) each('offered', answer.apps);
  } catch { /* Not answering is what the page then shows. */ }
  $('health').dataset.state = state;
  setText($('health-text'), text);
  $('health').title = title;
}
