// Care: conversations with users and in rooms, with the delivery status of messages (document 004). Their
// appearance is in `care_view.js`; presence, notifications and calls are separate parts.
//
// A conversation with a user is addressed by `recipientId`. The page also tries to enter the room `chat:<a>:<b>` of
// the two, because typing events are only sent to rooms.

import './notifications.js';
import { face } from './care_view.js';
import { timeOf } from './bubbles.js';
import { $, empty, memory, setBounded, setText, toast } from './page.js';
import { presence } from './presence.js';
import { failureOf, parts, request, session } from './session.js';
import { views } from './views.js';

const CONVERSATIONS_MAX = 200;
const MESSAGES_MAX = 1_000;
const PEOPLE_MAX = 500;
const PAGE_SIZE = 50;
const READ_AT_ONCE = 100;
const TYPING_IDLE_MS = 2_500;
const TYPING_REPEAT_MS = 4_000;
// Longer than two repeats, so that one lost `typing:start` does not make the indicator flicker.
const TYPING_EXPIRES_MS = 9_000;
const EARLY_MAX = 100;
const RANK = { sending: 0, failed: 0, sent: 1, delivered: 2, read: 3 };

/** Escapes an id in the name of a room of two users. */
const escaped = (id) => id.replaceAll('%', '%25').replaceAll(':', '%3A');

/** A status never goes back. */
const further = (one, other) => (RANK[one] > (RANK[other] ?? -1) ? one : other);

const isStored = (message) => RANK[message.status] > 0;

export const care = {
  ...face,

  socket: null,
  // The app greets every client with `connected`; a namespace without the app does not.
  present: false,
  conversations: new Map(),
  active: null,
  // Names from messages and rooms.
  people: new Map(),
  // Status events of messages whose ack has not arrived yet: id → status.
  early: new Map(),
  files: [],
  typingTo: null,
  typingTimer: undefined,
  typingSentAt: 0,
  nextKey: 0,

  attach({ main }) {
    this.socket = main;
    this.present = false;
    const on = (event, react) => main.on(event, (value) => {
      if (main === this.socket && value !== null && typeof value === 'object') react.call(this, value);
    });
    main.on('disconnect', () => { if (main === this.socket) this.away(); });
    on('connected', this.onConnected);
    on('message:new', (message) => this.onMessage(message));
    on('message:sent', (message) => this.onMessage(message));
    on('message:status', this.onStatus);
    on('typing:start', (who) => this.onTyping(who, true));
    on('typing:stop', (who) => this.onTyping(who, false));
    on('room:userJoined', (who) => this.onRoomUser(who, true));
    on('room:userLeft', (who) => this.onRoomUser(who, false));
  },

  detach() {
    this.away();
  },

  /** The connection is gone, and with it the rooms. The conversations stay readable. */
  away() {
    this.present = false;
    clearTimeout(this.typingTimer);
    this.typingTo = null;
    for (const conversation of this.conversations.values()) {
      conversation.joined = false;
      conversation.here.clear();
      for (const timer of conversation.typing.values()) clearTimeout(timer);
      conversation.typing.clear();
    }
    this.paint();
  },

  clear() {
    this.conversations.clear();
    this.people.clear();
    Object.assign(this, { active: null, files: [] });
    this.early.clear();
    $('care-message').value = '';
    empty('care-name', 'care-note', 'care-messages', 'care-typing', 'care-attached');
    this.paint();
  },

  forget() {
    memory.set('care', null);
  },

  remember() {
    const open = [...this.conversations.values()].filter((one) => one.opened).map(({ peerId, roomId }) => ({ peerId, roomId: peerId ? null : roomId }));
    memory.set('care', { user: session.user.id, open: open.slice(-CONVERSATIONS_MAX), active: this.active });
  },

  recall() {
    const saved = memory.get('care');
    if (saved?.user !== session.user.id || !Array.isArray(saved.open)) return;
    for (const { peerId, roomId } of saved.open) {
      if (peerId || roomId) this.conversation({ peerId, roomId }).opened = true;
    }
    if (this.conversations.has(saved.active)) this.active = saved.active;
  },

  shown(view) {
    if (view === 'care') this.seen();
  },

  seen() {
    this.markRead();
    this.paint();
  },

  // ---- what this page knows

  /** The conversation with a user or in a room. Creates it if necessary. */
  conversation({ peerId = null, roomId = null }) {
    const key = peerId ? `user ${peerId}` : `room ${roomId}`;
    let one = this.conversations.get(key);
    if (!one) {
      const me = session.user.id;
      const pair = peerId ? `chat:${[me, peerId].sort().map(escaped).join(':')}` : null;
      one = {
        key, peerId, roomId: peerId ? pair : roomId, opened: false, joined: false, refusal: '', loaded: false, paging: false, atStart: false,
        messages: new Map(), readSent: new Set(), nodes: new Map(), unread: 0, last: null, here: new Map(), typing: new Map(), draft: '',
      };
      setBounded(this.conversations, key, one, CONVERSATIONS_MAX);
    }
    return one;
  },

  /** The conversation that a message belongs to. */
  conversationOf(message) {
    const me = session.user.id;
    if (message.recipientId) return this.conversation({ peerId: message.senderId === me ? message.recipientId : message.senderId });
    const roomId = message.roomId ?? (message.visitId ? `visit:${message.visitId}` : null);
    if (!roomId) return null;
    return this.conversation(this.targetOf(roomId));
  },

  /** Maps the room of this user and another one to the conversation with that user. */
  targetOf(roomId) {
    const [kind, ...pair] = roomId.split(':');
    const peerId = kind === 'chat' && pair.length === 2 && pair.includes(session.user.id) ? pair.find((id) => id !== session.user.id) : null;
    return peerId ? { peerId } : { roomId };
  },

  nameOf(userId) {
    return userId === session.user.id ? session.user.name : (this.people.get(userId) ?? String(userId));
  },

  titleOf({ peerId, roomId }) {
    return peerId ? this.nameOf(peerId) : roomId;
  },

  learn(userId, name) {
    if (typeof userId === 'string' && typeof name === 'string' && name) setBounded(this.people, userId, name, PEOPLE_MAX);
  },

  isVisible(one) {
    return one.key === this.active && views.isOpen('care');
  },

  /** The address of the conversation for the node. */
  address({ peerId, roomId }) {
    return peerId ? { recipientId: peerId } : { roomId };
  },

  // ---- events from the node

  async onConnected() {
    this.present = true;
    this.paint();
    const { socket } = this;
    const { answer } = await request(socket, 'message:conversations', { limit: PAGE_SIZE });
    if (socket !== this.socket) return;
    for (const { recipientId, roomId, lastMessage, unreadCount } of answer?.success ? answer.conversations : []) {
      if (!recipientId && !roomId) continue;
      const one = this.conversation(recipientId ? { peerId: recipientId } : this.targetOf(roomId));
      one.unread = Number(unreadCount) || 0;
      if (lastMessage) {
        this.learn(lastMessage.senderId, lastMessage.senderName);
        one.last = lastMessage;
      }
    }
    for (const one of this.conversations.values()) if (one.opened || one.key === this.active) this.enter(one);
    presence.follow([...this.conversations.values()].map((one) => one.peerId).filter(Boolean));
    this.paint();
  },

  onMessage(message) {
    if (typeof message.id !== 'string') return;
    this.learn(message.senderId, message.senderName);
    const one = this.conversationOf(message);
    if (!one) return;
    const isNew = !one.messages.has(message.id);
    this.take(one, message);
    one.last = message;
    this.stopped(one, message.senderId);
    if (isNew && message.senderId !== session.user.id) {
      if (!this.isVisible(one)) one.unread += 1;
      setText($('announcer'), `${this.nameOf(message.senderId)}: ${message.message}`);
    }
    if (one.peerId) presence.follow([one.peerId]);
    this.markRead();
    this.paint();
  },

  /** A stored message, newest last. */
  take(one, message) {
    const status = [one.messages.get(message.id)?.status, this.early.get(message.id)].reduce(further, message.status);
    one.messages.set(message.id, { ...message, status });
    while (one.messages.size > MESSAGES_MAX + PAGE_SIZE) {
      one.messages.delete(one.messages.keys().next().value);
      one.atStart = false;
    }
  },

  onStatus({ messageId, status }) {
    const one = [...this.conversations.values()].find((other) => other.messages.has(messageId));
    if (!one) {
      setBounded(this.early, messageId, further(this.early.get(messageId), status), EARLY_MAX);
      return;
    }
    const message = one.messages.get(messageId);
    message.status = further(message.status, status);
    if (one.key === this.active) this.paintTimeline(one);
  },

  onTyping({ roomId, userId, displayName }, typing) {
    if (userId === session.user.id || typeof roomId !== 'string') return;
    this.learn(userId, displayName);
    const one = [...this.conversations.values()].find((other) => other.roomId === roomId);
    if (!one) return;
    this.stopped(one, userId);
    if (typing) one.typing.set(userId, setTimeout(() => { this.stopped(one, userId); this.paintTyping(); }, TYPING_EXPIRES_MS));
    this.paintTyping();
  },

  stopped(one, userId) {
    clearTimeout(one.typing.get(userId));
    one.typing.delete(userId);
  },

  onRoomUser({ roomId, userId, displayName }, joined) {
    this.learn(userId, displayName);
    const one = [...this.conversations.values()].find((other) => other.roomId === roomId);
    if (!one) return;
    if (joined) setBounded(one.here, userId, true, PEOPLE_MAX);
    else one.here.delete(userId);
    if (!joined) this.stopped(one, userId);
    this.paint();
  },

  // ---- what the user does

  open(kind, id) {
    const one = this.conversation(kind === 'user' ? { peerId: id } : this.targetOf(kind === 'room' ? id : `${kind}:${id}`));
    this.show(one);
    if (matchMedia('(hover: hover)').matches) $('care-message').focus();
  },

  show(one) {
    const before = this.conversations.get(this.active);
    if (before && before !== one) {
      this.stopTyping();
      before.draft = $('care-message').value;
      this.files = [];
    }
    if (this.active !== one.key) $('care-message').value = one.draft;
    this.active = one.key;
    one.opened = true;
    this.remember();
    this.paint();
    this.fitComposer();
    this.enter(one);
    this.markRead();
  },

  /** Enters the room and reads the newest page. */
  async enter(one) {
    if (!this.present) return;
    const { socket } = this;
    if (one.peerId) presence.follow([one.peerId]);
    if (one.roomId && !one.joined) {
      const outcome = await request(socket, 'room:join', { roomId: one.roomId });
      if (socket !== this.socket) return;
      if (outcome.answer?.success) {
        Object.assign(one, { joined: true, refusal: '' });
        one.here.clear();
        for (const { userId, displayName } of (outcome.answer.participants ?? []).slice(0, PEOPLE_MAX)) {
          this.learn(userId, displayName);
          one.here.set(userId, true);
        }
      } else {
        one.refusal = one.peerId ? '' : failureOf(outcome);
      }
    }
    if (!one.refusal) await this.page(one, {});
    this.markRead();
    this.paint();
  },

  /** Loads a page of history: the newest, or the one `before` a message. */
  async page(one, { before }) {
    const { socket } = this;
    const outcome = await request(socket, 'message:history', { ...this.address(one), limit: PAGE_SIZE, ...(before ? { before } : {}) });
    if (socket !== this.socket) return;
    if (!outcome.answer?.success) {
      toast(`No messages: ${failureOf(outcome)}`);
      return;
    }
    const { messages, hasMore } = outcome.answer;
    const touches = Boolean(before) || messages.some(({ id }) => one.messages.has(id));
    // If the newest page overlaps no known message, there is a gap before it: drop the messages before the gap.
    const start = timeOf(messages[0]?.timestamp);
    const kept = [...one.messages.values()].filter((message) => touches || !isStored(message) || timeOf(message.timestamp) >= start);
    // Messages that came live before the first page do not show whether older ones exist.
    if (before || !touches || !one.loaded) one.atStart = !hasMore;
    one.loaded = true;
    one.messages = new Map(kept.map((message) => [message.id, message]));
    for (const message of messages) {
      this.learn(message.senderId, message.senderName);
      this.take(one, message);
    }
    one.messages = new Map([...one.messages].sort(([, a], [, b]) => timeOf(a.timestamp) - timeOf(b.timestamp) || (a.id < b.id ? -1 : 1)));
    one.last = [...one.messages.values()].at(-1) ?? one.last;
  },

  async older() {
    const one = this.conversations.get(this.active);
    const oldest = [...(one?.messages.values() ?? [])].find(isStored);
    if (!oldest || one.paging) return;
    one.paging = true;
    this.paint();
    await this.page(one, { before: oldest.id });
    one.paging = false;
    this.paint(true);
  },

  close() {
    const one = this.conversations.get(this.active);
    if (!one) return;
    this.stopTyping();
    if (one.joined) request(this.socket, 'room:leave', { roomId: one.roomId });
    Object.assign(one, { opened: false, joined: false });
    one.here.clear();
    if (one.messages.size === 0) this.conversations.delete(one.key);
    this.active = null;
    this.remember();
    this.paint();
    $('care-open-id').focus();
  },

  /** Marks the visible messages as read. */
  markRead() {
    const one = this.conversations.get(this.active);
    if (!one || !this.isVisible(one) || !this.present) return;
    one.unread = 0;
    const ids = [...one.messages.values()]
      .filter((message) => message.senderId !== session.user.id && message.status !== 'read' && !one.readSent.has(message.id))
      .map(({ id }) => id);
    for (let at = 0; at < ids.length; at += READ_AT_ONCE) {
      const messageIds = ids.slice(at, at + READ_AT_ONCE);
      for (const id of messageIds) one.readSent.add(id);
      request(this.socket, 'message:read', { messageIds });
    }
    for (const id of one.readSent) if (!one.messages.has(id)) one.readSent.delete(id);
  },

  submit(event) {
    event?.preventDefault();
    const one = this.conversations.get(this.active);
    const text = $('care-message').value.trim();
    if (!one || !this.present || (text === '' && this.files.length === 0)) return;
    this.stopTyping();
    const attachments = this.files;
    $('care-message').value = '';
    Object.assign(one, { draft: '' });
    this.files = [];
    this.nextKey += 1;
    this.fitComposer();
    this.send(one, { id: `waiting ${this.nextKey}`, senderId: session.user.id, senderName: session.user.name, message: text, attachments });
  },

  async send(one, waiting) {
    Object.assign(waiting, { status: 'sending', timestamp: new Date().toISOString(), error: '' });
    one.messages.delete(waiting.id);
    one.messages.set(waiting.id, waiting);
    this.paint(false, true);
    const { message, attachments } = waiting;
    const outcome = await request(this.socket, 'message:send', { ...this.address(one), message, ...(attachments.length > 0 ? { attachments } : {}) });
    if (outcome.answer?.success) {
      one.messages.delete(waiting.id);
      this.take(one, outcome.answer.message);
      one.last = outcome.answer.message;
    } else {
      Object.assign(waiting, { status: 'failed', error: failureOf(outcome) });
    }
    this.paint();
  },

  discard(one, waiting) {
    one.messages.delete(waiting.id);
    this.paint();
  },

  /** Sends `typing:start` at the first key and repeats it while the user types; sends `typing:stop` after a pause. */
  typed() {
    this.fitComposer();
    const one = this.conversations.get(this.active);
    if (!one?.joined) return;
    if ($('care-message').value.trim() === '') {
      this.stopTyping();
      return;
    }
    const now = performance.now();
    if (this.typingTo !== one.roomId || now - this.typingSentAt > TYPING_REPEAT_MS) {
      this.typingTo = one.roomId;
      this.typingSentAt = now;
      this.socket.emit('typing:start', { roomId: one.roomId });
    }
    clearTimeout(this.typingTimer);
    this.typingTimer = setTimeout(() => this.stopTyping(), TYPING_IDLE_MS);
  },

  stopTyping() {
    clearTimeout(this.typingTimer);
    if (this.typingTo !== null && this.socket?.connected) this.socket.emit('typing:stop', { roomId: this.typingTo });
    this.typingTo = null;
  },
};

parts.push(care);
