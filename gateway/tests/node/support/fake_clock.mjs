// A wall clock that a test can set for a single process: libfaketime. The monotonic clock is unchanged.

import { readdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { temporaryDirectory } from './gateway.mjs';

const INSTALL = 'libfaketime is not installed: run `apt-get install libfaketime`';

function library() {
  for (const folder of ['/usr/lib', ...readdirSync('/usr/lib').filter((name) => name.endsWith('-linux-gnu')).map((name) => `/usr/lib/${name}`)]) {
    try {
      if (readdirSync(`${folder}/faketime`).includes('libfaketime.so.1')) return `${folder}/faketime/libfaketime.so.1`;
    } catch (error) {
      if (error.code !== 'ENOENT') throw error;
    }
  }
  throw new Error(INSTALL);
}

/** A clock: `env` for the process that uses it, and `jump(seconds)`, which sets it forward or back. */
export function fakeClock() {
  const directory = temporaryDirectory();
  const file = join(directory, 'offset');
  let offset = 0;
  const write = () => {
    // Atomic, because the file may be read at any time.
    writeFileSync(`${file}.new`, `${offset >= 0 ? '+' : ''}${offset}\n`);
    renameSync(`${file}.new`, file);
  };
  write();
  return {
    env: { LD_PRELOAD: library(), FAKETIME_TIMESTAMP_FILE: file, FAKETIME_NO_CACHE: '1', FAKETIME_DONT_FAKE_MONOTONIC: '1' },
    jump(seconds) {
      offset += seconds;
      write();
    },
    /** Its current time in milliseconds. */
    now: () => Date.now() + offset * 1_000,
  };
}
