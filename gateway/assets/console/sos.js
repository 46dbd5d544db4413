// SOS: incidents, participants and their locations. Records come from the REST API (document 001), changes from the
// events of the main namespace (document 000).
//
// When the user leaves an incident, the node disconnects their sockets, and the page reconnects automatically.

import { $, bringIntoView, el, empty, keepFocus, place, setBounded, setText, toast } from './page.js';
import { PlaceForm, ago, clockOf, coordinates, distance, here, inMetres, isPlace, paintPositions, timeNode } from './places.js';
import { failureOf, isGone, linkState, parts, request, rest, session } from './session.js';
import { views } from './views.js';

const INCIDENTS_MAX = 1_000;
const PARTICIPANTS_MAX = 500;
const PEOPLE_MAX = 2_000;
const PAGE_SIZE = 100;
const HISTORY_MAX = 1_000;
const REPAINT_EVERY_MS = 5_000;
const TITLE_MAX = 80;

/** The beginning of a description, as a title. */
function brief(text) {
  const letters = [...(text ?? '')];
  return letters.length > TITLE_MAX ? `${letters.slice(0, TITLE_MAX).join('')}…` : (text ?? '');
}

/** Why an incident has ended, in words. */
const REASONS = {
  left: 'all participants have left',
  raiser: 'the person who raised it has ended it',
  admin: 'an admin has ended it',
  false_alarm: 'it was marked as a false alarm',
  age: 'it has expired',
};

const pathOf = (id, rest) => `/api/sos/${encodeURIComponent(id)}/participants/${rest}`;

export const sos = {
  socket: null,
  // The node answers 404 to every request of this part.
  absent: false,
  incidents: new Map(),
  active: null,
  // Names from events; records contain only ids.
  people: new Map(),
  news: 0,
  // The cursor of the next page of nearby incidents, or empty.
  next: '',

  listen() {
    this.form = new PlaceForm($('sos-here'), { verb: 'Share', share: (spot) => this.shareLocation(spot) });
    here.watchers.add(() => this.paint());
    $('sos-raise').addEventListener('submit', (event) => this.raise(event));
    $('sos-nearby').addEventListener('submit', (event) => { event.preventDefault(); this.lookNearby(); });
    $('sos-open').addEventListener('submit', (event) => {
      event.preventDefault();
      const id = $('sos-open-id').value.trim();
      if (!id) return;
      $('sos-open').reset();
      this.open(id);
    });
    $('sos-join').addEventListener('click', () => this.join());
    $('sos-leave').addEventListener('click', () => this.leave());
    $('sos-end').addEventListener('click', () => this.end('end', 'Not ended'));
    $('sos-false').addEventListener('click', () => this.end('false-alarm', 'Not marked as false'));
    $('sos-more').addEventListener('click', () => this.lookNearby(this.next));
    $('sos-older').addEventListener('click', () => this.older());
    setInterval(() => { if (views.isOpen('sos')) this.paint(); }, REPAINT_EVERY_MS);
  },

  attach({ main }) {
    this.socket = main;
    this.absent = false;
    const on = (event, react) => main.on(event, (value) => {
      if (main === this.socket && typeof value?.sosId === 'string') react.call(this, value);
    });
    main.on('connect', () => { if (main === this.socket && views.current === 'sos') this.load(); });
    on('participant:joined', this.onJoined);
    on('participant:left', this.onLeft);
    on('participant:location', this.onLocation);
    on('sos:ended', this.onEnded);
  },

  clear() {
    this.incidents.clear();
    this.people.clear();
    Object.assign(this, { active: null, news: 0, next: '' });
    $('sos-found').hidden = true;
    $('sos-raise').reset();
    empty('sos-title', 'sos-id', 'sos-facts', 'sos-text', 'sos-active', 'sos-positions', 'sos-history');
    this.paint();
  },

  shown(view) {
    if (view === 'sos' && linkState() === 'connected') this.load();
  },

  seen() {
    if (views.isOpen('sos')) this.news = 0;
    this.paint();
  },

  // ---- what this page knows

  incident(id) {
    let incident = this.incidents.get(id);
    if (!incident) {
      incident = { id, joined: false, loaded: false, facts: {}, participants: new Map(), positions: new Map(), history: new Map(), more: false };
      setBounded(this.incidents, id, incident, INCIDENTS_MAX);
    }
    return incident;
  },

  nameOf(userId) {
    return userId === session.user.id ? session.user.name : (this.people.get(userId) ?? userId);
  },

  seesAll() {
    return ['rescuer', 'admin'].includes(session.claims.role);
  },

  // ---- events from the node

  onJoined({ sosId, userId, userType, displayName, joinedAt }) {
    const incident = this.incident(sosId);
    if (displayName) setBounded(this.people, userId, String(displayName), PEOPLE_MAX);
    const own = userId === session.user.id;
    if (own) incident.joined = true;
    setBounded(incident.participants, userId, { userId, userType, joinedAt }, PARTICIPANTS_MAX);
    // The event has no record id, so the user and the time identify the record.
    const key = `${userId} ${joinedAt}`;
    if (!incident.history.has(key)) incident.history = new Map([[key, { userId, userType, joinedAt, leftAt: null }], ...incident.history].slice(0, HISTORY_MAX));
    this.notify(sosId, own ? '' : `${this.nameOf(userId)} joined the incident`);
  },

  onLeft({ sosId, userId, leftAt }) {
    const incident = this.incident(sosId);
    const own = userId === session.user.id;
    if (own) {
      incident.joined = false;
      session.returning = true;
    }
    incident.participants.delete(userId);
    incident.positions.delete(userId);
    for (const record of incident.history.values()) if (record.userId === userId) record.leftAt ??= leftAt;
    this.notify(sosId, own ? '' : `${this.nameOf(userId)} left the incident`);
  },

  onEnded({ sosId, reason, endedBy, endedAt }) {
    const incident = this.incident(sosId);
    this.takeEnd(incident, { endReason: reason, endedBy, endedAt });
    this.notify(sosId, `An incident has ended: ${REASONS[reason] ?? reason}`);
  },

  /** An ended incident has no participants. */
  takeEnd(incident, { endReason, endedBy, endedAt }) {
    Object.assign(incident, { joined: false, ended: { reason: endReason, by: endedBy, at: endedAt } });
    incident.participants.clear();
    incident.positions.clear();
    for (const record of incident.history.values()) record.leftAt ??= endedAt;
  },

  onLocation({ sosId, userId, latitude, longitude, timestamp }) {
    if (!isPlace({ latitude, longitude })) return;
    const at = new Date(timestamp ?? Date.now());
    setBounded(this.incident(sosId).positions, userId, { latitude, longitude, at }, PARTICIPANTS_MAX);
    this.paint();
  },

  notify(sosId, text) {
    if (text && !(views.isOpen('sos') && this.active === sosId)) this.news += 1;
    if (text) setText($('announcer'), text);
    this.paint();
  },

  // ---- what the user does

  /** Sends a request, shows failures, and notices a node without the app. Returns the answer, or null. */
  async ask(method, path, body, what) {
    const outcome = await rest(method, path, body);
    this.absent = outcome.status === 404 && outcome.answer?.error === 'Not found';
    if (!this.absent && !outcome.answer?.success && outcome.lost !== 'Signed out') toast(`${what}: ${failureOf(outcome)}`);
    this.paint();
    return outcome.answer?.success ? outcome.answer : null;
  },

  /** Loads the incidents that this user participates in, and reloads the open one. */
  async load() {
    const me = session.user.id;
    const answer = await this.ask('GET', pathOf('any', `user/${encodeURIComponent(me)}/history?limit=${PAGE_SIZE}`), undefined, 'Own incidents');
    if (!answer || me !== session.user.id) return;
    const joined = new Set(answer.data.filter((record) => record.status === 'ACTIVE').map((record) => record.sosId));
    for (const incident of this.incidents.values()) incident.joined = joined.has(incident.id);
    for (const id of joined) this.incident(id).joined = true;
    if (this.active) await this.loadIncident(this.incident(this.active));
    this.news = 0;
    this.paint();
  },

  async raise(event) {
    event.preventDefault();
    const description = $('sos-description').value.trim();
    const body = { ...(description ? { description } : {}), ...(here.spot ?? {}) };
    const answer = await this.ask('POST', '/api/sos', body, 'Not raised');
    if (!answer) return;
    $('sos-raise').reset();
    const incident = this.incident(answer.data.id);
    Object.assign(incident, { facts: answer.data, joined: true });
    this.form.unsay();
    this.open(incident.id);
  },

  /** Loads a page of nearby incidents: the first, or the one after `cursor`. */
  async lookNearby(cursor = '') {
    if (!here.spot) {
      toast('Set your location first, under “My location”.');
      return;
    }
    const { latitude, longitude } = here.spot;
    const search = cursor ? this.search : { latitude, longitude, radius: $('sos-radius').value };
    const query = new URLSearchParams({ ...search, ...(cursor ? { cursor } : {}) });
    const answer = await this.ask('GET', `/api/sos/nearby?${query}`, undefined, 'Nothing nearby');
    if (!answer) return;
    for (const facts of answer.data) this.incident(facts.id).facts = facts;
    this.found = (cursor ? this.found : 0) + answer.data.length;
    Object.assign(this, { search, next: answer.nextCursor ?? '' });
    const text = `${this.found === 1 ? 'One incident' : `${this.found} incidents`} nearby${answer.hasMore ? ', more available' : ''}`;
    $('sos-found').hidden = false;
    $('sos-more').hidden = !this.next;
    setText($('sos-found-text'), text);
    setText($('announcer'), text);
    this.paint();
  },

  open(id) {
    this.active = id;
    const incident = this.incident(id);
    this.paint();
    bringIntoView($('sos-case'));
    this.loadIncident(incident);
  },

  /** Only participants and users who see all incidents may list the participants. */
  async loadIncident(incident) {
    const { id } = incident;
    if (!this.seesAll()) {
      const check = await this.ask('GET', pathOf(id, `${encodeURIComponent(session.user.id)}/check`), undefined, 'Not found');
      if (!check) return;
      incident.joined = check.data.isActive;
    }
    if (incident.joined || this.seesAll()) {
      const active = await this.ask('GET', pathOf(id, 'active'), undefined, 'No participants');
      if (active) {
        incident.participants.clear();
        for (const record of active.data.slice(0, PARTICIPANTS_MAX)) incident.participants.set(record.userId, record);
        incident.joined = incident.participants.has(session.user.id);
      }
      const history = await this.ask('GET', pathOf(id, `history?limit=${PAGE_SIZE}`), undefined, 'No history');
      if (history) {
        incident.history = new Map(history.data.map((record) => [`${record.userId} ${record.joinedAt}`, record]));
        incident.more = history.data.length === PAGE_SIZE;
      }
    }
    incident.loaded = true;
    this.paint();
  },

  async older() {
    const incident = this.incidents.get(this.active);
    const last = [...(incident?.history.values() ?? [])].findLast((record) => record.id);
    if (!last) return;
    const answer = await this.ask('GET', pathOf(incident.id, `history?limit=${PAGE_SIZE}&before=${encodeURIComponent(last.id)}`), undefined, 'No older records');
    if (!answer) return;
    for (const record of answer.data) incident.history.set(`${record.userId} ${record.joinedAt}`, record);
    incident.more = answer.data.length === PAGE_SIZE && incident.history.size < HISTORY_MAX;
    this.paint();
  },

  async join() {
    const incident = this.incidents.get(this.active);
    const userType = $('sos-type').value;
    const answer = await this.ask('POST', pathOf(incident.id, 'join'), userType ? { userType } : {}, 'Not joined');
    if (!answer) return;
    incident.joined = true;
    this.form.unsay();
    this.loadIncident(incident);
  },

  async leave() {
    const incident = this.incidents.get(this.active);
    const answer = await this.ask('PATCH', pathOf(incident.id, `${encodeURIComponent(session.user.id)}/leave`), {}, 'Not left');
    if (answer) incident.joined = false;
    this.paint();
  },

  /** Ends an incident, or marks it as a false alarm, which also ends it. */
  async end(how, what) {
    const incident = this.incidents.get(this.active);
    const answer = await this.ask('POST', `/api/sos/${encodeURIComponent(incident.id)}/${how}`, undefined, what);
    if (!answer) return;
    incident.facts = { ...incident.facts, ...answer.data };
    this.takeEnd(incident, answer.data);
    this.paint();
  },

  /** Sends the location to all incidents that this user participates in. */
  async shareLocation(spot) {
    const joined = [...this.incidents.values()].filter((incident) => incident.joined);
    if (joined.length === 0) return 'You have not joined an incident.';
    const outcomes = await Promise.all(joined.map(({ id }) => request(this.socket, 'sos:location', { sosId: id, ...spot })));
    for (const { positions } of joined) positions.set(session.user.id, { ...spot, at: new Date() });
    this.paint();
    return outcomes.map(failureOf).find(Boolean) ?? '';
  },

  // ---- painting

  paint() {
    if (views.isOpen('sos')) this.news = 0;
    views.badge('sos', 'news', this.news);
    const gone = this.absent || isGone(this.socket);
    $('sos-alert').hidden = !gone;
    setText($('sos-alert'), gone ? 'This node has no sos app, or refuses this token there.' : '');
    this.paintList();
    setText($('sos-raise-hint'), here.spot ? `at ${coordinates(here.spot)}` : 'without a location, as none is set');
    const incident = this.incidents.get(this.active);
    $('sos-case').hidden = !incident;
    $('sos-empty').hidden = Boolean(incident);
    if (incident) keepFocus($('sos-case'), () => this.paintIncident(incident));
  },

  paintList() {
    const rank = (incident) => (incident.joined ? 0 : 1);
    const away = (incident) => (here.spot && isPlace(incident.facts) ? distance(here.spot, incident.facts) : Infinity);
    const list = [...this.incidents.values()].sort((a, b) => rank(a) - rank(b) || away(a) - away(b) || 0);
    place($('sos-list'), list.map((incident) => {
      incident.node ??= el('li', {}, el('button', { type: 'button', class: 'tab', onclick: () => this.open(incident.id) }, el('b'), el('span', { class: 'badge muted' }), el('small')));
      const [tab] = incident.node.children;
      const [title, mark, note] = tab.children;
      if (incident.id === this.active) tab.setAttribute('aria-current', 'true');
      else tab.removeAttribute('aria-current');
      setText(title, this.titleOf(incident));
      mark.hidden = !incident.joined && !incident.ended;
      setText(mark, incident.ended ? 'ended' : 'joined');
      setText(note, [inMetres(away(incident)), incident.facts.createdAt && ago(new Date(incident.facts.createdAt))].filter(Boolean).join(' · ') || incident.id);
      return incident.node;
    }));
    $('sos-nothing').hidden = list.length > 0;
  },

  titleOf({ id, facts }) {
    return brief(facts.description) || `Incident ${id.length > 13 ? `…${id.slice(-8)}` : id}`;
  },

  paintIncident(incident) {
    const { facts } = incident;
    setText($('sos-title'), this.titleOf(incident));
    setText($('sos-text'), $('sos-title').textContent === facts.description ? '' : (facts.description ?? ''));
    setText($('sos-id'), incident.id);
    setText($('sos-facts'), [isPlace(facts) ? coordinates(facts) : 'no location known', facts.createdAt && `raised ${clockOf(facts.createdAt)}`].filter(Boolean).join(' · '));
    const { ended } = incident;
    $('sos-join').hidden = incident.joined || Boolean(ended);
    $('sos-type').hidden = incident.joined || Boolean(ended);
    $('sos-leave').hidden = !incident.joined;
    const own = facts.userId ? facts.userId === session.user.id : incident.joined;
    $('sos-end').hidden = Boolean(ended) || !(own || session.claims.role === 'admin');
    $('sos-false').hidden = Boolean(ended) || !this.seesAll();
    const sees = incident.joined || this.seesAll();
    const end = ended && [`Ended: ${REASONS[ended.reason] ?? ended.reason}`, ended.by && `by ${this.nameOf(ended.by)}`, ended.at && clockOf(ended.at)].filter(Boolean).join(' · ');
    setText($('sos-note'), end || (sees ? '' : 'Join to see the participants.'));
    $('sos-case').dataset.joined = incident.joined ? 'yes' : 'no';
    this.paintPeople(incident);
    const positions = [...incident.positions].map(([id, spot]) => ({ id, name: this.nameOf(id), ...spot }));
    paintPositions($('sos-positions'), positions);
    this.paintHistory(incident);
  },

  paintPeople(incident) {
    const list = [...incident.participants.values()];
    setText($('sos-active-count'), String(list.length));
    incident.rows ??= new Map();
    for (const id of incident.rows.keys()) if (!incident.participants.has(id)) incident.rows.delete(id);
    place($('sos-active'), list.map((record) => {
      let row = incident.rows.get(record.userId);
      if (!row) incident.rows.set(record.userId, row = el('li', { title: record.userId }, el('b'), el('small')));
      setText(row.children[0], this.nameOf(record.userId) + (record.userId === session.user.id ? ' (you)' : ''));
      setText(row.children[1], `${record.userType} · since ${clockOf(record.joinedAt)}`);
      return row;
    }));
  },

  paintHistory(incident) {
    $('sos-older').hidden = !incident.more;
    const records = [...incident.history.values()];
    const text = JSON.stringify(records.map((record) => [record.joinedAt, record.leftAt, this.nameOf(record.userId)]));
    if ($('sos-history').dataset.text === text) return;
    $('sos-history').dataset.text = text;
    place($('sos-history'), records.map((record) => el('tr', {},
      el('th', { scope: 'row', text: this.nameOf(record.userId), title: record.userId }), el('td', { text: record.userType }),
      el('td', {}, timeNode(record.joinedAt)), el('td', {}, record.leftAt ? timeNode(record.leftAt) : 'here now'))));
  },
};

parts.push(sos);
