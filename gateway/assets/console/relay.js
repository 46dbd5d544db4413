// Relay: generic rooms of the namespace `/relay`, to publish to and to watch.

import { $, addLine, clock, el, fullTime, lineNode, place, setText, toJson, toast } from './page.js';
import { RELAY, failureOf, isGone, parts, request, session } from './session.js';

const RELAY_LINES_MAX = 200;

export const relay = {
  socket: null,
  rooms: new Map(),
  membersOf: null,

  listen() {
    $('relay-data').value = '{\n  "hello": "world"\n}';
    this.data();
    $('relay-join').addEventListener('submit', (event) => this.join(event));
    $('relay-publish').addEventListener('submit', (event) => this.publish(event));
    $('relay-echo').addEventListener('click', () => this.echo());
    $('relay-format').addEventListener('click', () => this.format());
    $('relay-data').addEventListener('input', () => this.data());
    $('relay-clear').addEventListener('click', () => $('relay-lines').replaceChildren());
  },

  attach({ relay: socket }) {
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
      toast(`Could not join ${room}: ${failureOf(outcome)}`);
    }
    this.paint();
  },

  async leave(room) {
    if (!this.ready()) return;
    const outcome = await request(this.socket, 'leave', { room });
    if (outcome.answer?.success) this.rooms.delete(room);
    else toast(`Could not leave ${room}: ${failureOf(outcome)}`);
    if (this.membersOf === room) $('relay-members').hidden = true;
    this.paint();
  },

  async members(room) {
    if (!this.ready()) return;
    const outcome = await request(this.socket, 'members', { room });
    if (!outcome.answer?.success) {
      toast(`No members of ${room}: ${failureOf(outcome)}`);
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

  /** The editor's value, or nothing if it is not JSON; the note beside it shows the error. */
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
    else this.result(failureOf(outcome), true);
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
    $('relay-alert').hidden = !isGone(this.socket);
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

parts.push(relay);
