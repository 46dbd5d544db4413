// The console: a person's view of one node. It speaks to the node only as any client would, through the
// stock client, `/health` and the login route, so whatever works here works for an app too.
//
// Parts, top to bottom: page pieces (elements, toasts, names) · session (token, connection, ping) · chat ·
// relay · log · views · start. Each part owns its state; `session` is the only one that the others read.
//
// Invariants: what comes from the wire enters the page as text only; every list is bounded; the token is
// kept for this tab alone and never stays in the address bar.

import { Manager } from '/socket.io/socket.io.esm.min.js';

const CHAT = '/';
const RELAY = '/relay';
const TRANSPORTS = { auto: ['polling', 'websocket'], websocket: ['websocket'], polling: ['polling'] };

const ACK_TIMEOUT_MS = 10_000;
const PING_EVERY_MS = 10_000;
const HEALTH_EVERY_MS = 10_000;
const TYPING_IDLE_MS = 2_500;
const TYPING_REPEAT_MS = 4_000;
// Longer than two repeats, so that one lost `typing_start` does not make the line flicker.
const TYPING_EXPIRES_MS = 9_000;
const TOAST_MS = 8_000;
const PAGE_SIZE = 50;
// Live messages push out the oldest beyond this; paging back may hold twice as many.
const TIMELINE_MAX = 1_000;
const MEMBERS_MAX = 500;
const PEOPLE_MAX = 5_000;
const LOG_LINES_MAX = 500;
const RELAY_LINES_MAX = 200;
const JSON_CHARS_MAX = 20_000;
const MESSAGE_CHARS_MAX = 1_000;
const GROUP_MS = 5 * 60_000;

// ---------------------------------------------------------------------------------------- page pieces

const $ = (id) => document.getElementById(id);

/** Makes an element. `props` are attributes, but for `text`, `class`, and `on…` listeners. */
function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === 'text') node.textContent = value;
    else if (name === 'class') node.className = value;
    else if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children);
  return node;
}

/** Writes only what differs: a selection or a screen reader's place survives a repaint. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Puts `wanted` into `parent` in that order, moving as few nodes as it can. */
function place(parent, wanted) {
  const keep = new Set(wanted);
  for (const child of [...parent.children]) if (!keep.has(child)) child.remove();
  let at = parent.firstElementChild;
  for (const node of wanted) {
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
  }
}

const collator = new Intl.Collator();
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
const dayName = new Intl.DateTimeFormat(undefined, { weekday: 'long', day: 'numeric', month: 'long' });
const fullTime = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });

function preciseTime(date) {
  const two = (n) => String(n).padStart(2, '0');
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, '0')}`;
}

function inWords(ms) {
  const minutes = Math.round(ms / 60_000);
  if (minutes < 1) return 'under a minute';
  if (minutes < 120) return `${minutes} min`;
  if (minutes < 48 * 60) return `${Math.round(minutes / 60)} h`;
  return `${Math.round(minutes / 1440)} days`;
}

function initials(name) {
  const words = name.split(/[\s._@-]+/u).filter(Boolean);
  const letters = words.length > 1 ? [words[0], words[1]].map((word) => [...word][0]) : [...(words[0] ?? '?')].slice(0, 2);
  return letters.join('').toUpperCase();
}

function hueOf(id) {
  let hash = 0;
  for (const char of id) hash = (hash * 31 + char.codePointAt(0)) >>> 0;
  return `hue-${hash % 8}`;
}

/** JSON for people: binary is named, not spelled out, and nothing is longer than a screen can use. */
function toJson(value, indent) {
  const text = JSON.stringify(value, (key, inner) => {
    if (inner instanceof ArrayBuffer || ArrayBuffer.isView(inner)) return `‹${inner.byteLength} bytes›`;
    return typeof inner === 'bigint' ? String(inner) : inner;
  }, indent) ?? '';
  return text.length > JSON_CHARS_MAX ? `${text.slice(0, JSON_CHARS_MAX)}… (${text.length} characters)` : text;
}

function toast(text) {
  const same = [...$('toasts').children].find((node) => node.dataset.text === text);
  same?.remove();
  const node = el('div', { class: 'toast' }, el('p', { text }));
  node.dataset.text = text;
  let timer;
  const dismiss = () => { clearTimeout(timer); node.remove(); };
  const hold = () => clearTimeout(timer);
  const release = () => { clearTimeout(timer); timer = setTimeout(dismiss, TOAST_MS); };
  node.append(el('button', { type: 'button', class: 'quiet', 'aria-label': 'Dismiss', text: '✕', onclick: dismiss }));
  for (const event of ['mouseenter', 'focusin']) node.addEventListener(event, hold);
  for (const event of ['mouseleave', 'focusout']) node.addEventListener(event, release);
  $('toasts').append(node);
  while ($('toasts').children.length > 4) $('toasts').firstElementChild.remove();
  release();
}

/** Sets `key` as the newest of `map`, and drops the oldest beyond `max`. */
function setBounded(map, key, value, max) {
  map.delete(key);
  map.set(key, value);
  if (map.size > max) map.delete(map.keys().next().value);
}

/** What survives a reload of this tab. Storage may be switched off; the page then just forgets. */
const memory = {
  get(key) {
    try { return JSON.parse(sessionStorage.getItem(`muster.${key}`)); } catch { return null; }
  },
  set(key, value) {
    try {
      if (value === null) sessionStorage.removeItem(`muster.${key}`);
      else sessionStorage.setItem(`muster.${key}`, JSON.stringify(value));
    } catch { /* Without storage a reload asks for the token again. */ }
  },
};

// ------------------------------------------------------------------------------------------- session

const session = {
  token: null,
  claims: {},
  user: { id: '', name: '' },
  manager: null,
  chat: null,
  relay: null,
  // Whether the person wants to be connected; the rest of the state is what the sockets say.
  wanted: false,
  attempt: 0,
  wasConnected: false,
  problem: '',
  // Counts connections of the chat socket, so that the chat knows what it saw live in this one.
  epoch: 0,
};

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

function useToken(token) {
  disconnect();
  const claims = readClaims(token);
  const id = String(claims.userId ?? claims.id ?? claims.sub ?? '');
  const name = String(claims.displayName ?? claims.name ?? claims.email ?? id);
  const sameUser = id === session.user.id;
  Object.assign(session, { token, claims, user: { id, name: name || 'Unknown user' } });
  memory.set('token', token);
  if (!sameUser) {
    chat.clear();
    relay.clear();
    chat.recall();
  }
  connect();
}

/**
 * `reason` is `{text, detail}`, or nothing when the person signs out by choice. Whoever is put out, by an
 * expired token say, sees why and finds the rooms again; after a choice nothing is left for the next person.
 */
function signOut(reason) {
  disconnect();
  Object.assign(session, { token: null, claims: {}, problem: '' });
  memory.set('token', null);
  if (reason) {
    // Only the log shows without a token, and it says nothing to most people.
    views.current = 'chat';
  } else {
    session.user = { id: '', name: '' };
    memory.set('rooms', null);
    chat.clear();
    relay.clear();
    log.clear();
  }
  showSignInAlert(reason);
  paint();
  $('token').value = '';
  if (!$('sign-in').hidden) $('token').focus();
}

function showSignInAlert(reason) {
  const alert = $('sign-in-alert');
  alert.hidden = !reason;
  alert.replaceChildren();
  if (reason) alert.append(el('span', { text: reason.text }), el('code', { text: reason.detail }));
}

const AUTH_TEXTS = {
  auth_required: 'This node wants a token.',
  invalid_token: 'The node did not accept this token. Was it made for this node, and copied whole?',
  token_expired: 'This token has expired. Sign in again.',
};

/** The auth code of a refusal, also from a node that sends the message alone. */
function authCode(error) {
  const code = error.data?.code;
  if (Object.hasOwn(AUTH_TEXTS, code ?? '')) return code;
  if (/authentication required/i.test(error.message)) return 'auth_required';
  if (/token expired/i.test(error.message)) return 'token_expired';
  return /invalid token/i.test(error.message) ? 'invalid_token' : null;
}

/** A transport's failure in words: the node's own answer, where the client kept it. */
function describeFailure(error) {
  try {
    const { message } = JSON.parse(error.context.responseText);
    if (typeof message === 'string') return `${message} (HTTP ${error.context.status})`;
  } catch { /* No JSON answer: the client's message has to do. */ }
  return error.message;
}

function connect() {
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
  session.chat = watch(manager.socket(CHAT, { auth }), CHAT, ours);
  session.relay = watch(manager.socket(RELAY, { auth }), RELAY, ours);
  chat.attach(session.chat);
  relay.attach(session.relay);
  session.chat.connect();
  session.relay.connect();
  paint();
}

/** What both sockets have in common: the log, refusals, and the end of a connection. */
function watch(socket, namespace, ours) {
  socket.onAny(ours((event, ...args) => log.add('in', namespace, event, args)));
  socket.onAnyOutgoing(ours((event, ...args) => {
    if (!ping.quiet || log.pings) log.add('out', namespace, event, args);
  }));
  socket.on('connect', ours(() => {
    session.wasConnected = true;
    log.add('sys', namespace, 'connect', [{ id: socket.id }]);
    paint();
    ping.now();
  }));
  socket.on('disconnect', ours((reason) => {
    log.add('sys', namespace, 'disconnect', [{ reason }]);
    if (reason === 'io server disconnect' && expired()) {
      signOut({ text: AUTH_TEXTS.token_expired, detail: 'The node ended the connection.' });
      return;
    }
    if (!socket.active) refused(`${namespace} was disconnected by the node`, true);
    paint();
  }));
  socket.on('connect_error', ours((error) => {
    // Transport trouble is told once, by the manager; it goes on trying.
    if (socket.active) return;
    const code = error.data?.code;
    log.add('sys', namespace, 'connect_error', [{ message: error.message, ...(error.data ? { data: error.data } : {}) }]);
    const auth = authCode(error);
    if (auth) {
      signOut({ text: AUTH_TEXTS[auth], detail: `${error.message} · ${auth}` });
      return;
    }
    // A node need not have every app; its view says so, and a toast at each connection would only annoy.
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

/** One namespace is gone for good. With none left there is no connection to speak of. */
function refused(text, loud) {
  if (loud) toast(text);
  if (!session.chat.active && !session.relay.active) {
    session.problem = text;
    disconnect();
  }
}

function disconnect() {
  const { manager, chat: chatSocket, relay: relaySocket } = session;
  if (!manager) return;
  Object.assign(session, { manager: null, wanted: false, attempt: 0 });
  chat.detach();
  chatSocket.disconnect();
  relaySocket.disconnect();
  log.add('sys', '', 'closed', [{ by: 'this page' }]);
  ping.show(null);
  paint();
}

/**
 * Emits and resolves with `{answer, ms}`, or with `{lost}`, the reason why no answer can come any more.
 * Never rejects: all callers show the outcome to the person.
 */
function request(socket, event, ...args) {
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

const ping = {
  // Set while a ping is being emitted, so that the log can leave it out.
  quiet: false,

  /** Measures on the relay's `echo`, which touches no room and no record; else acks of chat events tell. */
  now() {
    const socket = session.relay;
    if (!session.manager || !socket?.connected || document.hidden) return;
    const started = performance.now();
    this.quiet = true;
    socket.timeout(ACK_TIMEOUT_MS).emit('echo', null, (error, answer) => {
      if (error || socket !== session.relay) return;
      if (log.pings) log.add('in', RELAY, 'ack echo', [answer]);
      this.show(performance.now() - started);
    });
    this.quiet = false;
  },

  show(ms) {
    setText($('fact-ping'), ms === null ? '–' : ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`);
  },
};

/** `signed-out`, `offline`, `connecting`, `reconnecting` or `connected`. */
function linkState() {
  if (!session.token) return 'signed-out';
  if (!session.wanted) return 'offline';
  if (session.chat.connected || session.relay.connected) return 'connected';
  return session.wasConnected ? 'reconnecting' : 'connecting';
}

const STATE_TEXTS = { offline: 'Disconnected', connecting: 'Connecting', reconnecting: 'Reconnecting', connected: 'Connected' };

function paintLink() {
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
  setText($('fact-socket'), (up && (session.chat.id ?? session.relay.id)) || '–');
  setText($('fact-user'), session.user.id || '–');
  $('fact-user').title = session.user.id;
  const left = session.claims.exp * 1_000 - Date.now();
  setText($('fact-token'), Number.isNaN(left) ? '–' : left > 0 ? `${inWords(left)} left` : 'expired');
  if (!up) ping.show(null);
  setText($('link-toggle'), session.wanted ? 'Disconnect' : 'Connect');
}

/** Repaints all that depends on the connection. Cheap: nothing is written that did not change. */
function paint() {
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
  views.paint();
  chat.paint();
  relay.paint();
}

async function login(event) {
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
      showSignInAlert({ text: 'This node does not sign people in; paste a token.', detail: 'HTTP 404' });
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
function takeTokenFromAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get('token');
  if (token === null) return null;
  history.replaceState(null, '', location.pathname + location.search);
  return token.trim() || null;
}

async function checkHealth() {
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
  } catch { /* Not answering is what the page then shows. */ }
  $('health').dataset.state = state;
  setText($('health-text'), text);
  $('health').title = title;
}

// ---------------------------------------------------------------------------------------------- chat
//
// A room's timeline holds messages and notices in the node's order. What the person sent waits in `pending`
// until the node's `new_message` comes back; the ack may arrive before or after it, so it only names the id
// or the refusal and never places anything.

const chat = {
  socket: null,
  rooms: new Map(),
  active: null,
  // What is known of people in all rooms: id → {name, email}.
  people: new Map(),
  typingTo: null,
  typingTimer: undefined,
  typingSentAt: 0,
  nextKey: 0,

  attach(socket) {
    this.socket = socket;
    const on = (event, react) => socket.on(event, (value, ...rest) => {
      if (socket === this.socket && value !== null && typeof value === 'object') react.call(this, value, ...rest);
    });
    socket.on('connect', () => {
      if (socket !== this.socket) return;
      session.epoch += 1;
      for (const room of this.rooms.values()) this.enter(room);
    });
    socket.on('disconnect', () => {
      if (socket !== this.socket) return;
      this.outOfRooms();
      this.paint();
    });
    on('room_history', this.onHistory);
    on('new_message', this.onMessage);
    on('user_joined', (user) => this.onPresence(user, 'here'));
    on('user_left', (user) => this.onPresence(user, 'left'));
    on('user_typing', this.onTyping);
    on('user_stopped_typing', (user) => {
      for (const room of this.rooms.values()) {
        if (user.roomId === undefined || user.roomId === room.id) this.stoppedTyping(room, user.userId);
      }
      this.paintTyping();
    });
  },

  detach() {
    this.outOfRooms();
    this.socket = null;
  },

  /** The connection is gone, and with it the memberships; the timelines stay to be read. */
  outOfRooms() {
    clearTimeout(this.typingTimer);
    this.typingTo = null;
    for (const room of this.rooms.values()) {
      room.joined = false;
      for (const userId of [...room.typing.keys()]) this.stoppedTyping(room, userId);
    }
  },

  /** Drops everything of the last user: the next one must not see it. */
  clear() {
    this.rooms.clear();
    this.people.clear();
    this.active = null;
    $('message').value = '';
    for (const id of ['messages', 'member-list', 'room-name', 'announcer', 'toasts']) $(id).replaceChildren();
    this.paint();
  },

  remember() {
    memory.set('rooms', this.rooms.size > 0 ? { user: session.user.id, ids: [...this.rooms.keys()], active: this.active } : null);
  },

  /** The rooms that this tab remembers, if they are this user's. */
  recall() {
    const saved = memory.get('rooms');
    if (!saved || saved.user !== session.user.id || !Array.isArray(saved.ids)) return;
    for (const id of saved.ids) this.room(String(id));
    this.active = this.rooms.has(saved.active) ? saved.active : (saved.ids[0] ?? null);
  },

  room(id) {
    let room = this.rooms.get(id);
    if (!room) {
      room = {
        id,
        joined: false,
        everJoined: false,
        refusal: '',
        cameFrom: null,
        timeline: [],
        known: new Set(),
        pending: [],
        nodes: new Map(),
        members: new Map(),
        typing: new Map(),
        unread: 0,
        draft: '',
        atStart: false,
        paging: false,
        // Whether the timeline follows its end, where it was left otherwise, and what came below that.
        stick: true,
        scroll: 0,
        below: 0,
      };
      this.rooms.set(id, room);
    }
    return room;
  },

  join(id) {
    const room = this.room(id);
    if (id !== this.active) room.cameFrom = this.active;
    this.show(id);
    // At once: after the answer, hands may be busy elsewhere. Not on a phone, whose keyboard hides half the page.
    if (matchMedia('(hover: hover)').matches) $('message').focus();
    if (!room.joined && this.socket?.connected) this.enter(room);
  },

  async enter(room) {
    const { socket } = this;
    const { answer, lost } = await request(socket, 'join_room', room.id);
    if (socket !== this.socket || this.rooms.get(room.id) !== room) return;
    if (answer?.success) {
      for (const member of room.members.values()) {
        // Nobody told us who left while we were away.
        if (room.everJoined && member.state === 'here' && member.epoch !== session.epoch) Object.assign(member, { state: 'before', at: null });
      }
      Object.assign(room, { joined: true, everJoined: true, refusal: '' });
      this.see(room, session.user.id, 'here', { name: session.user.name });
    } else if (!lost) {
      const error = String(answer?.error ?? 'The node did not say why');
      toast(`Could not join #${room.id}: ${error}`);
      room.refusal = error;
      if (!room.everJoined) this.drop(room);
    }
    this.remember();
    this.paint();
  },

  leave() {
    const room = this.rooms.get(this.active);
    if (!room) return;
    this.stopTyping();
    if (room.joined) request(this.socket, 'leave_room', room.id);
    this.drop(room);
    this.remember();
    this.paint();
    $('join-room').focus();
  },

  drop(room) {
    for (const timer of room.typing.values()) clearTimeout(timer);
    this.rooms.delete(room.id);
    if (this.active === room.id) {
      this.active = null;
      const next = this.rooms.has(room.cameFrom) ? room.cameFrom : this.rooms.keys().next().value;
      if (next !== undefined) this.show(next);
    }
  },

  show(id) {
    const before = this.rooms.get(this.active);
    if (before && id !== this.active) {
      this.stopTyping();
      before.draft = $('message').value;
      before.scroll = $('timeline').scrollTop;
    }
    const changed = id !== this.active;
    this.active = id;
    const room = this.room(id);
    if (changed) {
      $('message').value = room.draft;
      this.fitComposer();
    }
    this.remember();
    this.markRead();
    this.paint();
    if (changed && !room.stick) $('timeline').scrollTop = room.scroll;
    room.tab.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  },

  visible(room) {
    return room.id === this.active && views.current === 'chat' && !document.hidden;
  },

  markRead() {
    const room = this.rooms.get(this.active);
    if (room && this.visible(room)) room.unread = 0;
    this.paintRooms();
  },

  // ---- what the node tells

  onHistory({ roomId, messages }) {
    const room = this.rooms.get(roomId);
    if (room && Array.isArray(messages)) this.mergeHistory(room, messages, room.paging);
  },

  /**
   * Fits a page of history, oldest first, into the timeline. Known messages stay where they are; unknown ones
   * go beside their known neighbours. A page that touches nothing known is an older page, or, after a long
   * absence, the newest page: then what lies before the gap is dropped rather than shown as if complete.
   */
  mergeHistory(room, messages, older) {
    const page = messages.filter((message) => typeof message?.id === 'string');
    const firstKnown = page.find((message) => room.known.has(message.id));
    const seenBefore = new Set(room.known);
    if (!firstKnown && !older && page.length > 0) {
      const live = room.timeline.filter((entry) => entry.epoch === session.epoch);
      this.setTimeline(room, live);
      room.atStart = false;
    }
    if (!firstKnown && !room.atStart) room.atStart = page.length < PAGE_SIZE;
    let at = firstKnown ? room.timeline.findIndex((entry) => entry.key === firstKnown.id) : 0;
    const added = [];
    for (const message of page) {
      if (room.known.has(message.id)) {
        at = room.timeline.findIndex((entry) => entry.key === message.id) + 1;
        continue;
      }
      const entry = this.entry(message);
      if (!older && !seenBefore.has(entry.key)) this.settlePending(room, entry);
      room.timeline.splice(at, 0, entry);
      room.known.add(entry.key);
      at += 1;
      added.push(entry);
      this.learn(entry.userId, { name: entry.name });
      const member = room.members.get(entry.userId);
      if (!member || (member.state === 'earlier' && member.at < entry.at)) this.see(room, entry.userId, 'earlier', { at: entry.at });
    }
    if (room.id === this.active) this.paintRoom(older && added.length > 0);
    this.paintRooms();
  },

  onMessage(message) {
    const room = this.rooms.get(message.roomId);
    if (!room || typeof message.id !== 'string' || room.known.has(message.id)) return;
    const entry = { ...this.entry(message), epoch: session.epoch };
    this.settlePending(room, entry);
    room.timeline.push(entry);
    room.known.add(entry.key);
    if (room.timeline.length > (room.stick ? TIMELINE_MAX : 2 * TIMELINE_MAX)) {
      this.setTimeline(room, room.timeline.slice(-TIMELINE_MAX));
      room.atStart = false;
    }
    this.see(room, entry.userId, 'here', { name: entry.name });
    this.stoppedTyping(room, entry.userId);
    const own = entry.userId === session.user.id;
    if (!own && !this.visible(room)) room.unread += 1;
    if (!own) setText($('announcer'), `${entry.name} in ${room.id}: ${entry.text}`);
    this.paintRooms();
    if (!room.stick) room.below += 1;
    if (room.id === this.active) this.paintRoom();
  },

  onPresence(user, state) {
    const { rooms, sure } = this.roomsOf(user);
    this.learn(user.userId, user);
    for (const room of rooms) {
      this.see(room, user.userId, sure ? state : 'maybe', user);
      if (state === 'left') this.stoppedTyping(room, user.userId);
      if (!sure) continue;
      this.nextKey += 1;
      room.timeline.push({
        kind: 'notice', key: `notice ${this.nextKey}`, userId: user.userId, epoch: session.epoch,
        at: new Date(user.timestamp ?? Date.now()), text: state === 'here' ? 'joined' : 'left',
      });
    }
    this.paint();
  },

  onTyping(user) {
    if (user.userId === session.user.id) return;
    this.learn(user.userId, user);
    const { rooms, sure } = this.roomsOf(user);
    for (const room of rooms) {
      clearTimeout(room.typing.get(user.userId));
      room.typing.set(user.userId, setTimeout(() => {
        this.stoppedTyping(room, user.userId);
        this.paintTyping();
      }, TYPING_EXPIRES_MS));
      if (sure) this.see(room, user.userId, 'here', user);
    }
    this.paintTyping();
    this.paintMembers();
  },

  stoppedTyping(room, userId) {
    clearTimeout(room.typing.get(userId));
    room.typing.delete(userId);
  },

  /**
   * The rooms that an event about a person may mean. The document's `user_joined`, `user_left` and typing
   * events need not name their room: with several rooms joined, the ones where the person was seen are the
   * best guess, and `sure` is false.
   */
  roomsOf({ roomId, userId }) {
    if (roomId !== undefined) return { rooms: [this.rooms.get(roomId)].filter(Boolean), sure: true };
    const joined = [...this.rooms.values()].filter((room) => room.everJoined);
    if (joined.length < 2) return { rooms: joined, sure: true };
    const seenIn = joined.filter((room) => room.members.has(userId));
    return { rooms: seenIn.length > 0 ? seenIn : joined, sure: false };
  },

  learn(userId, { name, email }) {
    const person = this.people.get(userId) ?? {};
    setBounded(this.people, userId, { name: name || person.name, email: email || person.email }, PEOPLE_MAX);
  },

  see(room, userId, state, { name, email, at, timestamp } = {}) {
    if (typeof userId !== 'string' || userId === '') return;
    this.learn(userId, { name, email });
    const when = at ?? (timestamp ? new Date(timestamp) : new Date());
    setBounded(room.members, userId, { ...room.members.get(userId), state, at: when, epoch: session.epoch }, MEMBERS_MAX);
    if (room.id === this.active) this.paintMembers();
  },

  nameOf(userId) {
    if (userId === session.user.id) return session.user.name;
    const person = this.people.get(userId);
    return person?.name || person?.email || String(userId);
  },

  entry(message) {
    const userId = String(message.user?.id ?? message.userId ?? '');
    return {
      kind: 'message',
      key: message.id,
      userId,
      name: String(message.user?.name || userId),
      text: String(message.content ?? ''),
      at: new Date(message.createdAt),
      state: 'stored',
    };
  },

  setTimeline(room, timeline) {
    room.timeline = timeline;
    room.known = new Set(timeline.filter((entry) => entry.kind === 'message').map((entry) => entry.key));
  },

  // ---- what the person does

  /** The stored form of a message that this page sent takes the place of the waiting one, node and all. */
  settlePending(room, entry) {
    if (entry.userId !== session.user.id) return;
    let index = room.pending.findIndex((waiting) => waiting.storedId === entry.key);
    if (index < 0) index = room.pending.findIndex((waiting) => !waiting.storedId && waiting.text === entry.text);
    if (index < 0) return;
    const [waiting] = room.pending.splice(index, 1);
    const node = room.nodes.get(waiting.key);
    room.nodes.delete(waiting.key);
    if (node) room.nodes.set(entry.key, node);
  },

  submit(event) {
    event?.preventDefault();
    const room = this.rooms.get(this.active);
    const text = $('message').value.trim();
    if (!room?.joined || text === '' || [...text].length > MESSAGE_CHARS_MAX) return;
    this.stopTyping();
    $('message').value = '';
    room.draft = '';
    room.stick = true;
    this.fitComposer();
    this.nextKey += 1;
    this.send(room, { kind: 'message', key: `pending ${this.nextKey}`, userId: session.user.id, name: session.user.name, text });
  },

  async send(room, waiting) {
    Object.assign(waiting, { at: new Date(), state: 'sending', error: '', storedId: null });
    if (!room.pending.includes(waiting)) room.pending.push(waiting);
    this.paintRoom();
    const { answer, lost } = await request(this.socket, 'send_message', { roomId: room.id, content: waiting.text });
    if (answer?.success) {
      const id = answer.message?.id ?? null;
      // The broadcast shows it. If that was faster, nothing waits here any more.
      if (room.known.has(id)) this.discard(room, waiting);
      else Object.assign(waiting, { state: 'sent', storedId: id });
    } else {
      Object.assign(waiting, { state: 'failed', error: lost ?? String(answer?.error ?? 'The node refused it') });
      // Another tab's equal message may have settled this one; the failure must still be seen.
      if (!lost && !room.pending.includes(waiting)) room.pending.push(waiting);
    }
    if (room.id === this.active) this.paintRoom();
  },

  retry(room, waiting) {
    if (room.joined) this.send(room, waiting);
    else toast('Not connected: try again when the room is joined.');
  },

  discard(room, waiting) {
    room.pending = room.pending.filter((other) => other !== waiting);
    if (room.id === this.active) this.paintRoom();
  },

  async older() {
    const room = this.rooms.get(this.active);
    const oldest = room?.timeline.find((entry) => entry.kind === 'message');
    if (!room?.joined || room.paging || !oldest) return;
    room.paging = true;
    $('older').disabled = true;
    const { answer, lost } = await request(this.socket, 'room_history', { roomId: room.id, before: oldest.key, limit: PAGE_SIZE });
    if (answer?.success && Array.isArray(answer.messages)) {
      this.mergeHistory(room, answer.messages, true);
      room.atStart = answer.messages.length < PAGE_SIZE;
    } else {
      toast(`No older messages: ${lost ?? answer?.error ?? 'the node did not say why'}`);
    }
    room.paging = false;
    this.paint();
  },

  /** Says `typing_start` at the first key and again while keys keep coming; `typing_stop` after a pause. */
  typed() {
    this.fitComposer();
    const room = this.rooms.get(this.active);
    if (!room?.joined) return;
    if ($('message').value.trim() === '') {
      this.stopTyping();
      return;
    }
    const now = performance.now();
    if (this.typingTo !== room.id || now - this.typingSentAt > TYPING_REPEAT_MS) {
      this.typingTo = room.id;
      this.typingSentAt = now;
      this.socket.emit('typing_start', room.id);
    }
    clearTimeout(this.typingTimer);
    this.typingTimer = setTimeout(() => this.stopTyping(), TYPING_IDLE_MS);
  },

  stopTyping() {
    clearTimeout(this.typingTimer);
    if (this.typingTo !== null && this.socket?.connected) this.socket.emit('typing_stop', this.typingTo);
    this.typingTo = null;
  },

  fitComposer() {
    const box = $('message');
    box.style.height = 'auto';
    box.style.height = `${box.scrollHeight + 2}px`;
    const length = [...box.value.trim()].length;
    setText($('count'), length > MESSAGE_CHARS_MAX - 200 ? `${length} / ${MESSAGE_CHARS_MAX}` : '');
    $('count').toggleAttribute('data-over', length > MESSAGE_CHARS_MAX);
    this.paintComposer();
  },

  // ---- painting

  paint() {
    this.paintRooms();
    this.paintRoom();
  },

  paintRooms() {
    const tabs = [...this.rooms.values()].map((room) => {
      room.tab ??= el('li', {}, el('button', { type: 'button', class: 'tab', onclick: () => this.show(room.id) },
        el('b', {}, el('i', { text: '# ', 'aria-hidden': 'true' }), room.id), el('span', { class: 'badge' }), el('small')));
      const [tab] = room.tab.children;
      const [, badge, last] = tab.children;
      if (room.id === this.active) tab.setAttribute('aria-current', 'true');
      else tab.removeAttribute('aria-current');
      tab.toggleAttribute('data-unread', room.unread > 0);
      badge.hidden = room.unread === 0;
      setText(badge, String(room.unread));
      badge.setAttribute('aria-label', `${room.unread} unread`);
      const message = room.timeline.findLast((entry) => entry.kind === 'message');
      setText(last, message ? `${message.userId === session.user.id ? 'You' : message.name}: ${message.text}` : '');
      return room.tab;
    });
    place($('room-list'), tabs);
    const unread = [...this.rooms.values()].reduce((sum, room) => sum + room.unread, 0);
    $('chat-badge').hidden = unread === 0;
    setText($('chat-badge'), String(unread));
    document.title = unread > 0 ? `(${unread}) Muster` : 'Muster';
  },

  /** `keepPlace`: something was put above what the person reads, which must not move. */
  paintRoom(keepPlace = false) {
    const room = this.rooms.get(this.active);
    $('room').hidden = !room;
    $('room-empty').hidden = Boolean(room);
    const gone = this.gone();
    $('suggestions').hidden = gone;
    setText($('room-empty-title'), gone ? 'No chat on this node' : 'No room yet');
    setText($('room-empty-text'), gone ? `Nothing answers on the namespace ${CHAT}.` : 'A room comes into being when somebody joins it.');
    if (!room) return;
    setText($('room-name'), `# ${room.id}`);
    setText($('room-note'), this.roomNote(room));
    this.paintComposer();
    this.paintMembers();
    this.paintTyping();
    $('older').hidden = room.atStart || room.timeline.length === 0 || room.timeline.length >= 2 * TIMELINE_MAX;
    $('older').disabled = room.paging || !room.joined;
    $('room-start').hidden = !room.atStart;

    const box = $('timeline');
    const fromBottom = box.scrollHeight - box.scrollTop;
    place($('messages'), this.timelineNodes(room));
    if (room.stick) box.scrollTop = box.scrollHeight;
    else if (keepPlace) box.scrollTop = box.scrollHeight - fromBottom;
    this.paintNewest();
  },

  /** Connected, but not to the chat: the node does not have it, or has put this socket out. */
  gone() {
    return linkState() === 'connected' && !this.socket?.active;
  },

  roomNote(room) {
    if (room.refusal) return room.refusal;
    if (room.joined) return '';
    if (this.gone()) return room.everJoined ? 'disconnected by the node' : 'no chat on this node';
    return linkState() === 'connected' ? 'joining…' : 'not connected';
  },

  paintComposer() {
    const room = this.rooms.get(this.active);
    const text = $('message').value.trim();
    $('send').disabled = !room?.joined || text === '' || [...text].length > MESSAGE_CHARS_MAX;
    $('message').setAttribute('aria-label', room ? `Message to ${room.id}` : 'Message');
  },

  timelineNodes(room) {
    const nodes = new Map();
    let previous = null;
    let day = '';
    for (const entry of [...room.timeline, ...room.pending]) {
      const ownDay = entry.at.toDateString();
      if (ownDay !== day) {
        day = ownDay;
        const key = `day ${day}`;
        nodes.set(key, room.nodes.get(key) ?? el('li', { class: 'day', text: dayName.format(entry.at) }));
        previous = null;
      }
      let node = room.nodes.get(entry.key);
      if (entry.kind === 'notice') {
        node ??= el('li', { class: 'notice' });
        setText(node, `${this.nameOf(entry.userId)} ${entry.text} · ${clock.format(entry.at)}`);
        previous = null;
      } else {
        node ??= this.messageNode(entry);
        this.paintMessage(room, node, entry);
        const first = !previous || previous.userId !== entry.userId || entry.at - previous.at > GROUP_MS;
        node.classList.toggle('first', first);
        previous = entry;
      }
      nodes.set(entry.key, node);
    }
    room.nodes = nodes;
    return [...nodes.values()];
  },

  messageNode(entry) {
    const own = entry.userId === session.user.id;
    return el('li', { class: `msg ${own ? 'own' : ''} ${hueOf(entry.userId)}` },
      el('span', { class: `avatar ${hueOf(entry.userId)}`, 'aria-hidden': 'true', text: initials(entry.name) }),
      el('p', { class: 'who', text: own ? 'You' : entry.name }),
      el('div', { class: 'bubble' },
        el('span', { class: 'text', text: entry.text }),
        el('span', { class: 'meta' }, el('time'), el('span', { class: 'mark', role: 'img' }))));
  },

  paintMessage(room, node, entry) {
    if (node.dataset.state === entry.state && node.dataset.key === entry.key) return;
    Object.assign(node.dataset, { state: entry.state, key: entry.key });
    const time = node.querySelector('time');
    time.dateTime = Number.isNaN(entry.at.getTime()) ? '' : entry.at.toISOString();
    time.title = time.dateTime ? fullTime.format(entry.at) : '';
    setText(time, time.dateTime ? clock.format(entry.at) : '');
    const own = entry.userId === session.user.id;
    const mark = node.querySelector('.mark');
    mark.hidden = !own;
    const [sign, label] = { sending: ['·', 'sending'], sent: ['·', 'accepted'], failed: ['!', 'not sent'], stored: ['✓', 'stored'] }[entry.state];
    setText(mark, sign);
    mark.setAttribute('aria-label', label);
    mark.title = label;
    node.querySelector('.failure')?.remove();
    if (entry.state !== 'failed') return;
    node.append(el('p', { class: 'failure', role: 'alert' },
      el('span', { text: `Not sent: ${entry.error}` }),
      el('button', { type: 'button', class: 'quiet', text: 'Retry', onclick: () => this.retry(room, entry) }),
      el('button', { type: 'button', class: 'quiet', text: 'Discard', onclick: () => this.discard(room, entry) })));
  },

  paintTyping() {
    const room = this.rooms.get(this.active);
    const line = $('typing');
    const names = room ? [...room.typing.keys()].map((userId) => this.nameOf(userId)) : [];
    const text = names.length === 0 ? ''
      : names.length === 1 ? `${names[0]} is typing`
        : names.length < 4 ? `${names.slice(0, -1).join(', ')} and ${names.at(-1)} are typing`
          : `${names.length} people are typing`;
    if (line.dataset.text === text) return;
    line.dataset.text = text;
    line.replaceChildren();
    if (text) line.append(el('span', { text }), el('span', { class: 'dots', 'aria-hidden': 'true' }, el('i'), el('i'), el('i')));
    this.paintMembers();
  },

  paintMembers() {
    const room = this.rooms.get(this.active);
    if (!room) return;
    const rank = { here: 0, maybe: 1, before: 2, earlier: 3, left: 4 };
    const me = session.user.id;
    const list = [...room.members].sort(([a, x], [b, y]) =>
      (b === me) - (a === me) || rank[x.state] - rank[y.state] || collator.compare(this.nameOf(a), this.nameOf(b)));
    place($('member-list'), list.map(([userId, member]) => this.memberNode(room, userId, member)));
    setText($('members-count'), String(list.length));
    setText($('members-seen'), String(list.length));
  },

  memberNode(room, userId, member) {
    const name = this.nameOf(userId);
    member.node ??= el('li', { class: 'member' }, el('span', { class: `avatar ${hueOf(userId)}`, 'aria-hidden': 'true' }), el('b'), el('small'));
    const [avatar, label, note] = member.node.children;
    member.node.dataset.here = room.joined && (member.state === 'here' || room.typing.has(userId)) ? 'yes' : 'no';
    member.node.title = [name, this.people.get(userId)?.email, userId].filter(Boolean).join('\n');
    setText(avatar, initials(name));
    setText(label, name);
    const at = member.at ? ` ${clock.format(member.at)}` : '';
    const notes = { here: 'here', maybe: 'came or left in one of your rooms', before: 'seen before reconnecting', earlier: `wrote${at}`, left: `left${at}` };
    setText(note, userId === session.user.id ? 'you' : room.typing.has(userId) ? 'typing…' : notes[member.state]);
    return member.node;
  },

  /** The button that leads back down, when the person has scrolled up. */
  paintNewest() {
    const room = this.rooms.get(this.active);
    $('newest').hidden = !room || room.stick;
    if (room) setText($('newest'), room.below > 0 ? `${room.below} new ↓` : 'Latest ↓');
  },

  scrolled() {
    const room = this.rooms.get(this.active);
    const box = $('timeline');
    if (!room || box.clientHeight === 0) return;
    room.stick = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    if (room.stick) room.below = 0;
    this.paintNewest();
  },

  /** The timeline's box changed, by a keyboard, a longer draft or a turned phone. */
  resized() {
    if (this.rooms.get(this.active)?.stick) $('timeline').scrollTop = $('timeline').scrollHeight;
  },
};

// --------------------------------------------------------------------------------------------- relay

const relay = {
  socket: null,
  rooms: new Map(),
  membersOf: null,

  attach(socket) {
    this.socket = socket;
    socket.on('connect', () => {
      for (const room of this.rooms.keys()) request(socket, 'join', { room });
    });
    socket.onAny((event, ...args) => {
      if (socket === this.socket) this.received(event, args);
    });
  },

  clear() {
    this.rooms.clear();
    this.membersOf = null;
    $('relay-lines').replaceChildren();
    setText($('relay-result'), '');
    $('relay-members').hidden = true;
  },

  ready() {
    if (this.socket?.connected) return true;
    this.result('Not connected', true);
    return false;
  },

  async join(event) {
    event.preventDefault();
    const room = $('relay-join-room').value.trim();
    if (!room || !this.ready()) return;
    const outcome = await request(this.socket, 'join', { room });
    if (outcome.answer?.success) {
      this.rooms.set(room, null);
      $('relay-join-room').value = '';
      if (!$('relay-room').value) $('relay-room').value = room;
    } else {
      toast(`Could not join ${room}: ${outcome.lost ?? outcome.answer?.error}`);
    }
    this.paint();
  },

  async leave(room) {
    if (!this.ready()) return;
    const outcome = await request(this.socket, 'leave', { room });
    if (outcome.answer?.success) this.rooms.delete(room);
    else toast(`Could not leave ${room}: ${outcome.lost ?? outcome.answer?.error}`);
    if (this.membersOf === room) $('relay-members').hidden = true;
    this.paint();
  },

  async members(room) {
    if (!this.ready()) return;
    const outcome = await request(this.socket, 'members', { room });
    if (!outcome.answer?.success) {
      toast(`No members of ${room}: ${outcome.lost ?? outcome.answer?.error}`);
      return;
    }
    const { members, count, users } = outcome.answer;
    this.membersOf = room;
    setText($('relay-members-title'), `${room}: ${count} ${count === 1 ? 'socket' : 'sockets'} of ${users} ${users === 1 ? 'user' : 'users'}`);
    $('relay-members-body').replaceChildren(...members.map((member) => el('tr', {},
      el('td', { text: member.displayName ?? member.userId, title: member.userId }),
      el('td', { class: 'mono', text: member.socketId }),
      el('td', { text: clock.format(new Date(member.connectedAt)), title: fullTime.format(new Date(member.connectedAt)) }))));
    $('relay-members').hidden = false;
  },

  /** The editor's value, or nothing when it is not JSON; the note beside it says why. */
  data() {
    const note = $('relay-data-note');
    try {
      const value = JSON.parse($('relay-data').value);
      setText(note, 'valid');
      note.removeAttribute('data-bad');
      $('relay-data').removeAttribute('aria-invalid');
      return { value };
    } catch (error) {
      setText(note, error.message);
      note.setAttribute('data-bad', '');
      $('relay-data').setAttribute('aria-invalid', 'true');
      return null;
    }
  },

  async publish(event) {
    event.preventDefault();
    const data = this.data();
    if (!data || !this.ready()) return;
    const body = { room: $('relay-room').value.trim(), event: $('relay-event').value.trim(), data: data.value };
    if (!$('relay-self').checked) body.self = false;
    const outcome = await request(this.socket, 'publish', body);
    if (outcome.answer?.success) this.result(`Published in ${outcome.ms.toFixed(1)} ms`, false);
    else this.result(outcome.lost ?? String(outcome.answer?.error), true);
  },

  async echo() {
    const data = this.data();
    if (!data || !this.ready()) return;
    const outcome = await request(this.socket, 'echo', data.value);
    if (outcome.lost) this.result(outcome.lost, true);
    else this.result(`${toJson(outcome.answer)}\nback in ${outcome.ms.toFixed(1)} ms`, false);
  },

  format() {
    const data = this.data();
    if (data) $('relay-data').value = JSON.stringify(data.value, null, 2);
  },

  result(text, bad) {
    setText($('relay-result'), text);
    $('relay-result').toggleAttribute('data-bad', bad);
  },

  received(event, args) {
    const line = lineNode({ at: new Date(), dir: 'in', event, args }, false);
    addLine($('relay-lines'), line, RELAY_LINES_MAX);
  },

  paint() {
    const list = (claim) => (Array.isArray(claim) && claim.length > 0 ? claim.join(', ') : 'nothing');
    setText($('relay-claims'), `This token may join ${list(session.claims.rooms)} and publish to ${list(session.claims.publish)}.`);
    const gone = linkState() === 'connected' && this.socket && !this.socket.active;
    $('relay-alert').hidden = !gone;
    setText($('relay-alert'), `This node has no relay on ${RELAY}, or refuses this token there.`);
    for (const [room, node] of this.rooms) {
      if (node) continue;
      this.rooms.set(room, el('li', {}, el('b', { class: 'mono', text: room }),
        el('button', { type: 'button', class: 'quiet', text: 'Members', 'aria-label': `Members of ${room}`, onclick: () => this.members(room) }),
        el('button', { type: 'button', class: 'quiet', text: 'Leave', 'aria-label': `Leave ${room}`, onclick: () => this.leave(room) })));
    }
    place($('relay-rooms'), [...this.rooms.values()]);
    $('relay-room-names').replaceChildren(...[...this.rooms.keys()].map((room) => el('option', { value: room })));
  },
};

// ----------------------------------------------------------------------------------------------- log

const DIRECTIONS = { in: ['↓', 'in'], out: ['↑', 'out'], sys: ['·', 'link'] };

/** One line of a list of events: a summary that opens into the indented JSON. */
function lineNode({ at, dir, namespace, event, args }, full) {
  const value = args.length === 1 ? args[0] : args;
  const summary = el('summary', {}, el('span', { class: 'at', text: preciseTime(at) }));
  if (full) {
    const [sign, label] = DIRECTIONS[dir];
    summary.append(el('span', { class: 'dir', role: 'img', text: sign, title: label, 'aria-label': label }), el('span', { class: 'ns', text: namespace }));
  }
  summary.append(el('span', { class: 'event', text: event }), el('span', { class: 'json', text: args.length > 0 ? toJson(value) : '' }));
  const details = el('details', {}, summary);
  // The indented form costs as much again; most lines are never opened.
  details.addEventListener('toggle', () => {
    if (details.open && details.children.length === 1) details.append(el('pre', { text: toJson(value, 2) }));
  });
  const node = el('li', {}, details);
  node.dataset.dir = dir;
  return node;
}

/** Appends, keeps the bound, and follows the end only if the reader was there. */
function addLine(list, node, max) {
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(node);
  while (list.children.length > max) list.firstElementChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

const log = {
  lines: [],
  waiting: [],
  paused: false,
  pings: false,

  add(dir, namespace, event, args) {
    const line = { at: new Date(), dir, namespace, event, args };
    line.text = `${namespace} ${event} ${toJson(args)}`.toLowerCase();
    const list = this.paused ? this.waiting : this.lines;
    list.push(line);
    if (list.length > LOG_LINES_MAX) list.shift();
    if (!this.paused && this.matches(line)) this.show(line);
    this.paintCount();
  },

  matches(line) {
    const direction = $('log-direction').value;
    return (!direction || line.dir === direction) && line.text.includes($('log-filter').value.trim().toLowerCase());
  },

  show(line) {
    addLine($('log-lines'), lineNode(line, true), LOG_LINES_MAX);
  },

  repaint() {
    $('log-lines').replaceChildren();
    for (const line of this.lines) if (this.matches(line)) this.show(line);
    this.paintCount();
  },

  pause() {
    this.paused = !this.paused;
    $('log-pause').setAttribute('aria-pressed', String(this.paused));
    setText($('log-pause'), this.paused ? 'Resume' : 'Pause');
    if (!this.paused) {
      this.lines = [...this.lines, ...this.waiting].slice(-LOG_LINES_MAX);
      this.waiting = [];
      this.repaint();
    }
    this.paintCount();
  },

  clear() {
    this.lines = [];
    this.waiting = [];
    this.repaint();
  },

  paintCount() {
    const shown = $('log-lines').children.length;
    const parts = [shown === this.lines.length ? `${shown} lines` : `${shown} of ${this.lines.length} lines`];
    if (this.paused) parts.push(`${this.waiting.length} waiting`);
    setText($('log-count'), parts.join(' · '));
    setText($('log-nothing'), this.lines.length > 0 ? 'No line matches the filter.' : 'Nothing yet. Every event of this page’s sockets appears here, in both directions.');
  },
};

// --------------------------------------------------------------------------------------------- views

const views = {
  current: 'chat',

  show(name) {
    this.current = name;
    memory.set('view', name);
    this.paint();
    if (name === 'chat') {
      chat.markRead();
      chat.paint();
    }
    if (name === 'log') $('log-lines').scrollTop = $('log-lines').scrollHeight;
  },

  /** The log can be read by anybody who has the page open; every other view needs a token. */
  paint() {
    const open = session.token !== null || this.current === 'log';
    $('sign-in').hidden = open;
    for (const view of document.querySelectorAll('.view')) view.hidden = !open || view.dataset.view !== this.current;
    for (const button of document.querySelectorAll('#views button')) {
      if (button.dataset.view === this.current) button.setAttribute('aria-current', 'page');
      else button.removeAttribute('aria-current');
    }
  },
};

// --------------------------------------------------------------------------------------------- start

function listen() {
  $('views').addEventListener('click', (event) => {
    const button = event.target.closest('button');
    if (button) views.show(button.dataset.view);
  });

  $('token-form').addEventListener('submit', (event) => {
    event.preventDefault();
    const token = $('token').value.trim();
    if (!token) return;
    $('token').value = '';
    showSignInAlert(null);
    useToken(token);
  });
  $('token').addEventListener('keydown', (event) => {
    if (event.key !== 'Enter') return;
    event.preventDefault();
    $('token-form').requestSubmit();
  });
  $('login-form').addEventListener('submit', login);
  $('sign-out').addEventListener('click', () => signOut(null));

  $('transport').addEventListener('change', () => {
    memory.set('transport', $('transport').value);
    if (session.wanted) connect();
  });
  $('link-toggle').addEventListener('click', () => {
    if (!session.wanted) {
      connect();
      return;
    }
    session.problem = '';
    disconnect();
  });
  $('link-more').addEventListener('click', () => {
    const open = $('link').classList.toggle('open');
    $('link-more').setAttribute('aria-expanded', String(open));
  });

  $('join-form').addEventListener('submit', (event) => {
    event.preventDefault();
    const id = $('join-room').value.trim().replace(/^#/, '');
    if (!id) return;
    $('join-form').reset();
    $('join-form').classList.remove('open');
    $('join-open').setAttribute('aria-expanded', 'false');
    chat.join(id);
  });
  $('join-open').addEventListener('click', () => {
    const open = $('join-form').classList.toggle('open');
    $('join-open').setAttribute('aria-expanded', String(open));
    if (open) $('join-room').focus();
  });
  for (const button of document.querySelectorAll('[data-join]')) button.addEventListener('click', () => chat.join(button.dataset.join));
  $('leave').addEventListener('click', () => chat.leave());
  const drawer = (open) => {
    $('members').hidden = !open;
    $('members-toggle').setAttribute('aria-expanded', String(open));
  };
  $('members-toggle').addEventListener('click', () => drawer($('members').hidden));
  $('view-chat').addEventListener('keydown', (event) => {
    if (event.key === 'Escape') drawer(false);
  });
  $('older').addEventListener('click', () => chat.older());
  $('timeline').addEventListener('scroll', () => chat.scrolled());
  new ResizeObserver(() => chat.resized()).observe($('timeline'));
  $('newest').addEventListener('click', () => {
    $('timeline').scrollTop = $('timeline').scrollHeight;
    $('message').focus();
  });
  $('composer').addEventListener('submit', (event) => chat.submit(event));
  $('message').addEventListener('input', () => chat.typed());
  $('message').addEventListener('blur', () => chat.stopTyping());
  $('message').addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) chat.submit(event);
  });

  $('relay-join').addEventListener('submit', (event) => relay.join(event));
  $('relay-publish').addEventListener('submit', (event) => relay.publish(event));
  $('relay-echo').addEventListener('click', () => relay.echo());
  $('relay-format').addEventListener('click', () => relay.format());
  $('relay-data').addEventListener('input', () => relay.data());
  $('relay-clear').addEventListener('click', () => $('relay-lines').replaceChildren());

  $('log-tools').addEventListener('submit', (event) => event.preventDefault());
  $('log-filter').addEventListener('input', () => log.repaint());
  $('log-direction').addEventListener('change', () => log.repaint());
  $('log-pings').addEventListener('change', () => { log.pings = $('log-pings').checked; });
  $('log-pause').addEventListener('click', () => log.pause());
  $('log-clear').addEventListener('click', () => log.clear());

  window.addEventListener('hashchange', () => {
    const token = takeTokenFromAddress();
    if (token) useToken(token);
  });
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) return;
    chat.markRead();
    checkHealth();
    ping.now();
  });
}

function start() {
  listen();
  $('relay-data').value = '{\n  "hello": "world"\n}';
  relay.data();
  log.paintCount();
  const transport = memory.get('transport');
  if (Object.hasOwn(TRANSPORTS, transport ?? '')) $('transport').value = transport;
  const view = memory.get('view');
  if ([...document.querySelectorAll('#views button')].some((button) => button.dataset.view === view)) views.current = view;

  const token = takeTokenFromAddress() ?? memory.get('token');
  if (typeof token === 'string') useToken(token);
  else paint();

  checkHealth();
  setInterval(() => { if (!document.hidden) checkHealth(); }, HEALTH_EVERY_MS);
  setInterval(() => {
    if (document.hidden) return;
    ping.now();
    paintLink();
  }, PING_EVERY_MS);
}

start();
