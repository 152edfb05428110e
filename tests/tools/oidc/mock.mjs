// A provider with chosen faults: `oauth2-mock-server`, which needs no account and gives a code for every request.
//
// Arguments: the folder of the tools, options as JSON. `lie` chooses one misbehaviour by name until the next `lie`;
// `{}` is the truth. Delays, errors and closed connections are faults, as with the real one.

import { createHmac } from 'node:crypto';
import { control, frontDoor, listen, load, options, ready, send } from './server.mjs';

const { Events, OAuth2Issuer, OAuth2Service } = await load('oauth2-mock-server/dist/index.mjs');

let lie;
const issuer = new OAuth2Issuer();
const service = new OAuth2Service(issuer);
await issuer.keys.generate('RS256');

const now = () => Math.floor(Date.now() / 1000);
const encoded = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

/** Changes of the claims of an ID token. */
const claims = {
  'wrong-iss': (payload) => { payload.iss = 'https://elsewhere.test'; },
  'wrong-aud': (payload) => { payload.aud = 'somebody-else'; },
  'two-audiences-of-others': (payload) => { payload.aud = ['somebody-else', 'another']; },
  'wrong-azp': (payload) => { payload.azp = 'somebody-else'; },
  'missing-nonce': (payload) => { delete payload.nonce; },
  'wrong-nonce': (payload) => { payload.nonce = 'n0t-yours'; },
  expired: (payload) => { payload.exp = now() - 3600; payload.iat = now() - 7200; payload.nbf = payload.iat; },
  'future-iat': (payload) => { payload.iat = now() + 7200; },
  'future-nbf': (payload) => { payload.nbf = now() + 7200; },
  'missing-exp': (payload) => { delete payload.exp; },
  'missing-sub': (payload) => { delete payload.sub; },
  'missing-iat': (payload) => { delete payload.iat; },
};

/** Changes of a signed ID token. */
const tokens = {
  'alg-none': (token) => `${encoded({ alg: 'none', typ: 'JWT' })}.${token.split('.')[1]}.`,
  // signed with the public key, which every client knows
  'alg-hs256': (token) => {
    const input = `${encoded({ alg: 'HS256', typ: 'JWT' })}.${token.split('.')[1]}`;
    const secret = JSON.stringify(issuer.keys.toJSON()[0]);
    return `${input}.${createHmac('sha256', secret).update(input).digest('base64url')}`;
  },
  'bad-signature': (token) => {
    const [head, payload, signature] = token.split('.');
    return `${head}.${payload}.${signature.startsWith('A') ? 'B' : 'A'}${signature.slice(1)}`;
  },
  'not-a-token': () => 'n.o.token',
};

/** Changes of the answer of the token endpoint. */
const answers = {
  'missing-id-token': (answer) => { delete answer.body.id_token; },
  'missing-access-token': (answer) => { delete answer.body.access_token; },
  'invalid-grant': (answer) => { answer.statusCode = 400; answer.body = { error: 'invalid_grant' }; },
  'token-500': (answer) => { answer.statusCode = 500; answer.body = { error: 'server_error' }; },
  'token-type': (answer) => { answer.body.token_type = 'mac'; },
};

/** Changes of the redirect from the authorization endpoint to the client. */
const redirects = {
  'wrong-state': (url) => url.searchParams.set('state', 'n0t-yours'),
  'missing-state': (url) => url.searchParams.delete('state'),
  'wrong-response-iss': (url) => url.searchParams.set('iss', 'https://elsewhere.test'),
  'missing-response-iss': (url) => url.searchParams.delete('iss'),
  denied: (url) => { url.searchParams.delete('code'); url.searchParams.set('error', 'access_denied'); },
};

const userinfos = {
  'other-sub': (answer) => { answer.body.sub = 'mallory'; },
  'missing-userinfo-sub': (answer) => { delete answer.body.sub; },
  'userinfo-500': (answer) => { answer.statusCode = 500; answer.body = {}; },
};

/** Only this provider reads its access tokens; only ID tokens have an audience here. */
service.on(Events.BeforeTokenSigning, ({ payload }) => {
  if (!payload.aud) return;
  Object.assign(payload, { auth_time: now() }, options.claims, { sub: options.subject });
  claims[lie]?.(payload);
});
service.on(Events.BeforeResponse, (answer) => {
  if (answer.body.id_token && tokens[lie]) answer.body.id_token = tokens[lie](answer.body.id_token);
  answers[lie]?.(answer);
});
service.on(Events.BeforeAuthorizeRedirect, ({ url }) => {
  url.searchParams.set('iss', issuer.url);
  redirects[lie]?.(url);
});
service.on(Events.BeforeUserinfo, (answer) => {
  Object.assign(answer.body, options.claims, { sub: options.subject });
  userinfos[lie]?.(answer);
});

const discovery = () => ({
  issuer: lie === 'discovery-iss' ? 'https://elsewhere.test' : issuer.url,
  authorization_endpoint: `${issuer.url}/authorize`,
  token_endpoint: `${issuer.url}/token`,
  userinfo_endpoint: `${issuer.url}/userinfo`,
  jwks_uri: `${issuer.url}/jwks`,
  end_session_endpoint: `${issuer.url}/endsession`,
  response_types_supported: ['code'],
  subject_types_supported: ['public'],
  id_token_signing_alg_values_supported: ['RS256'],
  token_endpoint_auth_methods_supported: ['client_secret_basic', 'client_secret_post', 'private_key_jwt'],
  code_challenge_methods_supported: ['S256'],
  authorization_response_iss_parameter_supported: true,
  ...options.discovery,
});

const port = await listen(frontDoor((request, response) => {
  if (request.url === '/.well-known/openid-configuration') send(response, 200, discovery());
  else service.requestHandler(request, response);
}));
issuer.url = `http://127.0.0.1:${port}`;

const known = [claims, tokens, answers, redirects, userinfos, { 'discovery-iss': true }].flatMap(Object.keys);
ready({
  port,
  control: await control({
    lie: ({ name }) => {
      if (name !== undefined && !known.includes(name)) throw new Error(`no lie \`${name}\``);
      lie = name;
    },
    lies: () => known,
  }),
});
