// The common part of both OpenID providers of the tests: loading, faults, counting, and the control port.
//
// A provider prints its ports in one line, `ready {"port":…,"control":…}`. The test that started it ends it.

import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

const tools = process.argv[2];

export const options = JSON.parse(process.argv[3]);

export const load = (file) => import(pathToFileURL(`${tools}/node_modules/${file}`));

/** `token`, `jwks`, … → the fault of its requests, and the number of requests that still get it. */
const faults = new Map();
const counts = {};

const later = (ms) => new Promise((done) => setTimeout(done, ms));

async function bodyOf(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

function send(response, status, value) {
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  const type = typeof value === 'string' ? 'text/html; charset=utf-8' : 'application/json';
  response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store' }).end(text);
}

/** Where a path belongs, for faults and counts. */
function place(path) {
  const last = path.split('/').pop();
  return last === 'openid-configuration' ? 'discovery' : last === 'me' ? 'userinfo' : last;
}

function count(at, body) {
  if (at !== 'token') {
    counts[at] = (counts[at] ?? 0) + 1;
    return;
  }
  const kind = new URLSearchParams(body).get('grant_type') ?? 'none';
  counts.token ??= {};
  counts.token[kind] = (counts.token[kind] ?? 0) + 1;
}

/** True if the fault was the answer. */
async function failed(at, response) {
  const fault = faults.get(at);
  if (!fault) return false;
  if (fault.times !== undefined && --fault.times <= 0) faults.delete(at);
  if (fault.delay) await later(fault.delay);
  if (fault.close) response.socket.destroy();
  else if (fault.status) send(response, fault.status, fault.body ?? { error: 'server_error' });
  return Boolean(fault.close || fault.status);
}

/** The server that relying parties talk to. A body is read here, to be counted; `handle` finds it in `request.body`. */
export const frontDoor = (handle) => createServer(async (request, response) => {
  const at = place(new URL(request.url, 'http://provider').pathname);
  const form = request.headers['content-type']?.startsWith('application/x-www-form-urlencoded');
  const body = form ? await bodyOf(request) : undefined;
  if (form) request.body = Object.fromEntries(new URLSearchParams(body));
  count(at, body);
  if (!await failed(at, response)) await handle(request, response);
});

const common = {
  fault: ({ at, ...fault }) => { faults.set(at, fault); },
  heal: () => { faults.clear(); },
  counts: () => counts,
  set: (changes) => { Object.assign(options, changes); },
};

export const listen = (server) => new Promise((done) => {
  server.listen(0, '127.0.0.1', () => done(server.address().port));
});

/** The port that tests give orders at: `POST /name` with JSON. */
export async function control(orders) {
  const all = { ...common, ...orders };
  return listen(createServer(async (request, response) => {
    try {
      const order = all[request.url.slice(1)];
      const argument = JSON.parse(await bodyOf(request) || '{}');
      send(response, order ? 200 : 404, (await order?.(argument)) ?? {});
    } catch (error) {
      send(response, 500, { error: String(error?.stack ?? error) });
    }
  }));
}

export const ready = (at) => console.log(`ready ${JSON.stringify(at)}`);

export { send };
