// The user interface of the emergencies, as methods of the object `emergencies`.

import { bubbles, timeOf } from './bubbles.js';
import { $, el, keepFocus, place, setText } from './page.js';
import { PlaceForm, ago, clockOf, coordinates, distance, here, inMetres, isPlace, paintPositions } from './places.js';
import { isGone, session } from './session.js';
import { views } from './views.js';

const REPAINT_EVERY_MS = 5_000;

const STATUS_TEXTS = { responding: 'responding', on_way: 'on the way', arrived: 'arrived', completed: 'completed', cancelled: 'cancelled' };

export const face = {
  listen() {
    this.form = new PlaceForm($('em-here'), { verb: 'Share', share: (spot) => this.shareLocation(spot) });
    here.watchers.add(() => this.paint());
    $('em-create').addEventListener('submit', (event) => this.create(event));
    $('em-nearby').addEventListener('submit', (event) => this.lookNearby(event));
    $('em-more').addEventListener('click', (event) => this.lookNearby(event, this.next));
    $('em-respond').addEventListener('click', () => this.respond());
    $('em-join').addEventListener('click', () => this.watch(true));
    $('em-leave').addEventListener('click', () => this.watch(false));
    $('em-status-form').addEventListener('submit', (event) => this.tellStatus(event));
    $('em-resolve').addEventListener('submit', (event) => this.resolve(event));
    $('em-cancel').addEventListener('click', () => this.cancel());
    $('em-say').addEventListener('submit', (event) => this.say(event));
    setInterval(() => { if (views.isOpen('emergencies')) this.paint(); }, REPAINT_EVERY_MS);
  },

  paint() {
    if (views.isOpen('emergencies')) this.news = 0;
    const unread = [...this.all.values()].reduce((sum, one) => sum + one.unread, 0);
    views.badge('emergencies', 'news', this.news + unread);
    const gone = this.absent || isGone(this.socket);
    $('em-alert').hidden = !gone;
    setText($('em-alert'), gone ? 'This node has no emergencies app, or refuses this token there.' : '');
    this.paintList();
    const one = this.all.get(this.active);
    $('em-case').hidden = !one;
    $('em-empty').hidden = Boolean(one);
    if (one) keepFocus($('em-case'), () => this.paintCase(one));
  },

  /** The distance in metres from here, or else as the node sent it. */
  away(one) {
    const spot = one.facts.location;
    return here.spot && isPlace(spot) ? distance(here.spot, spot) : one.distance;
  },

  paintList() {
    const rank = (one) => (this.isOpen(one) ? 0 : 1);
    const list = [...this.all.values()].sort((a, b) => rank(a) - rank(b) || timeOf(b.facts.createdAt) - timeOf(a.facts.createdAt));
    place($('em-list'), list.map((one) => {
      one.node ??= el('li', {}, el('button', { type: 'button', class: 'tab', onclick: () => this.show(one.id) }, el('b'), el('span', { class: 'badge' }), el('small')));
      const [tab] = one.node.children;
      const [title, badge, note] = tab.children;
      if (one.id === this.active) tab.setAttribute('aria-current', 'true');
      else tab.removeAttribute('aria-current');
      tab.dataset.open = this.isOpen(one) ? 'yes' : 'no';
      tab.dataset.priority = one.facts.priority ?? '';
      setText(title, this.titleOf(one));
      badge.hidden = one.unread === 0;
      setText(badge, String(one.unread));
      badge.setAttribute('aria-label', `${one.unread} unread`);
      const whose = this.isOwn(one) ? 'mine' : this.helps(one) ? 'I help' : '';
      setText(note, [one.facts.status, one.facts.priority, inMetres(this.away(one)), whose, ago(timeOf(one.facts.createdAt))].filter(Boolean).join(' · '));
      return one.node;
    }));
    $('em-nothing').hidden = list.length > 0;
    setText($('em-nothing'), this.isHelper()
      ? 'None yet. New ones appear here as they are made; share your location to see which are near.'
      : 'None yet. Alerts go to helpers: tokens with the role helper or rescuer.');
    $('em-nearby').hidden = !this.isHelper() && session.claims.role !== 'admin';
  },

  titleOf({ facts }) {
    return [facts.type, facts.category].filter(Boolean).join(' · ') || 'Emergency';
  },

  paintCase(one) {
    const { facts } = one;
    const open = this.isOpen(one);
    const own = this.isOwn(one);
    const helps = this.helps(one);
    setText($('em-title'), this.titleOf(one));
    setText($('em-status'), facts.status ?? '');
    $('em-status').dataset.status = facts.status ?? '';
    setText($('em-priority-shown'), [facts.priority, facts.severity && `severity ${facts.severity}`].filter(Boolean).join(', '));
    $('em-priority-shown').dataset.priority = facts.priority ?? '';
    setText($('em-id'), one.id);
    const who = own && facts.anonymousMode ? `${this.ownerName(one)}, shown to nobody else` : this.ownerName(one);
    setText($('em-facts'), [who, coordinates(facts.location), facts.location?.address, inMetres(this.away(one)), `since ${clockOf(facts.createdAt)}`].filter(Boolean).join(' · '));
    setText($('em-text'), facts.description ?? '');
    $('em-text').hidden = !facts.description;
    setText($('em-note'), this.noteOf(one));
    $('em-respond').hidden = !(open && this.isHelper() && !own && !helps);
    const watcher = open && !own && !helps && session.claims.verified === true;
    $('em-join').hidden = !watcher || one.inRoom;
    $('em-leave').hidden = !watcher || !one.inRoom;
    $('em-work').hidden = !(open && helps);
    $('em-end').hidden = !(open && (own || session.claims.role === 'admin'));
    this.paintHelpers(one);
    this.paintTalk(one, own, helps);
  },

  noteOf({ facts, inRoom }) {
    if (facts.status === 'resolved') return [`Resolved at ${clockOf(facts.resolvedAt)}`, facts.resolutionType, facts.resolutionNotes].filter(Boolean).join(' · ');
    if (facts.status === 'cancelled') return 'Cancelled.';
    return inRoom ? '' : 'Not in its room, so its events do not arrive here.';
  },

  paintHelpers(one) {
    one.rows ??= new Map();
    for (const id of one.rows.keys()) if (!one.helpers.has(id)) one.rows.delete(id);
    const nodes = [...one.helpers.values()].map((helper) => {
      let row = one.rows.get(helper.id);
      if (!row) one.rows.set(helper.id, row = el('li', { title: helper.id }, el('b'), el('span', { class: 'state' }), el('small')));
      const [name, state, note] = row.children;
      setText(name, this.helperName(one, helper.id) + (helper.id === session.user.id ? ' (you)' : ''));
      setText(state, STATUS_TEXTS[helper.status] ?? String(helper.status ?? ''));
      state.dataset.status = helper.status ?? '';
      const rating = helper.helperRating?.average;
      setText(note, [one.away.has(helper.id) ? 'offline' : '', helper.notes, helper.trustScore != null ? `trust ${helper.trustScore}` : '',
        rating != null ? `rated ${rating} (${helper.helperRating.count})` : '', `since ${clockOf(helper.joinedAt)}`].filter(Boolean).join(' · '));
      row.dataset.here = one.away.has(helper.id) ? 'no' : 'yes';
      return row;
    });
    place($('em-helpers'), nodes);
    setText($('em-helpers-count'), String(nodes.length));
    paintPositions($('em-positions'), [...one.positions].map(([id, spot]) => ({ id, name: this.helperName(one, id), ...spot })));
  },

  /** The owner writes to one helper or to all of them; a helper writes to the owner. */
  paintTalk(one, own, helps) {
    $('em-talk').hidden = !(own || helps || one.messages.size > 0);
    if (views.isOpen('emergencies')) one.unread = 0;
    const entries = [...one.messages.values()].map((message) => this.entryOf(one, message));
    const list = $('em-messages');
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    place(list, bubbles(entries, one.nodes));
    if (atEnd) list.scrollTop = list.scrollHeight;
    $('em-say').hidden = !(this.isOpen(one) && (own || helps));
    $('em-to').hidden = !own;
    const reachable = [...one.helpers.values()].filter((helper) => helper.status !== 'cancelled');
    const options = [['', 'all helpers'], ...reachable.map((helper) => [helper.id, this.helperName(one, helper.id)])];
    const text = JSON.stringify(options);
    if ($('em-to').dataset.text === text) return;
    const chosen = $('em-to').value;
    $('em-to').dataset.text = text;
    $('em-to').replaceChildren(...options.map(([value, label]) => el('option', { value, text: label })));
    $('em-to').value = options.some(([value]) => value === chosen) ? chosen : '';
  },

  entryOf(one, message) {
    const mine = this.isOwnMessage(one, message);
    const name = this.senderName(one, message);
    return {
      key: message.id,
      own: mine,
      senderId: String(message.senderId ?? message.senderRole),
      name,
      who: (mine ? 'You' : name) + this.addressee(one, message),
      text: String(message.message ?? ''),
      at: timeOf(message.timestamp),
      state: 'stored',
    };
  },

  /** The recipient, if it is not obvious. */
  addressee(one, message) {
    if (message.senderRole !== 'owner') return '';
    if (message.recipientId === null || message.recipientId === undefined) return ' to all helpers';
    return this.isOwn(one) ? ` to ${this.helperName(one, message.recipientId)}` : '';
  },
};
