// Emergencies: owners, helpers, and their messages. Requests use the REST API; changes arrive as events of the
// namespace (document 002). The user interface is in `emergencies_view.js`.
//
// In an anonymous emergency the node hides the owner from all other users. This page shows only what the node
// sends.

import { face } from './emergencies_view.js';
import { $, bringIntoView, empty, memory, setBounded, setText, toast } from './page.js';
import { here, isPlace } from './places.js';
import { failureOf, parts, request, rest, session } from './session.js';
import { timeOf } from './bubbles.js';
import { views } from './views.js';

const EMERGENCIES_MAX = 1_000;
const OWN_MAX = 50;
const HELPERS_MAX = 200;
const MESSAGES_MAX = 500;
const BASE = '/api/v1/emergencies';

export const OPEN = ['active', 'responding'];

export const emergencies = {
  ...face,

  socket: null,
  // The namespace exists, but the REST API answers 404.
  absent: false,
  all: new Map(),
  active: null,
  // The ids of this user's emergencies in this tab, because the API cannot list them.
  own: [],
  news: 0,
  // The cursor of the next page of nearby emergencies, or empty.
  next: '',

  attach({ emergencies: socket }) {
    this.socket = socket;
    this.absent = false;
    const on = (event, react) => socket.on(event, (value) => {
      if (socket === this.socket && value !== null && typeof value === 'object') react.call(this, value);
    });
    const about = (event, react) => on(event, (value) => {
      const one = this.all.get(value.emergencyId);
      if (!one) return;
      react.call(this, one, value);
      this.paint();
    });
    socket.on('connect', () => { if (socket === this.socket) this.load(); });
    on('emergency:created', ({ emergency }) => this.onAlert(emergency));
    on('emergency:nearby', ({ emergency, distance }) => this.onAlert(emergency, distance));
    on('emergency:joined', ({ emergencyId }) => { const one = this.all.get(emergencyId); if (one) one.inRoom = true; });
    on('emergency:left', ({ emergencyId }) => { const one = this.all.get(emergencyId); if (one) one.inRoom = false; });
    about('helper:joined', this.onHelper);
    about('helper:status_update', this.onHelperStatus);
    about('helper:location', this.onHelperLocation);
    about('helper:online', (one, { helperId }) => one.away.delete(helperId));
    about('helper:offline', (one, { helperId }) => one.away.add(helperId));
    about('emergency:status_changed', (one, { status }) => { one.facts.status = status; });
    about('emergency:resolved', this.onResolved);
    about('emergency:cancelled', (one) => { one.facts.status = 'cancelled'; });
    about('emergency:ended', (one, { status }) => { one.facts.status = status; });
    about('emergency:message', this.onMessage);
  },

  clear() {
    this.all.clear();
    Object.assign(this, { active: null, own: [], news: 0, next: '' });
    $('em-found').hidden = true;
    for (const form of ['em-create', 'em-resolve', 'em-status-form', 'em-say']) $(form).reset();
    empty('em-create-hint', 'em-title', 'em-id', 'em-facts', 'em-text', 'em-note', 'em-helpers', 'em-positions', 'em-messages', 'em-to');
    this.paint();
  },

  forget() {
    memory.set('emergencies', null);
  },

  /** The emergencies that this tab remembers, if they belong to this user. */
  recall() {
    const saved = memory.get('emergencies');
    if (saved?.user === session.user.id && Array.isArray(saved.ids)) this.own = saved.ids.map(String).slice(-OWN_MAX);
  },

  shown(view) {
    if (view === 'emergencies') this.seen();
  },

  seen() {
    this.paint();
  },

  // ---- what this page knows

  isHelper() {
    return ['helper', 'rescuer'].includes(session.claims.role);
  },

  isOwn(one) {
    return this.own.includes(one.id) || one.facts.user?.id === session.user.id;
  },

  isOpen(one) {
    return OPEN.includes(one.facts.status);
  },

  /** Whether this user currently helps there. */
  helps(one) {
    const me = one.helpers.get(session.user.id);
    return me !== undefined && me.status !== 'cancelled';
  },

  /** Merges the node's data about an emergency. Missing fields keep their values. */
  take(facts) {
    if (typeof facts?.id !== 'string') return null;
    let one = this.all.get(facts.id);
    if (!one) {
      one = { id: facts.id, facts: {}, distance: null, inRoom: false, helpers: new Map(), positions: new Map(), away: new Set(), messages: new Map(), nodes: new Map(), unread: 0 };
      setBounded(this.all, facts.id, one, EMERGENCIES_MAX);
    }
    const { helpers, ...rest } = facts;
    Object.assign(one.facts, rest);
    if (typeof facts.distance === 'number') one.distance = facts.distance;
    if (Array.isArray(helpers)) {
      one.helpers.clear();
      for (const helper of helpers.slice(0, HELPERS_MAX)) if (typeof helper?.id === 'string') one.helpers.set(helper.id, helper);
    }
    return one;
  },

  helperName(one, id) {
    if (id === session.user.id) return session.user.name;
    const profile = one.helpers.get(id)?.profile;
    return [profile?.firstName, profile?.lastName].filter(Boolean).join(' ') || String(id ?? 'Helper');
  },

  ownerName(one) {
    if (this.isOwn(one)) return session.user.name;
    return one.facts.user?.displayName || one.facts.user?.id || 'Anonymous';
  },

  // ---- events from the node

  onAlert(facts, distance) {
    const isNew = !this.all.has(facts?.id);
    const one = this.take(facts);
    if (!one) return;
    if (typeof distance === 'number') one.distance = distance;
    if (isNew && !this.isOwn(one)) {
      if (!views.isOpen('emergencies')) this.news += 1;
      setText($('announcer'), `New ${one.facts.priority ?? ''} emergency: ${one.facts.type}`);
    }
    this.paint();
  },

  onHelper(one, { helper }) {
    if (typeof helper?.id !== 'string') return;
    setBounded(one.helpers, helper.id, { status: 'responding', ...helper }, HELPERS_MAX);
    one.away.delete(helper.id);
    if (helper.id === session.user.id) one.inRoom = true;
    else setText($('announcer'), `${this.helperName(one, helper.id)} helps`);
  },

  onHelperStatus(one, { helperId, status, notes, updatedAt }) {
    const helper = one.helpers.get(helperId) ?? { id: helperId };
    setBounded(one.helpers, helperId, { ...helper, status, notes: notes ?? null, updatedAt }, HELPERS_MAX);
    if (status === 'cancelled') one.positions.delete(helperId);
  },

  onHelperLocation(one, { helperId, latitude, longitude, timestamp }) {
    if (!isPlace({ latitude, longitude })) return;
    setBounded(one.positions, helperId, { latitude, longitude, at: timeOf(timestamp) }, HELPERS_MAX);
  },

  onResolved(one, { resolvedAt, resolvedBy, resolutionType, resolutionNotes }) {
    Object.assign(one.facts, { status: 'resolved', resolvedAt, resolvedBy, resolutionType, resolutionNotes });
  },

  onMessage(one, message) {
    if (!this.takeMessage(one, message)) return;
    if (this.active !== one.id || !views.isOpen('emergencies')) one.unread += 1;
    setText($('announcer'), `${this.senderName(one, message)}: ${message.message}`);
  },

  takeMessage(one, message) {
    if (typeof message?.id !== 'string' || one.messages.has(message.id)) return false;
    setBounded(one.messages, message.id, message, MESSAGES_MAX);
    return true;
  },

  /** Messages of an anonymous owner have no sender id; only the role distinguishes them from helpers' messages. */
  isOwnMessage(one, message) {
    return message.senderRole === 'owner' ? this.isOwn(one) : message.senderId === session.user.id;
  },

  senderName(one, message) {
    return message.senderRole === 'owner' ? this.ownerName(one) : this.helperName(one, message.senderId);
  },

  // ---- what the user does

  /** Sends a request, shows failures, and notices a node without the app. Returns the answer, or null. */
  async ask(method, path, body, what) {
    const outcome = await rest(method, `${BASE}${path}`, body);
    this.absent = outcome.status === 404 && outcome.answer?.error === 'Not found';
    if (what && !this.absent && !outcome.answer?.success && outcome.lost !== 'Signed out') toast(`${what}: ${failureOf(outcome)}`);
    this.paint();
    return outcome.answer?.success ? outcome.answer : null;
  },

  async load() {
    // Changes may have been missed while the page was disconnected, in the user's own emergencies and in the open
    // one.
    const mine = [...this.all.values()].filter((one) => one.id === this.active || (this.isOpen(one) && (this.isOwn(one) || this.helps(one))));
    const unknown = this.own.filter((id) => !this.all.has(id));
    for (const id of new Set([...unknown, ...mine.map((one) => one.id)])) await this.read(id, true);
  },

  /** `quiet`: the user did not request this, so do not report a missing emergency. */
  async read(id, quiet = false) {
    const answer = await this.ask('GET', `/${encodeURIComponent(id)}`, undefined, quiet ? '' : 'Not read');
    const one = answer && this.take(answer.data);
    if (one && (this.isOwn(one) || this.helps(one))) {
      // The node has already moved this page's socket into the room, or will on the next connection.
      one.inRoom = this.isOpen(one);
      await this.readMessages(one);
    }
    this.paint();
  },

  async readMessages(one) {
    const answer = await this.ask('GET', `/${encodeURIComponent(one.id)}/messages`, undefined, 'No messages');
    if (!answer) return;
    const live = [...one.messages.values()];
    one.messages.clear();
    for (const message of [...answer.data, ...live].sort((a, b) => timeOf(a.timestamp) - timeOf(b.timestamp))) this.takeMessage(one, message);
  },

  async create(event) {
    event.preventDefault();
    if (!here.spot) {
      toast('Set your location first, under “My location”.');
      return;
    }
    const value = (id) => $(id).value.trim();
    const given = (fields) => Object.fromEntries(Object.entries(fields).filter(([, field]) => field !== '' && !Number.isNaN(field)));
    const body = given({ type: value('em-type'), category: value('em-category'), description: value('em-description'), severity: $('em-severity').valueAsNumber });
    body.location = { ...here.spot, ...given({ address: value('em-address') }) };
    Object.assign(body, { priority: value('em-priority'), anonymousMode: $('em-anonymous').checked });
    const answer = await this.ask('POST', '', body, 'The emergency was not raised');
    if (!answer) return;
    $('em-create').reset();
    const { nearbyHelperCount: near } = answer.data;
    const text = `Emergency raised. ${near === 1 ? 'One helper is' : `${near ?? 0} helpers are`} near.`;
    setText($('em-create-hint'), text);
    setText($('announcer'), text);
    this.own = [...this.own, answer.data.id].slice(-OWN_MAX);
    memory.set('emergencies', { user: session.user.id, ids: this.own });
    const one = this.take(answer.data);
    one.inRoom = true;
    this.show(one.id);
  },

  /** Loads a page of nearby emergencies: the first, or the one after `cursor`. */
  async lookNearby(event, cursor = '') {
    event.preventDefault();
    if (!here.spot) {
      toast('Set your location first, under “My location”.');
      return;
    }
    const search = cursor ? this.search : { ...here.spot, radius: $('em-radius').value };
    const query = new URLSearchParams({ ...search, ...(cursor ? { cursor } : {}) });
    const answer = await this.ask('GET', `/nearby?${query}`, undefined, 'Nothing nearby');
    if (!answer) return;
    for (const facts of answer.data) this.take(facts);
    this.found = (cursor ? this.found : 0) + answer.data.length;
    Object.assign(this, { search, next: answer.nextCursor ?? '' });
    const text = `${this.found === 1 ? 'One emergency' : `${this.found} emergencies`} nearby${answer.hasMore ? ', more available' : ''}`;
    $('em-found').hidden = false;
    $('em-more').hidden = !this.next;
    setText($('em-found-text'), text);
    setText($('announcer'), text);
    this.paint();
  },

  show(id) {
    this.active = id;
    this.all.get(id).unread = 0;
    this.paint();
    bringIntoView($('em-case'));
    this.read(id);
  },

  /** One of the status changes that answer with the emergency. */
  async change(method, what, body, failed) {
    const one = this.all.get(this.active);
    const answer = await this.ask(method, `/${encodeURIComponent(one.id)}/${what}`, body, failed);
    if (!answer) return null;
    this.take(answer.data);
    this.paint();
    return one;
  },

  async respond() {
    const one = await this.change('POST', 'respond', {}, 'Not responding');
    if (!one) return;
    one.inRoom = true;
    await this.readMessages(one);
    this.paint();
  },

  async tellStatus(event) {
    event.preventDefault();
    const notes = $('em-my-notes').value.trim();
    const one = await this.change('PUT', 'helper-status', { status: $('em-my-status').value, ...(notes ? { notes } : {}) }, 'Status not set');
    if (one && !this.helps(one)) one.inRoom = false;
    this.paint();
  },

  resolve(event) {
    event.preventDefault();
    const resolutionNotes = $('em-resolution').value.trim();
    $('em-resolve').reset();
    return this.change('POST', 'resolve', resolutionNotes ? { resolutionNotes } : {}, 'Not resolved');
  },

  cancel() {
    return this.change('POST', 'cancel', {}, 'Not cancelled');
  },

  /** Enters or leaves the room of an emergency that the user only watches. */
  async watch(enter) {
    const one = this.all.get(this.active);
    const outcome = await request(this.socket, enter ? 'emergency:join' : 'emergency:leave', { emergencyId: one.id });
    if (outcome.answer?.success) {
      one.inRoom = enter;
      if (enter) this.take(outcome.answer.emergency);
    } else {
      toast(`${enter ? 'Not watching' : 'Still watching'}: ${failureOf(outcome)}`);
    }
    this.paint();
  },

  async shareLocation(spot) {
    const outcome = await request(this.socket, 'location:update', spot);
    if (outcome.answer?.success) {
      for (const one of this.all.values()) if (this.helps(one)) one.positions.set(session.user.id, { ...spot, at: new Date() });
      this.paint();
    }
    return failureOf(outcome);
  },

  async say(event) {
    event.preventDefault();
    const one = this.all.get(this.active);
    const message = $('em-message').value.trim();
    if (!message) return;
    const recipientId = this.isOwn(one) ? $('em-to').value : '';
    const outcome = await request(this.socket, 'emergency:message', { emergencyId: one.id, message, ...(recipientId ? { recipientId } : {}) });
    if (outcome.answer?.success) {
      $('em-message').value = '';
      this.takeMessage(one, outcome.answer.message);
    } else {
      toast(`Not sent: ${failureOf(outcome)}`);
    }
    this.paint();
  },
};

parts.push(emergencies);
