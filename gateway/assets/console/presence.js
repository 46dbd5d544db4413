// Presence: this user's own status, and that of watched users and conversation partners.

import { $, el, memory, place, setBounded, setText, toast } from './page.js';
import { ago } from './places.js';
import { failureOf, parts, request, session } from './session.js';
import { timeOf } from './bubbles.js';

// The node's limit of subscriptions per socket.
const WATCHED_MAX = 500;
const TEXTS = { online: 'online', away: 'away', busy: 'busy', in_call: 'in a call', offline: 'offline' };

export const presence = {
  socket: null,
  present: false,
  // Users that this user has chosen to watch. Conversation partners are added to them.
  watched: new Set(),
  partners: new Set(),
  known: new Map(),
  // Listeners that are called when a known status changes.
  watchers: new Set(),

  listen() {
    $('presence-own').addEventListener('submit', (event) => this.setOwn(event));
    $('presence-watch').addEventListener('submit', (event) => this.watch(event));
  },

  attach({ main }) {
    this.socket = main;
    main.on('connected', () => { if (main === this.socket) this.onConnected(); });
    main.on('disconnect', () => { if (main === this.socket) this.gone(); });
    main.on('presence:changed', (value) => { if (main === this.socket && typeof value?.userId === 'string') this.take([value]); });
  },

  detach() {
    this.gone();
  },

  /** The node no longer sends changes, so known statuses are not shown anymore. */
  gone() {
    this.present = false;
    this.known.clear();
    this.paint();
  },

  clear() {
    this.watched.clear();
    this.partners.clear();
    this.known.clear();
    $('presence-own').reset();
    this.paint();
  },

  forget() {
    memory.set('watched', null);
  },

  recall() {
    const saved = memory.get('watched');
    if (saved?.user === session.user.id && Array.isArray(saved.ids)) this.watched = new Set(saved.ids.map(String).slice(0, WATCHED_MAX));
  },

  onConnected() {
    this.present = true;
    this.subscribe([session.user.id, ...this.watched, ...this.partners]);
  },

  async subscribe(userIds) {
    const ids = [...new Set(userIds)].slice(0, WATCHED_MAX);
    if (!this.present || ids.length === 0) return '';
    const outcome = await request(this.socket, 'presence:subscribe', { userIds: ids });
    if (outcome.answer?.success) this.take(outcome.answer.presences ?? []);
    return failureOf(outcome);
  },

  take(presences) {
    for (const one of presences) setBounded(this.known, one.userId, one, WATCHED_MAX);
    this.paint();
  },

  /** Watches the users of open conversations, which show their status. */
  follow(userIds) {
    const fresh = userIds.filter((id) => !this.partners.has(id) && !this.watched.has(id));
    for (const id of fresh) if (this.partners.size < WATCHED_MAX) this.partners.add(id);
    if (fresh.length > 0) this.subscribe(fresh);
  },

  async watch(event) {
    event.preventDefault();
    const id = $('presence-watch-id').value.trim();
    if (!id) return;
    const failure = await this.subscribe([id]);
    if (failure) {
      toast(`Not watched: ${failure}`);
      return;
    }
    $('presence-watch').reset();
    this.watched.add(id);
    this.remember();
    this.paint();
  },

  unwatch(id) {
    this.watched.delete(id);
    this.remember();
    if (!this.partners.has(id)) request(this.socket, 'presence:unsubscribe', { userIds: [id] });
    this.paint();
    $('presence-watch-id').focus();
  },

  remember() {
    memory.set('watched', { user: session.user.id, ids: [...this.watched] });
  },

  async setOwn(event) {
    event.preventDefault();
    const custom = $('presence-custom').value.trim();
    const outcome = await request(this.socket, 'presence:setStatus', { status: $('presence-status').value, ...(custom ? { customStatus: custom } : {}) });
    if (!outcome.answer?.success) {
      toast(`Status not set: ${failureOf(outcome)}`);
      return;
    }
    const { answer } = await request(this.socket, 'presence:get', { userIds: [session.user.id] });
    this.take(answer?.presences ?? []);
  },

  textOf(userId) {
    const one = this.known.get(userId);
    if (!one) return '';
    const seen = one.status === 'offline' && one.lastSeen ? `, seen ${ago(timeOf(one.lastSeen))}` : '';
    return `${TEXTS[one.status] ?? one.status}${one.customStatus ? `: ${one.customStatus}` : ''}${seen}`;
  },

  paint() {
    for (const notify of this.watchers) notify();
    setText($('presence-now'), this.textOf(session.user.id) && `You are ${this.textOf(session.user.id)}`);
    this.rows ??= new Map();
    for (const id of this.rows.keys()) if (!this.watched.has(id)) this.rows.delete(id);
    place($('presence-list'), [...this.watched].map((id) => {
      let row = this.rows.get(id);
      if (!row) {
        row = el('li', {}, el('span', { class: 'dot', 'aria-hidden': 'true' }), el('b', { text: id }), el('small'),
          el('button', { type: 'button', class: 'quiet', text: '✕', 'aria-label': `Stop watching ${id}`, onclick: () => this.unwatch(id) }));
        this.rows.set(id, row);
      }
      row.dataset.status = this.known.get(id)?.status ?? 'unknown';
      setText(row.children[2], this.textOf(id) || 'unknown');
      return row;
    }));
  },
};

parts.push(presence);
