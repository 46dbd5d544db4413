// Runs what documents show to their readers beside snippets for sockets: requests by the shell, the hook of document 001
// by React in a browser. The files in `sos/` and `care/` hold them letter for letter; all that is put in its place is what
// a reader would put in, too: the host, and the token.

import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';

import { load } from '../support/packages.mjs';

const HOST = /http:\/\/(bff-citizen|localhost):\d+/g;

const text = (file, document = 'sos') => readFileSync(new URL(`./${document}/${file}`, import.meta.url), 'utf8');

/** Runs a request of a document (a folder here) against a gateway; answers the JSON that it prints. */
export async function request(name, { url, token, document }) {
  const command = text(`${name}.sh`, document).replaceAll(HOST, url).replaceAll('eyJhbGc...', token);
  const { stdout } = await promisify(execFile)('bash', ['-c', command]);
  return JSON.parse(stdout);
}

/** A script for a page with an element `root`: the document's component, mounted with `props`. */
export async function component({ url, props }) {
  const source = `${text('use-participants.tsx').replaceAll(HOST, url)}
    import { createRoot } from 'react-dom/client';
    createRoot(document.getElementById('root')).render(<ParticipantsList {...${JSON.stringify(props)}} />);
  `;
  const { outputFiles } = await load('esbuild').build({
    stdin: { contents: source, loader: 'tsx', resolveDir: new URL('..', import.meta.url).pathname },
    bundle: true,
    write: false,
    jsx: 'automatic',
    logLevel: 'silent',
  });
  return outputFiles[0].text;
}
