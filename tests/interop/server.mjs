// An OAuth server that nobody here wrote, with an API that takes only the tokens this server calls live.
//
// It reads its settings as one line of JSON, answers {"port": N} in another once it serves, and ends with its standard
// input.
//
//   /token      the token endpoint, all of it oidc-provider's own
//   /api/...    200 for an access token that is live, else 401
//   /control/   what a test makes happen, and what has happened

import { once } from 'node:events';
import { createServer } from 'node:https';
import { createInterface } from 'node:readline';
import Provider from 'oidc-provider';

const HOUR = 3600;

const input = createInterface({ input: process.stdin });
const [line] = await once(input, 'line');
input.once('close', () => process.exit());
const { certificate, key, clients, scopes, tokenLife } = JSON.parse(line);

const server = createServer({ cert: certificate, key });
await once(server.listen(0, '127.0.0.1'), 'listening');
const { port } = server.address();

const provider = new Provider(`https://127.0.0.1:${port}`, {
  clients,
  scopes,
  features: { clientCredentials: { enabled: true }, devInteractions: { enabled: false } },
  rotateRefreshToken: true,
  ttl: {
    AccessToken: tokenLife,
    ClientCredentials: tokenLife,
    AuthorizationCode: HOUR,
    RefreshToken: HOUR,
    Grant: HOUR,
  },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
});

const seen = { exchanges: [], refusals: [], refreshTokens: [], grantsRevoked: 0 };
const tokenSeen = (value) => seen.refreshTokens.find((token) => token.value === value);

provider.on('grant.success', ({ headers, oidc }) => {
  const credentials = headers.authorization ? 'header' : 'body';
  seen.exchanges.push(`${oidc.params.grant_type}, credentials in the ${credentials}`);
});
provider.on('grant.error', (_, error) => seen.refusals.push(`${error.statusCode} ${error.message}`));
provider.on('grant.revoked', () => { seen.grantsRevoked += 1; });
provider.on('refresh_token.saved', ({ jti }) => seen.refreshTokens.push({ value: jti, consumed: 0 }));
provider.on('refresh_token.consumed', ({ jti }) => { tokenSeen(jti).consumed += 1; });

// A user's consent, given to the client without a browser.
let consent;
async function giveConsent(clientId) {
  consent = new provider.Grant({ accountId: 'user', clientId });
  const scope = scopes.join(' ');
  consent.addOIDCScope(scope);
  const grantId = await consent.save(HOUR);
  const client = await provider.Client.find(clientId);
  return { accountId: 'user', client, grantId, gty: 'authorization_code', redirectUri: client.redirectUris[0], scope };
}

async function withdrawConsent() {
  const { AccessToken, RefreshToken } = provider;
  await Promise.all([AccessToken, RefreshToken].map((model) => model.revokeByGrantId(consent.jti)));
  await consent.destroy();
}

const control = {
  'GET /control/seen': () => seen,
  'POST /control/code': async (client) => new provider.AuthorizationCode(await giveConsent(client)).save(),
  'POST /control/refresh-token': async (client) => new provider.RefreshToken(await giveConsent(client)).save(),
  'POST /control/withdraw-consent': withdrawConsent,
};

async function isLive(authorization = '') {
  const [, value] = authorization.match(/^Bearer (\S+)$/) ?? [];
  const token = await provider.AccessToken.find(value) ?? await provider.ClientCredentials.find(value);
  return token?.isValid ?? false;
}

const oauth = provider.callback();

server.on('request', async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, provider.issuer);
  if (pathname.startsWith('/api/')) {
    const live = await isLive(request.headers.authorization);
    response.writeHead(live ? 200 : 401, live ? {} : { 'www-authenticate': 'Bearer error="invalid_token"' }).end();
  } else if (pathname.startsWith('/control/')) {
    const answer = await control[`${request.method} ${pathname}`](searchParams.get('client'));
    response.end(JSON.stringify(answer ?? null));
  } else {
    oauth(request, response);
  }
});

console.log(JSON.stringify({ port }));
