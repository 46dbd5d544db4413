// The user interface of the chat, as methods of the object `chat`.

import { $, clock, collator, dayName, el, fullTime, hueOf, initials, place, setText } from './page.js';
import { MAIN, isGone, linkState, session } from './session.js';
import { views } from './views.js';

const GROUP_MS = 5 * 60_000;
// Live messages beyond this limit remove the oldest ones; loading older messages may hold twice as many.
export const TIMELINE_MAX = 1_000;
export const MESSAGE_CHARS_MAX = 1_000;

export const face = {
  listen() {
    $('join-form').addEventListener('submit', (event) => {
      event.preventDefault();
      const id = $('join-room').value.trim().replace(/^#/, '');
      if (!id) return;
      $('join-form').reset();
      $('join-form').classList.remove('open');
      $('join-open').setAttribute('aria-expanded', 'false');
      this.join(id);
    });
    $('join-open').addEventListener('click', () => {
      const open = $('join-form').classList.toggle('open');
      $('join-open').setAttribute('aria-expanded', String(open));
      if (open) $('join-room').focus();
    });
    for (const button of document.querySelectorAll('[data-join]')) button.addEventListener('click', () => this.join(button.dataset.join));
    $('leave').addEventListener('click', () => this.leave());
    const drawer = (open) => {
      $('members').hidden = !open;
      $('members-toggle').setAttribute('aria-expanded', String(open));
    };
    $('members-toggle').addEventListener('click', () => drawer($('members').hidden));
    $('view-chat').addEventListener('keydown', (event) => {
      if (event.key === 'Escape') drawer(false);
    });
    $('older').addEventListener('click', () => this.older());
    $('timeline').addEventListener('scroll', () => this.scrolled());
    new ResizeObserver(() => this.resized()).observe($('timeline'));
    $('newest').addEventListener('click', () => {
      $('timeline').scrollTop = $('timeline').scrollHeight;
      $('message').focus();
    });
    $('composer').addEventListener('submit', (event) => this.submit(event));
    $('message').addEventListener('input', () => this.typed());
    $('message').addEventListener('blur', () => this.stopTyping());
    $('message').addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) this.submit(event);
    });
  },

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
    views.badge('chat', 'messages', unread);
  },

  /** `keepPlace`: content was added above the visible part, which must not move. */
  paintRoom(keepPlace = false) {
    const room = this.rooms.get(this.active);
    $('room').hidden = !room;
    $('room-empty').hidden = Boolean(room);
    const gone = this.gone();
    $('suggestions').hidden = gone;
    setText($('room-empty-title'), gone ? 'No chat on this node' : 'No room yet');
    setText($('room-empty-text'), gone ? `Nothing answers on the namespace ${MAIN}.` : 'A room is created when its first user joins.');
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

  /** Connected, but not to the chat: the node does not have it, or has disconnected this socket. */
  gone() {
    return this.absent || isGone(this.socket);
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

  fitComposer() {
    const box = $('message');
    box.style.height = 'auto';
    box.style.height = `${box.scrollHeight + 2}px`;
    const length = [...box.value.trim()].length;
    setText($('count'), length > MESSAGE_CHARS_MAX - 200 ? `${length} / ${MESSAGE_CHARS_MAX}` : '');
    $('count').toggleAttribute('data-over', length > MESSAGE_CHARS_MAX);
    this.paintComposer();
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

  /** The button that scrolls down to the newest message, visible when the user has scrolled up. */
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

  /** The timeline's size has changed because of a keyboard, a longer draft or a turned phone. */
  resized() {
    if (this.rooms.get(this.active)?.stick) $('timeline').scrollTop = $('timeline').scrollHeight;
  },
};
