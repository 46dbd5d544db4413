// Locations: distances, ages, the user's own location and the form to set it. There is no map, because map tiles
// would come from a foreign host, which the page's policy forbids.

import { clock, el, fullTime, memory, place, setText } from './page.js';
import { parts, session } from './session.js';

const EARTH_RADIUS_M = 6_371_009;
// The node accepts five positions a second per user; people do not move that fast.
const SHARE_EVERY_MS = 2_000;
const DEVICE = { enableHighAccuracy: true, maximumAge: 5_000, timeout: 15_000 };

const isNumber = (value) => typeof value === 'number' && Number.isFinite(value);

export function isPlace(spot) {
  return isNumber(spot?.latitude) && isNumber(spot?.longitude) && Math.abs(spot.latitude) <= 90 && Math.abs(spot.longitude) <= 180;
}

/** Metres along the earth's surface between two places. */
export function distance(a, b) {
  const rad = (degrees) => (degrees * Math.PI) / 180;
  const half = (degrees) => Math.sin(rad(degrees) / 2) ** 2;
  const chord = half(b.latitude - a.latitude) + Math.cos(rad(a.latitude)) * Math.cos(rad(b.latitude)) * half(b.longitude - a.longitude);
  return 2 * EARTH_RADIUS_M * Math.asin(Math.sqrt(Math.min(1, chord)));
}

export function inMetres(metres) {
  if (!isNumber(metres)) return '';
  if (metres < 1_000) return `${Math.round(metres)} m`;
  return metres < 100_000 ? `${(metres / 1_000).toFixed(1)} km` : `${Math.round(metres / 1_000)} km`;
}

export function coordinates(spot) {
  return isPlace(spot) ? `${spot.latitude.toFixed(5)}, ${spot.longitude.toFixed(5)}` : '–';
}

/** An age in words. Clocks may differ a little, so a future time counts as now. */
export function ago(at) {
  const seconds = Math.round((Date.now() - at) / 1_000);
  if (!isNumber(seconds)) return '–';
  if (seconds < 5) return 'just now';
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min ago`;
  return seconds < 86_400 ? `${Math.floor(seconds / 3_600)} h ago` : `${Math.floor(seconds / 86_400)} days ago`;
}

/** A timestamp in a list: the time for today, the date otherwise, and the full timestamp as a tooltip. */
export function timeNode(text) {
  const at = new Date(text ?? NaN);
  if (Number.isNaN(at.getTime())) return el('time', { text: '–' });
  const today = at.toDateString() === new Date().toDateString();
  return el('time', { datetime: at.toISOString(), title: fullTime.format(at), text: today ? clock.format(at) : fullTime.format(at) });
}

/** The time of day of a timestamp from the node. */
export function clockOf(text) {
  const at = new Date(text ?? NaN);
  return Number.isNaN(at.getTime()) ? '–' : clock.format(at);
}

/** The rows of a table of positions (`[{id, name, latitude, longitude, at}]`), nearest first. */
export function paintPositions(body, positions) {
  const known = isPlace(here.spot);
  const away = (spot) => (known ? distance(here.spot, spot) : 0);
  const rows = [...positions].sort((a, b) => away(a) - away(b) || b.at - a.at).map((spot) => {
    const metres = known ? inMetres(away(spot)) : '–';
    return el('tr', {}, el('th', { scope: 'row', text: spot.name, title: spot.id }), el('td', { class: 'mono', text: coordinates(spot) }),
      el('td', { text: metres }), el('td', { text: ago(spot.at) }));
  });
  // The few rows are rebuilt only after a change, to keep a screen reader's position in the table.
  const text = rows.map((row) => row.textContent).join('\n');
  if (body.dataset.text === text) return;
  body.dataset.text = text;
  place(body, rows);
}

// ---- where I am

export const here = {
  spot: null,
  forms: new Set(),
  // Listeners that are called when the location changes.
  watchers: new Set(),
  watch: null,

  /** The location that this tab remembers, if it belongs to this user. */
  recall() {
    const saved = memory.get('here');
    if (saved?.user === session.user.id && isPlace(saved.spot)) this.set(saved.spot);
  },

  forget() {
    memory.set('here', null);
  },

  clear() {
    this.stop();
    this.spot = null;
    for (const form of this.forms) form.clear();
  },

  detach() {
    for (const form of this.forms) form.ended();
  },

  set(spot, { from } = {}) {
    this.spot = spot;
    memory.set('here', { user: session.user.id, spot });
    for (const form of this.forms) form.moved(form === from);
    for (const notify of this.watchers) notify();
  },

  /** Resolves once with the device's location, or with a reason in words. */
  device() {
    if (!navigator.geolocation) return Promise.resolve({ lost: 'This browser does not support location' });
    return new Promise((resolve) => {
      navigator.geolocation.getCurrentPosition(
        ({ coords }) => resolve({ spot: { latitude: coords.latitude, longitude: coords.longitude } }),
        (error) => resolve({ lost: error.code === error.PERMISSION_DENIED ? 'The browser was not allowed to use its location' : 'The device does not know where it is' }),
        DEVICE,
      );
    });
  },

  /**
   * Follows the device while a form shares its location. Without a device location, only typed coordinates change
   * it.
   */
  follow() {
    if (this.watch !== null || !navigator.geolocation) return;
    this.watch = navigator.geolocation.watchPosition(
      ({ coords }) => this.set({ latitude: coords.latitude, longitude: coords.longitude }),
      () => this.stop(),
      DEVICE,
    );
  },

  stop() {
    if (this.watch !== null) navigator.geolocation.clearWatch(this.watch);
    this.watch = null;
  },
};

parts.push(here);

/**
 * The form for the user's location, created inside `holder`. `share(spot)` sends it to the node and resolves with
 * '' or with the reason of a failure; `verb` is the button's text.
 */
export class PlaceForm {
  constructor(holder, { verb, share }) {
    this.share = share;
    this.sentAt = -Infinity;
    this.timer = undefined;
    const field = (name, label, max) => {
      const id = `${holder.id}-${name}`;
      const input = el('input', { id, class: 'mono', type: 'number', step: 'any', min: -max, max, inputmode: 'decimal', autocomplete: 'off', required: true });
      return [input, el('p', {}, el('label', { for: id, text: label }), input)];
    };
    const [latitude, latitudeField] = field('latitude', 'Latitude', 90);
    const [longitude, longitudeField] = field('longitude', 'Longitude', 180);
    Object.assign(this, { latitude, longitude });
    this.live = el('input', { type: 'checkbox' });
    this.note = el('p', { class: 'note', role: 'status' });
    this.form = el('form', { class: 'place' },
      el('div', { class: 'halves' }, latitudeField, longitudeField),
      el('p', { class: 'actions' },
        el('label', { class: 'check' }, this.live, 'keep sharing'),
        el('button', { type: 'button', text: 'Locate me', onclick: () => this.fromDevice() }),
        el('button', { type: 'submit', class: 'primary', text: verb })),
      this.note);
    this.form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.typed();
      this.send();
    });
    for (const input of [latitude, longitude]) input.addEventListener('change', () => this.typed());
    this.live.addEventListener('change', () => this.liveChanged());
    holder.append(this.form);
    here.forms.add(this);
    this.moved(false);
  }

  typed() {
    const spot = { latitude: this.latitude.valueAsNumber, longitude: this.longitude.valueAsNumber };
    if (isPlace(spot)) here.set(spot, { from: this });
  }

  async fromDevice() {
    setText(this.note, 'Asking the device…');
    const { spot, lost } = await here.device();
    setText(this.note, lost ?? '');
    if (spot) here.set(spot);
  }

  liveChanged() {
    if (this.live.checked) {
      here.follow();
      if (here.spot) this.send();
    } else if ([...here.forms].every((form) => !form.live.checked)) {
      here.stop();
    }
  }

  /** The location has changed. Leaves the fields alone while the user types in them. */
  moved(own) {
    if (!own) {
      this.latitude.value = here.spot?.latitude ?? '';
      this.longitude.value = here.spot?.longitude ?? '';
    }
    if (!this.live.checked || !here.spot) return;
    clearTimeout(this.timer);
    const wait = this.sentAt + SHARE_EVERY_MS - performance.now();
    if (wait <= 0) this.send();
    else this.timer = setTimeout(() => this.send(), wait);
  }

  async send() {
    clearTimeout(this.timer);
    if (!isPlace(here.spot)) return;
    this.sentAt = performance.now();
    const failure = await this.share(here.spot);
    setText(this.note, failure || `Shared at ${clock.format(new Date())}`);
    this.note.toggleAttribute('data-bad', failure !== '');
  }

  /** The connection has ended, so sharing stops: the next connection must not share without the user's consent. */
  ended() {
    clearTimeout(this.timer);
    this.live.checked = false;
    here.stop();
  }

  /** The note about the last attempt is no longer valid. */
  unsay() {
    setText(this.note, '');
    this.note.removeAttribute('data-bad');
  }

  clear() {
    this.ended();
    this.unsay();
    this.moved(false);
  }
}
