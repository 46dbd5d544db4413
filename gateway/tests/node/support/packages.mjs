// Loads the npm packages that the tests need. The error for a missing one names the command that installs it: a bare
// ERR_MODULE_NOT_FOUND does not help a newcomer, and a skipped test would mislead.

import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const require = createRequire(import.meta.url);
const here = fileURLToPath(new URL('..', import.meta.url));

/** The module `name`, or an error that says how to install it. */
export function load(name) {
  try {
    return require(name);
  } catch (cause) {
    if (cause.code !== 'MODULE_NOT_FOUND') throw cause;
    throw new Error(`the npm package '${name}' is not installed: run \`npm ci --ignore-scripts\` in ${here}`, { cause });
  }
}

/** The same for a package with ES modules only. */
export async function loadModule(name) {
  try {
    return await import(require.resolve(name));
  } catch (cause) {
    if (cause.code !== 'MODULE_NOT_FOUND') throw cause;
    throw new Error(`the npm package '${name}' is not installed: run \`npm ci --ignore-scripts\` in ${here}`, { cause });
  }
}

/** The absolute path of a file inside an npm package, for comparing what the gateway serves. */
export function packageFile(name, path) {
  try {
    return require.resolve(`${name}/${path}`);
  } catch (cause) {
    if (cause.code === 'ERR_PACKAGE_PATH_NOT_EXPORTED') return fileURLToPath(new URL(`../node_modules/${name}/${path}`, import.meta.url));
    throw new Error(`'${name}/${path}' is not there: run \`npm ci --ignore-scripts\` in ${here}`, { cause });
  }
}
