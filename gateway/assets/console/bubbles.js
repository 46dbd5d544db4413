// Messages of emergencies and care as chat bubbles. The chat's own timeline does more (notices, pending messages
// that become stored ones) and creates its own nodes.

import { clock, dayName, el, fullTime, hueOf, initials, setText } from './page.js';

const GROUP_MS = 5 * 60_000;

const MARKS = {
  sending: ['·', 'sending'],
  stored: ['', ''],
  sent: ['✓', 'sent'],
  delivered: ['✓✓', 'delivered'],
  read: ['✓✓', 'read'],
  failed: ['!', 'not sent'],
};

function bubbleNode(entry) {
  const text = el('span', { class: 'text', text: entry.text });
  const files = entry.attachments?.length > 0 ? el('ul', { class: 'files', 'aria-label': 'Attachments' }, ...entry.attachments.map((file) => el('li', { text: file }))) : '';
  return el('li', { class: `msg ${entry.own ? 'own' : ''} ${hueOf(entry.senderId)}` },
    el('span', { class: `avatar ${hueOf(entry.senderId)}`, 'aria-hidden': 'true', text: initials(entry.name) }),
    el('p', { class: 'who' }),
    el('div', { class: 'bubble' }, text, files,
      el('span', { class: 'meta' }, el('time', { datetime: entry.at.toISOString(), title: fullTime.format(entry.at), text: clock.format(entry.at) }),
        el('span', { class: 'mark', role: 'img' }))));
}

/**
 * The nodes of a timeline: entries `{key, own, senderId, name, who, text, at, state, attachments?, error?}`
 * in order; `who` is the heading above the first of several entries of one sender. `nodes` (key → node) keeps the created
 * nodes, so that a repaint moves nothing. `failed(entry)` returns the buttons of a message that was not sent.
 */
export function bubbles(entries, nodes, failed = () => []) {
  const wanted = new Map();
  let previous = null;
  let day = '';
  for (const entry of entries) {
    const ownDay = entry.at.toDateString();
    if (ownDay !== day) {
      day = ownDay;
      wanted.set(`day ${day}`, nodes.get(`day ${day}`) ?? el('li', { class: 'day', text: dayName.format(entry.at) }));
      previous = null;
    }
    const node = nodes.get(entry.key) ?? bubbleNode(entry);
    node.classList.toggle('first', !previous || previous.senderId !== entry.senderId || previous.who !== entry.who || entry.at - previous.at > GROUP_MS);
    paintBubble(node, entry, failed);
    wanted.set(entry.key, node);
    previous = entry;
  }
  nodes.clear();
  for (const [key, node] of wanted) nodes.set(key, node);
  return [...wanted.values()];
}

function paintBubble(node, entry, failed) {
  setText(node.querySelector('.who'), entry.who);
  if (node.dataset.state === entry.state) return;
  node.dataset.state = entry.state;
  const [sign, label] = MARKS[entry.state] ?? MARKS.stored;
  const mark = node.querySelector('.mark');
  mark.hidden = !entry.own || sign === '';
  setText(mark, sign);
  mark.setAttribute('aria-label', label);
  mark.title = label;
  node.querySelector('.failure')?.remove();
  if (entry.state !== 'failed') return;
  node.append(el('p', { class: 'failure', role: 'alert' }, el('span', { text: `Not sent: ${entry.error}` }), ...failed(entry)));
}

/** Parses a timestamp from the node. An unreadable one becomes the current time. */
export function timeOf(text) {
  const at = new Date(text ?? NaN);
  return Number.isNaN(at.getTime()) ? new Date() : at;
}
