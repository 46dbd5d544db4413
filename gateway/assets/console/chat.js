// Chat: rooms with a timeline, the node's events and the user's actions. The appearance and the controls are in
// `chat_view.js`.
//
// A room's timeline holds messages and notices in the node's order. A sent message stays in `pending` until the
// node's `new_message` arrives. The ack may arrive before or after it, so the ack only supplies the id or the
// refusal and never places a message.

import { MESSAGE_CHARS_MAX, TIMELINE_MAX, face } from './chat_view.js';
import { $, memory, setBounded, setText, toast } from './page.js';
import { UNKNOWN_EVENT, failureOf, parts, request, session } from './session.js';
import { views } from './views.js';

const TYPING_IDLE_MS = 2_500;
const TYPING_REPEAT_MS = 4_000;
// Longer than two repeats, so that one lost `typing_start` does not make the indicator flicker.
const TYPING_EXPIRES_MS = 9_000;
const PAGE_SIZE = 50;
const MEMBERS_MAX = 500;
const PEOPLE_MAX = 5_000;

export const chat = {
  ...face,

  socket: null,
  // The node has the namespace, but without the chat app.
  absent: false,
  rooms: new Map(),
  active: null,
  // Known people in all rooms: id → {name, email}.
  people: new Map(),
  typingTo: null,
  typingTimer: undefined,
  typingSentAt: 0,
  nextKey: 0,

  attach({ main: socket }) {
    this.socket = socket;
    this.absent = false;
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

  /** The connection is gone, and with it the memberships. The timelines stay readable. */
  outOfRooms() {
    clearTimeout(this.typingTimer);
    this.typingTo = null;
    for (const room of this.rooms.values()) {
      room.joined = false;
      for (const userId of [...room.typing.keys()]) this.stoppedTyping(room, userId);
    }
  },

  /** Drops all state of the last user, so that the next one cannot see it. */
  clear() {
    this.rooms.clear();
    this.people.clear();
    this.active = null;
    $('message').value = '';
    for (const id of ['messages', 'member-list', 'room-name', 'announcer', 'toasts']) $(id).replaceChildren();
    this.paint();
  },

  /** The user signs out, so nothing is kept for the next one. */
  forget() {
    memory.set('rooms', null);
  },

  /** The window has come to the front. */
  seen() {
    this.markRead();
  },

  shown(view) {
    if (view !== 'chat') return;
    this.markRead();
    this.paint();
  },

  remember() {
    memory.set('rooms', this.rooms.size > 0 ? { user: session.user.id, ids: [...this.rooms.keys()], active: this.active } : null);
  },

  /** The rooms that this tab remembers, if they belong to this user. */
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
        // Whether the timeline follows its end, the scroll position otherwise, and what arrived below it.
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
    // Focus at once: after the answer, the user may be typing elsewhere. Not on a phone, whose keyboard hides half
    // the page.
    if (matchMedia('(hover: hover)').matches) $('message').focus();
    if (!room.joined && this.socket?.connected) this.enter(room);
  },

  async enter(room) {
    const { socket } = this;
    const { answer, lost } = await request(socket, 'join_room', room.id);
    if (socket !== this.socket || this.rooms.get(room.id) !== room) return;
    if (answer?.success) {
      for (const member of room.members.values()) {
        // No event reported who left while this page was disconnected.
        if (room.everJoined && member.state === 'here' && member.epoch !== session.epoch) Object.assign(member, { state: 'before', at: null });
      }
      Object.assign(room, { joined: true, everJoined: true, refusal: '' });
      this.see(room, session.user.id, 'here', { name: session.user.name });
    } else if (!lost) {
      const error = failureOf({ answer });
      this.absent = error === UNKNOWN_EVENT;
      if (!this.absent) toast(`Could not join #${room.id}: ${error}`);
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
    return room.id === this.active && views.isOpen('chat');
  },

  markRead() {
    const room = this.rooms.get(this.active);
    if (room && this.visible(room)) room.unread = 0;
    this.paintRooms();
  },

  // ---- events from the node

  onHistory({ roomId, messages }) {
    const room = this.rooms.get(roomId);
    if (room && Array.isArray(messages)) this.mergeHistory(room, messages, room.paging);
  },

  /**
   * Merges a page of history, oldest first, into the timeline. Known messages stay in place; unknown ones are
   * inserted beside their known neighbours. A page without known messages is an older page or, after a long
   * absence, the newest page. In the latter case, messages before the gap are dropped, because the timeline would
   * otherwise look complete.
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
   * The rooms that an event about a user may refer to. The document's `user_joined`, `user_left` and typing events
   * need not name their room. With several joined rooms, the rooms where the user was seen are the best guess, and
   * `sure` is false.
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

  // ---- what the user does

  /** Replaces a pending message of this page, including its node, by the stored one. */
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
      // The broadcast shows the message. If it came first, nothing is pending anymore.
      if (room.known.has(id)) this.discard(room, waiting);
      else Object.assign(waiting, { state: 'sent', storedId: id });
    } else {
      Object.assign(waiting, { state: 'failed', error: lost ?? String(answer?.error ?? 'The node refused it') });
      // An equal message from another tab may have settled this one, but the failure must still be visible.
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

  /** Sends `typing_start` at the first key and repeats it while the user types; sends `typing_stop` after a pause. */
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
};

parts.push(chat);
