// Many incidents at once, written into the database as a node of the previous version left them: without the columns
// that the node computes. Rates do not apply to direct writes.

import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { temporaryDirectory } from './gateway.mjs';

const run = promisify(execFile);
const BATCH = 500;

/** An id in the gateway's format: a UUIDv7 for a time. */
export function uuidOf(ms) {
  const hex = ms.toString(16).padStart(12, '0') + randomBytes(10).toString('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-7${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

/** Runs statements on the database: `sqlite:FILE` or `postgres://…`. Returns their output. */
export async function sql(databaseUrl, statements) {
  const file = join(temporaryDirectory(), 'statements.sql');
  writeFileSync(file, statements);
  const options = { maxBuffer: 64 << 20 };
  const { stdout } = databaseUrl.startsWith('sqlite:')
    ? await run('sqlite3', ['-bail', '-cmd', '.timeout 20000', databaseUrl.slice('sqlite:'.length), `.read ${file}`], options)
    : await run('psql', ['-X', '-q', '-t', '-A', '-v', 'ON_ERROR_STOP=1', '-f', file, databaseUrl], options);
  return stdout.trim();
}

/** The smallest square around a position, computed like in the gateway (`records/squares.rs`). */
function cellOf({ latitude, longitude }) {
  const index = (degrees, span) => BigInt(Math.min(Math.max(Math.floor((degrees / span + 0.5) * 2 ** 30), 0), 2 ** 30 - 1));
  const [north, east] = [index(latitude, 180), index(longitude, 360)];
  let cell = 0n;
  for (let bit = 0n; bit < 30n; bit += 1n) cell |= ((north >> bit & 1n) << (2n * bit + 1n)) | ((east >> bit & 1n) << (2n * bit));
  return cell;
}

/**
 * Adds the columns that the gateway computes to existing incidents, because it needs a while for a hundred thousand.
 */
export async function computeSquares(databaseUrl, incidents) {
  const counts = new Map();
  for (const { userId } of incidents) counts.set(userId, (counts.get(userId) ?? 0) + 1);
  const places = new Map();
  const lines = incidents.map((incident) => {
    const place = (places.get(incident.userId) ?? 0) + 1;
    places.set(incident.userId, place);
    return `UPDATE sos_incidents SET cell = ${cellOf(incident)}, is_extra = ${place > 10 ? 1 : 0}, has_siblings = ${counts.get(incident.userId) > 1 ? 1 : 0} WHERE id = '${incident.id}';`;
  });
  // PostgreSQL does this by itself within a minute of so many changes.
  const tidy = databaseUrl.startsWith('postgres') ? 'VACUUM ANALYZE sos_incidents;' : '';
  await sql(databaseUrl, ['BEGIN;', ...lines, 'COMMIT;', tidy, ''].join('\n'));
}

/** Writes incidents `{id, userId, latitude, longitude, createdAt}`, each with its raiser as a participant. */
export async function writeIncidents(databaseUrl, incidents) {
  const quote = (text) => `'${text.replaceAll("'", "''")}'`;
  const lines = ['BEGIN;'];
  for (let at = 0; at < incidents.length; at += BATCH) {
    const some = incidents.slice(at, at + BATCH);
    lines.push('INSERT INTO sos_incidents (id, user_id, latitude, longitude, description, status, created_at) VALUES',
      `${some.map(({ id, userId, latitude, longitude, createdAt }) => `(${quote(id)}, ${quote(userId)}, ${latitude}, ${longitude}, 'help', 'ACTIVE', ${createdAt})`).join(',\n')};`);
    lines.push('INSERT INTO sos_participants (id, sos_id, user_id, user_type, display_name, actor_type, status, joined_at) VALUES',
      `${some.map(({ id, userId, createdAt }) => `(${quote(uuidOf(createdAt))}, ${quote(id)}, ${quote(userId)}, 'citizen', 'N', 'USER', 'ACTIVE', ${createdAt})`).join(',\n')};`);
  }
  await sql(databaseUrl, [...lines, 'COMMIT;', ''].join('\n'));
}
