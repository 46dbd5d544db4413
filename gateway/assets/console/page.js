// Helpers for all parts of the page: elements, texts, times, toasts, state that survives a reload, lists of events.
// This module is independent of the connection.
//
// Data from the network enters the page only through `text` and `setText`, never as markup.

const TOAST_MS = 8_000;
const JSON_CHARS_MAX = 20_000;

export const $ = (id) => document.getElementById(id);

/** Creates an element. `props` are attributes, except `text`, `class` and `on…` listeners. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === 'text') node.textContent = value;
    else if (name === 'class') node.className = value;
    else if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children);
  return node;
}

/** Writes only changes, so that selections and a screen reader's position survive a repaint. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Puts `wanted` into `parent` in this order, moving as few nodes as possible. */
export function place(parent, wanted) {
  const keep = new Set(wanted);
  for (const child of [...parent.children]) if (!keep.has(child)) child.remove();
  let at = parent.firstElementChild;
  for (const node of wanted) {
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
  }
}

export const collator = new Intl.Collator();
export const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
export const dayName = new Intl.DateTimeFormat(undefined, { weekday: 'long', day: 'numeric', month: 'long' });
export const fullTime = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });

export function preciseTime(date) {
  const two = (n) => String(n).padStart(2, '0');
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, '0')}`;
}

export function inWords(ms) {
  const minutes = Math.round(ms / 60_000);
  if (minutes < 1) return 'under a minute';
  if (minutes < 120) return `${minutes} min`;
  if (minutes < 48 * 60) return `${Math.round(minutes / 60)} h`;
  return `${Math.round(minutes / 1440)} days`;
}

export function initials(name) {
  const words = name.split(/[\s._@-]+/u).filter(Boolean);
  const letters = words.length > 1 ? [words[0], words[1]].map((word) => [...word][0]) : [...(words[0] ?? '?')].slice(0, 2);
  return letters.join('').toUpperCase();
}

export function hueOf(id) {
  let hash = 0;
  for (const char of id) hash = (hash * 31 + char.codePointAt(0)) >>> 0;
  return `hue-${hash % 8}`;
}

/** JSON for display: binary data is only named, and long values are cut. */
export function toJson(value, indent) {
  const text = JSON.stringify(value, (key, inner) => {
    if (inner instanceof ArrayBuffer || ArrayBuffer.isView(inner)) return `‹${inner.byteLength} bytes›`;
    return typeof inner === 'bigint' ? String(inner) : inner;
  }, indent) ?? '';
  return text.length > JSON_CHARS_MAX ? `${text.slice(0, JSON_CHARS_MAX)}… (${text.length} characters)` : text;
}

/** Scrolls to what was just opened; on a phone it is below everything else. */
export function bringIntoView(node) {
  // `scrollIntoView` would also scroll the page around the view, which the user cannot scroll back.
  for (const box of [node.closest('.stage'), node.closest('.view')]) {
    box.scrollTop += node.getBoundingClientRect().top - box.getBoundingClientRect().top;
  }
}

/** Removes what the last user may have left in these elements. */
export function empty(...ids) {
  for (const id of ids) {
    $(id).replaceChildren();
    delete $(id).dataset.text;
  }
}

const isShown = (node) => node.getClientRects().length > 0 && !node.disabled;

/** Runs `change`. If it removes the focused control inside `holder`, moves the focus to the next control there. */
export function keepFocus(holder, change) {
  const focused = holder.contains(document.activeElement) ? document.activeElement : null;
  change();
  if (!focused || isShown(focused)) return;
  const next = [...holder.querySelectorAll('button, input, select, textarea')].find(isShown);
  (next ?? $('main')).focus();
}

export function toast(text) {
  const same = [...$('toasts').children].find((node) => node.dataset.text === text);
  same?.remove();
  const node = el('div', { class: 'toast' }, el('p', { text }));
  node.dataset.text = text;
  let timer;
  const dismiss = () => { clearTimeout(timer); node.remove(); };
  const hold = () => clearTimeout(timer);
  const release = () => { clearTimeout(timer); timer = setTimeout(dismiss, TOAST_MS); };
  node.append(el('button', { type: 'button', class: 'quiet', 'aria-label': 'Dismiss', text: '✕', onclick: dismiss }));
  for (const event of ['mouseenter', 'focusin']) node.addEventListener(event, hold);
  for (const event of ['mouseleave', 'focusout']) node.addEventListener(event, release);
  $('toasts').append(node);
  while ($('toasts').children.length > 4) $('toasts').firstElementChild.remove();
  release();
}

/** Sets `key` as the newest of `map`, and drops the oldest beyond `max`. */
export function setBounded(map, key, value, max) {
  map.delete(key);
  map.set(key, value);
  if (map.size > max) map.delete(map.keys().next().value);
}

/** State that survives a reload of this tab. Without storage, the page simply forgets it. */
export const memory = {
  get(key) {
    try { return JSON.parse(sessionStorage.getItem(`muster.${key}`)); } catch { return null; }
  },
  set(key, value) {
    try {
      if (value === null) sessionStorage.removeItem(`muster.${key}`);
      else sessionStorage.setItem(`muster.${key}`, JSON.stringify(value));
    } catch { /* Without storage a reload asks for the token again. */ }
  },
};

const DIRECTIONS = { in: ['↓', 'in'], out: ['↑', 'out'], sys: ['·', 'link'] };

/** A line in a list of events: a summary that opens into indented JSON. */
export function lineNode({ at, dir, namespace, event, args }, full) {
  const value = args.length === 1 ? args[0] : args;
  const summary = el('summary', {}, el('span', { class: 'at', text: preciseTime(at) }));
  if (full) {
    const [sign, label] = DIRECTIONS[dir];
    summary.append(el('span', { class: 'dir', role: 'img', text: sign, title: label, 'aria-label': label }), el('span', { class: 'ns', text: namespace }));
  }
  summary.append(el('span', { class: 'event', text: event }), el('span', { class: 'json', text: args.length > 0 ? toJson(value) : '' }));
  const details = el('details', {}, summary);
  // The indented form costs as much again, and most lines are never opened.
  details.addEventListener('toggle', () => {
    if (details.open && details.children.length === 1) details.append(el('pre', { text: toJson(value, 2) }));
  });
  const node = el('li', {}, details);
  node.dataset.dir = dir;
  return node;
}

/** Appends a line, removes lines beyond the limit, and follows the end only if the user was there. */
export function addLine(list, node, max) {
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(node);
  while (list.children.length > max) list.firstElementChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}
