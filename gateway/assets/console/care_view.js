// The user interface of care conversations, as methods of the object `care`.

import { bubbles, timeOf } from './bubbles.js';
import { calls } from './calls.js';
import { $, el, place, setText } from './page.js';
import { presence } from './presence.js';
import { linkState, session } from './session.js';
import { views } from './views.js';

const FILES_MAX = 10;
const HINTS = { user: 'User id', visit: 'Visit id', topic: 'Topic', room: 'Room id' };

/** An attachment as one line: its name or address, and its known properties. */
function fileText(file) {
  if (file === null || typeof file !== 'object') return String(file);
  const size = typeof file.size === 'number' ? `${Math.max(1, Math.round(file.size / 1_024))} KB` : '';
  return [file.name ?? file.filename ?? file.url ?? 'unnamed', file.type ?? file.mimeType, size].filter(Boolean).join(' · ');
}

export const face = {
  listen() {
    $('care-kind').addEventListener('change', () => { $('care-open-id').placeholder = HINTS[$('care-kind').value]; });
    $('care-open').addEventListener('submit', (event) => {
      event.preventDefault();
      const id = $('care-open-id').value.trim();
      if (!id) return;
      $('care-open-id').value = '';
      this.drawForm(false);
      this.open($('care-kind').value, id);
    });
    $('care-open-toggle').addEventListener('click', () => this.drawForm(!$('care-open').classList.contains('open')));
    for (const kind of ['audio', 'video']) $(`care-call-${kind}`).addEventListener('click', () => {
      const one = this.conversations.get(this.active);
      if (one?.peerId) calls.start(kind, one.peerId, this.nameOf(one.peerId));
    });
    $('care-leave').addEventListener('click', () => this.close());
    $('care-older').addEventListener('click', () => this.older());
    $('care-composer').addEventListener('submit', (event) => this.submit(event));
    $('care-message').addEventListener('input', () => this.typed());
    $('care-message').addEventListener('blur', () => this.stopTyping());
    $('care-message').addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) this.submit(event);
    });
    $('care-attach').addEventListener('click', () => $('care-files').click());
    $('care-files').addEventListener('change', () => this.attachFiles());
    for (const toggle of document.querySelectorAll('.desk-toggle')) toggle.addEventListener('click', () => this.drawDesk($('care-desk').hidden));
    $('view-care').addEventListener('keydown', (event) => {
      if (event.key === 'Escape') this.drawDesk(false);
    });
    this.drawDesk(false);
    presence.watchers.add(() => this.paintHead());
  },

  drawForm(open) {
    $('care-open').classList.toggle('open', open);
    $('care-open-toggle').setAttribute('aria-expanded', String(open));
    if (open) $('care-open-id').focus();
  },

  /** Presence and notifications, which are a drawer in a narrow window. */
  drawDesk(open) {
    $('care-desk').hidden = !open;
    for (const toggle of document.querySelectorAll('.desk-toggle')) toggle.setAttribute('aria-expanded', String(open));
  },

  attachFiles() {
    const chosen = [...$('care-files').files].map(({ name, type, size }) => ({ name, type: type || 'unknown', size }));
    this.files = [...this.files, ...chosen].slice(0, FILES_MAX);
    $('care-files').value = '';
    this.paintComposer();
  },

  fitComposer() {
    const box = $('care-message');
    box.style.height = 'auto';
    box.style.height = `${box.scrollHeight + 2}px`;
    this.paintComposer();
  },

  // ---- painting

  /** `keepPlace`: content was added above the visible part. `toEnd`: the user has written a message. */
  paint(keepPlace = false, toEnd = false) {
    this.paintList();
    const unread = [...this.conversations.values()].reduce((sum, one) => sum + one.unread, 0);
    views.badge('care', 'messages', unread);
    const one = this.conversations.get(this.active);
    $('care-room').hidden = !one;
    $('care-empty').hidden = Boolean(one);
    const gone = this.isMissing();
    $('view-care').toggleAttribute('data-missing', gone);
    setText($('care-empty-title'), gone ? 'No care on this node' : 'No conversation open');
    setText($('care-empty-text'), gone ? 'This node does not have the care app on the namespace /.' : 'Open one with a person by their user id, or enter a visit or topic.');
    if (!one) return;
    this.paintHead();
    for (const kind of ['audio', 'video']) $(`care-call-${kind}`).hidden = !one.peerId;
    $('care-call-audio').disabled = !this.present;
    $('care-call-video').disabled = !this.present;
    this.paintComposer();
    this.paintTyping();
    this.paintTimeline(one, keepPlace, toEnd);
  },

  paintHead() {
    const one = this.conversations.get(this.active);
    if (!one) return;
    setText($('care-name'), this.titleOf(one));
    $('care-name').title = one.peerId ?? one.roomId;
    setText($('care-note'), this.noteOf(one));
  },

  isMissing() {
    return !this.present && linkState() === 'connected';
  },

  noteOf(one) {
    if (this.isMissing()) return 'no care on this node';
    if (!this.present) return 'not connected';
    if (one.refusal) return one.refusal;
    if (one.peerId) return presence.textOf(one.peerId);
    const others = [...one.here.keys()].filter((id) => id !== session.user.id).map((id) => this.nameOf(id));
    return one.joined ? (others.length > 0 ? `with ${others.slice(0, 5).join(', ')}${others.length > 5 ? '…' : ''}` : 'no other users here') : 'joining…';
  },

  paintList() {
    const when = ({ last }) => (last ? timeOf(last.timestamp) : 0);
    const list = [...this.conversations.values()].filter((one) => one.opened || one.last).sort((a, b) => when(b) - when(a));
    place($('care-list'), list.map((one) => {
      one.tab ??= el('li', {}, el('button', { type: 'button', class: 'tab', onclick: () => this.show(one) }, el('b'), el('span', { class: 'badge' }), el('small')));
      const [tab] = one.tab.children;
      const [name, badge, last] = tab.children;
      if (one.key === this.active) tab.setAttribute('aria-current', 'true');
      else tab.removeAttribute('aria-current');
      tab.toggleAttribute('data-unread', one.unread > 0);
      setText(name, this.titleOf(one));
      badge.hidden = one.unread === 0;
      setText(badge, String(one.unread));
      badge.setAttribute('aria-label', `${one.unread} unread`);
      const who = one.last?.senderId === session.user.id ? 'You' : this.nameOf(one.last?.senderId);
      setText(last, one.last ? `${who}: ${one.last.message || '(attachment)'}` : '');
      return one.tab;
    }));
  },

  paintTimeline(one, keepPlace = false, toEnd = false) {
    const size = one.messages.size;
    $('care-older').hidden = one.atStart || size === 0 || size >= 1_000;
    $('care-older').disabled = one.paging || !this.present;
    $('care-start').hidden = !one.atStart;
    const box = $('care-timeline');
    const fromBottom = box.scrollHeight - box.scrollTop;
    const atEnd = toEnd || box.dataset.of !== one.key || fromBottom - box.clientHeight < 40;
    box.dataset.of = one.key;
    const failed = (entry) => {
      const waiting = one.messages.get(entry.key);
      return [
        el('button', { type: 'button', class: 'quiet', text: 'Retry', onclick: () => this.send(one, waiting) }),
        el('button', { type: 'button', class: 'quiet', text: 'Discard', onclick: () => this.discard(one, waiting) }),
      ];
    };
    place($('care-messages'), bubbles([...one.messages.values()].map((message) => this.entryOf(message)), one.nodes, failed));
    if (keepPlace) box.scrollTop = box.scrollHeight - fromBottom;
    else if (atEnd) box.scrollTop = box.scrollHeight;
  },

  entryOf(message) {
    const own = message.senderId === session.user.id;
    const name = message.senderName || this.nameOf(message.senderId);
    return {
      key: message.id,
      own,
      senderId: String(message.senderId),
      name,
      who: own ? 'You' : name,
      text: String(message.message ?? ''),
      at: timeOf(message.timestamp),
      state: own ? message.status : 'stored',
      error: message.error,
      attachments: (Array.isArray(message.attachments) ? message.attachments : []).slice(0, FILES_MAX).map(fileText),
    };
  },

  paintComposer() {
    const one = this.conversations.get(this.active);
    $('care-send').disabled = !one || !this.present || one.refusal !== '' || ($('care-message').value.trim() === '' && this.files.length === 0);
    $('care-message').setAttribute('aria-label', one ? `Message to ${this.titleOf(one)}` : 'Message');
    $('care-attached').hidden = this.files.length === 0;
    $('care-attached').replaceChildren(...this.files.map((file) => el('li', {}, fileText(file),
      el('button', { type: 'button', class: 'quiet', 'aria-label': `Do not attach ${file.name}`, text: '✕', onclick: () => { this.files = this.files.filter((other) => other !== file); this.paintComposer(); } }))));
  },

  paintTyping() {
    const one = this.conversations.get(this.active);
    const names = one ? [...one.typing.keys()].map((userId) => this.nameOf(userId)) : [];
    const text = names.length === 0 ? '' : names.length === 1 ? `${names[0]} is typing` : `${names.slice(0, 3).join(', ')} are typing`;
    const line = $('care-typing');
    if (line.dataset.text === text) return;
    line.dataset.text = text;
    line.replaceChildren();
    if (text) line.append(el('span', { text }), el('span', { class: 'dots', 'aria-hidden': 'true' }, el('i'), el('i'), el('i')));
  },
};
