// Many incidents at once, written into the records as a node of the version before this one left them: without the
// columns that the node computes. Rates do not apply to who writes into the records.

import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { temporaryDirectory } from './gateway.mjs';

const run = promisify(execFile);
const BATCH = 500;

/** An id as the gateway makes them: a UUIDv7 of a time. */
export function uuidOf(ms) {
  const hex = ms.toString(16).padStart(12, '0') + randomBytes(10).toString('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-7${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

/** Runs statements on the records: `sqlite:FILE` or `postgres://…`. Answers what they print. */
export async function sql(databaseUrl, statements) {
  const file = join(temporaryDirectory(), 'statements.sql');
  writeFileSync(file, statements);
  const options = { maxBuffer: 64 << 20 };
  const { stdout } = databaseUrl.startsWith('sqlite:')
    ? await run('sqlite3', ['-bail', '-cmd', '.timeout 20000', databaseUrl.slice('sqlite:'.length), `.read ${file}`], options)
    : await run('psql', ['-X', '-q', '-t', '-A', '-v', 'ON_ERROR_STOP=1', '-f', file, databaseUrl], options);
  return stdout.trim();
}

/** Writes incidents `{id, userId, latitude, longitude, createdAt}`; each has its raiser as a participant. */
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
