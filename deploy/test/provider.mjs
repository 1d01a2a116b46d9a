// An imitation of the provider for the tests of what is deployed: a token endpoint and an API, by TLS, HTTP/1.1 and
// HTTP/2, on one port. Usage: provider.mjs PORT KEY CERTIFICATE [SECONDS]: how long its tokens live, 5 by default.
//
// Unlike `token-valet sandbox` it is another process, so that what is tested is `token-valet run`.
import { readFileSync } from "node:fs";
import { createSecureServer } from "node:http2";

const [port, key, cert, life = 5] = process.argv.slice(2);
let issued = 0;

function token(response) {
  issued += 1;
  const refresh = { refresh_token: `refresh-${issued}` };
  reply(response, 200, { access_token: `access-${issued}`, token_type: "Bearer", expires_in: Number(life), ...refresh });
}

function reply(response, status, body) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(body));
}

const server = createSecureServer({ allowHTTP1: true, key: readFileSync(key), cert: readFileSync(cert) });
server.on("request", (request, response) => {
  let length = 0;
  request.on("data", (chunk) => (length += chunk.length));
  request.on("end", () => {
    const { pathname } = new URL(request.url, "https://provider");
    if (pathname === "/token") return token(response);
    if (!/^Bearer access-\d+$/.test(request.headers.authorization ?? "")) return reply(response, 401, { no: "token" });
    if (pathname === "/rejected") return reply(response, 401, { message: "the token is not good" });
    if (pathname === "/broken") return reply(response, 500, { message: "it is broken" });
    if (pathname === "/slow") return setTimeout(() => reply(response, 200, { slow: true }), 1000);
    reply(response, 200, { http: request.httpVersion, length });
  });
});
// Plain 0.0.0.0, as there may be no IPv6.
server.listen(Number(port), "0.0.0.0", () => console.log("listening"));
process.on("SIGTERM", () => process.exit(0));
