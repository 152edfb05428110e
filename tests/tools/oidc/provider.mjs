// A real OpenID provider for the tests: `oidc-provider` with accounts that need no password and consent to everything.
//
// Arguments: the folder of the tools, options as JSON (see `tests/integration/support/openid.rs`). Clients and accounts
// come through the control port, also later; `set` changes most options of a running provider. `shape` has the peculiarities of
// a provider of the market: the path of its issuer, its routes, keys, claims, access tokens and logout.

import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { Store, all, forget, remember, revokeGrant } from './store.mjs';
import { control, frontDoor, listen, load, options, ready, send } from './server.mjs';

const { default: Provider, errors, interactionPolicy } = await load('oidc-provider/lib/index.js');

const accounts = new Map();
const shape = { path: '', alg: 'RS256', claims: ['tenant', 'roles', 'groups'], extra_params: [], ...options.shape };
const mount = shape.path.replace(/\/$/, '');
let provider;

function key(type, parameters, alg) {
  const { privateKey } = generateKeyPairSync(type, parameters);
  return { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), alg, use: 'sig' };
}

const keys = () => [
  key('rsa', { modulusLength: 2048 }, shape.keys_without_alg ? undefined : shape.alg.replace('ES', 'RS')),
  key('ec', { namedCurve: 'P-256' }, 'ES256'),
];

/** Access tokens are JWTs for an API of the provider's choice, if the shape has any. */
const apis = shape.access && {
  enabled: true,
  defaultResource: () => 'https://api.example',
  useGrantedResource: () => true,
  getResourceServerInfo: () => ({
    scope: '', audience: shape.access.aud, accessTokenFormat: 'jwt', jwt: { sign: { alg: shape.alg } },
  }),
};

/** Of the asked-for levels the first that this provider knows. */
const wanted = (asked = '') => asked.split(' ').find((acr) => options.acr_values.includes(acr));

/** A login of a lower level is not enough for a client that asks for a higher one, unless levels are ignored. */
function policy() {
  const { Check, base } = interactionPolicy;
  const prompts = base();
  prompts.get('login').checks.add(new Check('acr', 'another login is needed', ({ oidc }) => {
    const acr = options.honours_acr && wanted(oidc.params.acr_values);
    return Boolean(acr) && oidc.session.acr !== acr && !oidc.result?.login;
  }));
  return prompts;
}

const configuration = (jwks) => ({
  adapter: Store,
  jwks: { keys: jwks },
  acrValues: options.acr_values,
  claims: {
    openid: ['sub', ...shape.claims],
    email: ['email', 'email_verified'],
    profile: ['name'],
  },
  conformIdTokenClaims: false,
  routes: shape.routes,
  extraParams: shape.extra_params,
  subjectTypes: ['public', 'pairwise'],
  pairwiseIdentifier: async (_ctx, account) => `pairwise-of-${account}`,
  extraTokenClaims: async () => shape.access?.claims,
  formats: { customizers: { jwt: (_ctx, _token, jwt) => { jwt.header = { ...jwt.header, ...shape.access?.header }; } } },
  cookies: { keys: ['not a secret'] },
  pkce: { required: () => true },
  rotateRefreshToken: true,
  issueRefreshToken: async (_ctx, client, code) => client.grantTypeAllowed('refresh_token')
    && (options.always_refresh || code.scopes.has('offline_access')),
  ttl: {
    AccessToken: () => options.access_token_seconds,
    IdToken: () => options.id_token_seconds,
    AuthorizationCode: 60,
    RefreshToken: () => options.refresh_token_seconds,
    Interaction: 600,
    Session: 3600,
    Grant: 3600,
  },
  features: {
    devInteractions: { enabled: false },
    backchannelLogout: { enabled: true },
    revocation: { enabled: true },
    deviceFlow: {
      enabled: true,
      userCodeInputSource: async (ctx, form) => { ctx.body = `<!doctype html><title>Code</title>${form}`; },
      userCodeConfirmSource: async (ctx, form, _client, _device, code) => {
        ctx.body = `<!doctype html><title>Confirm</title><code>${code}</code>${form}`;
      },
      successSource: async (ctx) => { ctx.body = '<!doctype html><title>Done</title>'; },
    },
    ...(apis && { resourceIndicators: apis }),
    rpInitiatedLogout: {
      enabled: !shape.no_end_session,
      logoutSource: async (ctx, form) => {
        ctx.body = `<!doctype html><title>Sign out</title>${form}
          <button type="submit" form="op.logoutForm" name="logout" value="yes">Sign out</button>`;
      },
    },
  },
  interactions: { policy: policy(), url: (_ctx, interaction) => `${mount}/interaction/${interaction.uid}` },
  findAccount: async (_ctx, sub) => accounts.has(sub)
    ? { accountId: sub, claims: async (use) => (use === options.claims_in || use === 'userinfo' ? { ...accounts.get(sub), sub } : { sub }) }
    : undefined,
  renderError: async (ctx, out) => { ctx.body = out; },
  // its own guard against requests to this machine would keep logouts from arriving
  fetch: (url, { dispatcher: _guard, ...rest }) => fetch(url, rest),
});

const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';

/** RFC 8693: a token of the same account for the client that asks. The provider has authenticated the client before. */
async function exchange(ctx) {
  const { client, params } = ctx.oidc;
  if (params.subject_token_type !== ACCESS_TOKEN) throw new errors.InvalidRequest('subject_token_type');
  const subject = await provider.AccessToken.find(params.subject_token);
  if (!subject?.isValid) throw new errors.InvalidGrant('the subject token is not valid');
  const grant = new provider.Grant({ accountId: subject.accountId, clientId: client.clientId });
  grant.addOIDCScope('openid');
  const token = new provider.AccessToken({
    accountId: subject.accountId, client, grantId: await grant.save(), gty: 'token_exchange', scope: 'openid',
  });
  ctx.body = {
    access_token: await token.save(), token_type: 'Bearer', issued_token_type: ACCESS_TOKEN,
    expires_in: token.expiration, scope: 'openid',
  };
}

function serve(issuer, jwks) {
  provider = new Provider(issuer, configuration(jwks));
  provider.registerGrantType(EXCHANGE, exchange, ['audience', 'resource', 'scope', 'requested_token_type', 'subject_token',
    'subject_token_type'], ['audience', 'resource']);
  provider.on('server_error', (_ctx, error) => console.error(error));
}

const page = (uid, problem = '') => `<!doctype html><html lang="en"><title>Sign in</title>
<form method="post" action="${mount}/interaction/${uid}">
<p>${problem}</p>
<label for="login">Account</label> <input id="login" name="login" autofocus>
<button type="submit">Sign in</button> <button type="submit" name="cancel" value="yes">Cancel</button>
</form></html>`;

async function consent(request, response, { params, session, prompt, grantId }) {
  const grant = (grantId && await provider.Grant.find(grantId))
    || new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope((prompt.details.missingOIDCScope ?? params.scope?.split(' ') ?? []).join(' '));
  if (prompt.details.missingOIDCClaims) grant.addOIDCClaims(prompt.details.missingOIDCClaims);
  await provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } });
}

async function interact(request, response, uid) {
  const details = await provider.interactionDetails(request, response);
  const name = request.body?.login;
  if (details.prompt.name === 'consent') return consent(request, response, details);
  if (request.method !== 'POST') return send(response, 200, page(uid));
  if (request.body?.cancel) {
    return provider.interactionFinished(request, response, { error: 'access_denied', error_description: 'cancelled' });
  }
  if (!accounts.has(name)) return send(response, 400, page(uid, 'There is no such account.'));
  const acr = options.honours_acr ? wanted(details.params.acr_values) : undefined;
  const login = { accountId: name, acr: acr ?? options.acr_values[0], amr: ['pwd'] };
  return provider.interactionFinished(request, response, { login });
}

const server = frontDoor(async (request, response) => {
  if (mount && request.url.startsWith(`${mount}/`)) {
    request.originalUrl = request.url;
    request.url = request.url.slice(mount.length);
  }
  const uid = request.url.match(/^\/interaction\/([\w-]+)$/)?.[1];
  try {
    await (uid ? interact(request, response, uid) : provider.callback()(request, response));
  } catch (error) {
    send(response, error.statusCode ?? 500, { error: error.message });
  }
});

/** Ends every session of an account; clients with a logout address are notified. Answers with each notified client and its answer. */
async function logout({ account }) {
  const told = [];
  for (const [id, session] of all('Session').filter(([, found]) => found.accountId === account)) {
    for (const [clientId, { sid, grantId }] of Object.entries(session.authorizations ?? {})) {
      const client = await provider.Client.find(clientId);
      if (client?.backchannelLogoutUri) {
        const outcome = await client.backchannelLogout(account, sid).then(() => 'ok', (error) => error.message);
        told.push({ client: clientId, sid, outcome });
      }
      if (grantId) revokeGrant(grantId);
    }
    forget(`Session:${id}`);
  }
  return { told };
}

function revoke({ account }) {
  const grants = all('Grant').filter(([, grant]) => grant.accountId === account);
  for (const [id] of grants) {
    revokeGrant(id);
    forget(`Grant:${id}`);
  }
  return { grants: grants.length };
}

const port = await listen(server);
const issuer = `http://127.0.0.1:${port}${shape.path}`;
serve(issuer, keys());
const orders = {
  client: (metadata) => { remember(`Client:${metadata.client_id}`, metadata); },
  account: ({ name, claims }) => { accounts.set(name, claims); },
  forget: ({ account }) => { accounts.delete(account); },
  logout,
  revoke,
  rotate: () => serve(issuer, keys()),
};
ready({ port, control: await control(orders) });
