//! Headers that apps believe without a proof never come from a client: the lists of frameworks and peers, in any
//! spelling.
//!
//! The lists are those of each software's own documentation, apart from the gate's, so that a gap in the gate's shows.

use crate::http::protocol_parity::start;
use crate::support::binary::run;
use crate::support::http2_frames::{Http2, Outcome, field};
use crate::support::{Gate, PAGE, open_portal, raw};

/// Software, and the request headers that it sets or believes.
const BELIEVED: &[(&str, &[&str])] = &[
    (
        "oauth2-proxy",
        &[
            "X-Forwarded-User",
            "X-Forwarded-Access-Token",
            "X-Auth-Request-User",
            "X-Auth-Request-Email",
            "X-Auth-Request-Groups",
            "X-Auth-Request-Preferred-Username",
            "X-Auth-Request-Access-Token",
            "GAP-Auth",
            "GAP-Signature",
        ],
    ),
    ("authelia", &["Remote-User", "Remote-Groups", "Remote-Name", "Remote-Email"]),
    (
        "authentik",
        &[
            "X-authentik-username",
            "X-authentik-groups",
            "X-authentik-entitlements",
            "X-authentik-email",
            "X-authentik-name",
            "X-authentik-uid",
            "X-authentik-jwt",
            "X-authentik-meta-jwks",
        ],
    ),
    (
        "pomerium",
        &[
            "X-Pomerium-Jwt-Assertion",
            "X-Pomerium-Claim-Email",
            "X-Pomerium-Claim-Groups",
            "X-Pomerium-Authorization",
        ],
    ),
    (
        "vouch",
        &[
            "X-Vouch-User",
            "X-Vouch-Token",
            "X-Vouch-IdP-Claims-Groups",
            "X-Vouch-IdP-AccessToken",
        ],
    ),
    (
        "azure app service",
        &[
            "X-MS-CLIENT-PRINCIPAL",
            "X-MS-CLIENT-PRINCIPAL-ID",
            "X-MS-CLIENT-PRINCIPAL-NAME",
            "X-MS-CLIENT-PRINCIPAL-IDP",
            "X-MS-TOKEN-AAD-ID-TOKEN",
            "X-MS-TOKEN-AAD-ACCESS-TOKEN",
            "X-ARR-ClientCert",
            "X-ARR-SSL",
            "X-Azure-ClientIP",
            "X-Azure-SocketIP",
        ],
    ),
    (
        "cloudflare",
        &[
            "Cf-Access-Authenticated-User-Email",
            "Cf-Connecting-IP",
            "CF-Connecting-IPv6",
            "True-Client-IP",
            "Cf-Pseudo-IPv4",
            "CF-Visitor",
            "CF-IPCountry",
        ],
    ),
    (
        "google iap, app engine, gateways",
        &[
            "X-Goog-Authenticated-User-Email",
            "X-Goog-Authenticated-User-ID",
            "X-AppEngine-User-IP",
            "X-Appengine-Cron",
            "X-Endpoint-API-UserInfo",
            "X-Apigateway-Api-Userinfo",
        ],
    ),
    (
        "aws",
        &[
            "x-amzn-oidc-identity",
            "x-amzn-oidc-data",
            "x-amzn-oidc-accesstoken",
            "x-amzn-ava-user-context",
            "X-Amzn-Mtls-Clientcert",
            "X-Amzn-Mtls-Clientcert-Subject",
            "CloudFront-Forwarded-Proto",
            "CloudFront-Viewer-Address",
        ],
    ),
    (
        "other networks",
        &[
            "Fastly-Client-IP",
            "Fastly-SSL",
            "Fly-Client-IP",
            "X-NF-Client-Connection-IP",
            "X-Vercel-Forwarded-For",
            "DO-Connecting-IP",
            "Incap-Client-IP",
            "X-Sucuri-ClientIP",
            "Ali-Cdn-Real-Ip",
            "X-Akamai-Edgescape",
        ],
    ),
    (
        "traefik and caddy",
        &[
            "X-Forwarded-Tls-Client-Cert",
            "X-Forwarded-Tls-Client-Cert-Info",
            "X-Forwarded-Server",
            "X-Forwarded-Port",
            "X-Forwarded-Prefix",
            "X-Forwarded-Uri",
            "X-Forwarded-Method",
            "X-Real-Ip",
            "X-Token-Subject",
            "X-Token-User-Email",
            "X-Token-User-Roles",
        ],
    ),
    (
        "envoy and istio",
        &[
            "X-Envoy-External-Address",
            "X-Envoy-Internal",
            "X-Envoy-Original-Path",
            "X-Envoy-Original-Host",
            "X-Envoy-Downstream-Service-Node",
            "X-Forwarded-Client-Cert",
        ],
    ),
    (
        "nginx and its ingress",
        &[
            "X-Real-IP",
            "X-Scheme",
            "X-Original-URI",
            "X-Original-URL",
            "X-Original-Method",
            "X-Original-Forwarded-For",
            "X-Forwarded-Scheme",
            "ssl-client-cert",
            "ssl-client-verify",
            "ssl-client-subject-dn",
            "ssl-client-issuer-dn",
            "X-SSL-Client-Verify",
            "X-SSL-Client-S-DN",
            "X-SSL-Cert",
        ],
    ),
    (
        "haproxy",
        &[
            "X-SSL",
            "X-SSL-Client-CN",
            "X-SSL-Client-DN",
            "X-SSL-Client-SHA1",
            "X-SSL-Client-NotBefore",
            "X-SSL-Issuer",
        ],
    ),
    (
        "linkerd, RFC 9440",
        &["l5d-client-id", "l5d-dst-override", "Client-Cert", "Client-Cert-Chain"],
    ),
    (
        "django, flask, wsgi",
        &[
            "REMOTE_USER",
            "Authuser",
            "X-Remote-User",
            "Script-Name",
            "X-Script-Name",
            "Path-Info",
            "X-Forwarded-Host",
            "X-Forwarded-Proto",
        ],
    ),
    (
        "rails and rack",
        &[
            "Client-IP",
            "X-Client-IP",
            "X-Cluster-Client-IP",
            "X-Forwarded-Ssl",
            "X-Sendfile-Type",
            "X-Accel-Mapping",
            "X-HTTP-Method-Override",
            "X-Forwarded",
        ],
    ),
    (
        "php frameworks",
        &[
            "X-Original-URL",
            "X-Rewrite-URL",
            "X-HTTP-Method-Override",
            "X-Forwarded-For",
            "Forwarded-For",
            "Front-End-Https",
            "Proxy",
            "X-Forwarded-Protocol",
        ],
    ),
    (
        "asp.net",
        &[
            "X-Original-For",
            "X-Original-Proto",
            "X-Original-Host",
            "MS-ASPNETCORE-TOKEN",
            "MS-ASPNETCORE-CLIENTCERT",
            "MS-ASPNETCORE-USER",
            "X-Client-Cert",
            "X-IISNode-AUTH_USER",
            "X-IISNode-LOGON_USER",
        ],
    ),
    (
        "java servers",
        &[
            "WL-Proxy-Client-IP",
            "WL-Proxy-SSL",
            "WL-Proxy-Client-Cert",
            "Proxy-Client-IP",
            "$WSRU",
            "$WSCC",
            "$WSRA",
            "SM_USER",
            "SM_USERDN",
            "iv-user",
            "iv-groups",
            "OAM_REMOTE_USER",
        ],
    ),
    (
        "web servers' sign-on",
        &[
            "OIDC_CLAIM_sub",
            "OIDC_CLAIM_email",
            "OIDC_access_token",
            "MELLON_NAME_ID",
            "CAS-User",
            "Shib-Session-ID",
            "eppn",
            "affiliation",
            "persistent-id",
        ],
    ),
    ("next.js", &["x-middleware-subrequest", "x-invoke-path", "x-matched-path"]),
    (
        "kubernetes",
        &[
            "X-Remote-User",
            "X-Remote-Group",
            "X-Remote-Extra-Scopes",
            "Impersonate-User",
            "Impersonate-Group",
            "Impersonate-Extra-Scopes",
        ],
    ),
    (
        "kong and apisix",
        &[
            "X-Consumer-ID",
            "X-Consumer-Username",
            "X-Consumer-Custom-ID",
            "X-Consumer-Groups",
            "X-Credential-Identifier",
            "X-Anonymous-Consumer",
            "X-Authenticated-Userid",
            "X-Authenticated-Scope",
            "X-Userinfo",
            "X-ID-Token",
        ],
    ),
    (
        "apps with proxy logins",
        &[
            "X-WEBAUTH-USER",
            "X-WEBAUTH-GROUPS",
            "X-Proxy-User",
            "X-Proxy-Roles",
            "X-ProxiedEntitiesChain",
            "X-ProxyContextPath",
            "Tailscale-User-Login",
            "Tailscale-User-Name",
            "X-JFrog-Override-Base-Url",
            "X-Auth-Username",
            "X-Auth-Roles",
            "X-RH-Identity",
            "X-Scope-OrgID",
            "THANOS-TENANT",
            "Dapr-Caller-App-Id",
            "Ssl-Offloaded",
        ],
    ),
    (
        "hosting platforms",
        &[
            "X-CloudTasks-QueueName",
            "X-CloudScheduler",
            "X-MS-Original-Url",
            "X-WAWS-Unencoded-URL",
            "X-Replaced-Path",
        ],
    ),
];

/// Headers of real clients, which pass.
const HONEST: &[&str] = &[
    "Accept",
    "Accept-Language",
    "User-Agent",
    "X-Requested-With",
    "X-CSRF-Token",
    "X-API-Key",
    "X-Auth-Token",
    "X-User-Id",
    "X-User-Agent",
    "X-Client-Version",
    "X-Amz-Date",
    "X-Amz-Content-Sha256",
    "X-Amzn-Trace-Id",
    "X-Ms-Version",
    "X-Goog-Api-Key",
    "X-Grpc-Web",
    "X-GitHub-Event",
    "X-Hub-Signature-256",
    "X-Shopify-Topic",
    "X-Middleware-Prefetch",
    "X-Nextjs-Data",
    "Hx-Request",
    "Sec-Fetch-Site",
    "If-Match",
    "Range",
    "Idempotency-Key",
    "Cf-Ray",
    "Soapaction",
    "Destination",
    "Depth",
];

fn bearer(gate: &Gate) -> String {
    format!("Bearer {}", gate.issuer.token("alice", &["viewer"]))
}

/// The names of the app's last request that hold the value which a client sent.
fn forged(gate: &Gate) -> Vec<String> {
    let seen = gate.app.last();
    let is_forged = |value: &http::HeaderValue| value.to_str().is_ok_and(|text| text.contains("forged"));
    seen.headers
        .iter()
        .filter(|(_, value)| is_forged(value))
        .map(|(name, _)| name.to_string())
        .collect()
}

/// Sends the headers over both HTTP versions; each must be answered.
fn send(gate: &Gate, names: &[String]) -> Vec<String> {
    let authorization = bearer(gate);
    let mut headers = vec![("authorization", authorization.as_str())];
    headers.extend(names.iter().map(|name| (name.as_str(), "forged")));
    let answer = raw(gate.proxy, "GET", PAGE, &headers, b"");
    assert_eq!(answer.status, 200, "{names:?}: {}", answer.text());
    let mut found = forged(gate);
    let mut fields = start("GET", PAGE.as_bytes());
    fields.push(field("authorization", &authorization));
    fields.extend(names.iter().map(|name| field(name.to_ascii_lowercase(), "forged")));
    match Http2::open(gate.proxy).exchange(&fields, b"") {
        Outcome::Answer(answer) => assert_eq!(answer.status, 200),
        other => panic!("{names:?}: {other:?}"),
    }
    found.extend(forged(gate));
    found
}

#[test]
fn headers_that_software_believes_never_come_from_a_client() {
    let gate = open_portal().start();
    for (software, names) in BELIEVED {
        let spellings = |spell: fn(&str) -> String| names.iter().map(|name| spell(name)).collect::<Vec<String>>();
        for spelled in [
            spellings(str::to_owned),
            spellings(|name| name.replace('-', "_")),
            spellings(|name| name.replace(['-', '_'], ".").to_ascii_uppercase()),
        ] {
            let found = send(&gate, &spelled);
            assert!(found.is_empty(), "{software}: these reach the app: {found:?}");
        }
    }
}

#[test]
fn headers_of_real_clients_reach_the_app() {
    let gate = open_portal().start();
    let names: Vec<String> = HONEST.iter().map(|name| (*name).to_owned()).collect();
    let mut found = send(&gate, &names);
    found.sort();
    found.dedup();
    assert_eq!(found.len(), HONEST.len(), "{found:?}");
}

#[test]
fn a_trusted_proxy_passes_the_headers_that_the_operator_names_and_no_others() {
    let upstream = "upstream: { url: 'http://{app}', pass_headers: [x-ssl-client-*, remote-user, ssl_client_cert] }";
    let names = ["x-ssl-client-dn", "remote-user", "ssl_client_cert"].map(str::to_owned);
    let others = [
        "x_ssl_client_dn",
        "remote_user",
        "ssl-client-cert",
        "x-real-ip",
        "x-ssl-clients",
    ]
    .map(str::to_owned);
    let trusting = open_portal()
        .config(&format!("trusted_proxies: [127.0.0.1]\n{upstream}"))
        .start();
    let mut found = send(&trusting, &names);
    found.sort();
    assert_eq!(
        found,
        [
            "remote-user",
            "remote-user",
            "ssl_client_cert",
            "ssl_client_cert",
            "x-ssl-client-dn",
            "x-ssl-client-dn"
        ]
    );
    assert_eq!(send(&trusting, &others), Vec::<String>::new());
    // a client that is no trusted proxy
    let distrusting = open_portal()
        .config(&format!("trusted_proxies: [10.0.0.0/8]\n{upstream}"))
        .start();
    assert_eq!(send(&distrusting, &names), Vec::<String>::new());
}

#[test]
fn the_operators_list_replaces_the_default_and_may_include_it() {
    let replaced = open_portal()
        .config("upstream: { url: 'http://{app}', strip_headers: [x-mine, x-our-*] }")
        .start();
    let names = ["x-mine", "x-our-key", "x-real-ip"].map(str::to_owned);
    assert_eq!(send(&replaced, &names), ["x-real-ip", "x-real-ip"]);
    let added = open_portal()
        .config("upstream: { url: 'http://{app}', strip_headers: [default, x-mine, x-our-*] }")
        .start();
    assert_eq!(send(&added, &names), Vec::<String>::new());
}

#[test]
fn the_list_is_printed_by_a_command_and_mistakes_in_it_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (code, text, _) = run(folder.path(), &["config", "headers"]);
    assert_eq!(code, 0);
    for name in [
        "x-auth-request-*",
        "x-authentik-*",
        "x-forwarded-*",
        "remote-*",
        "x-real-*",
        "-wsru",
    ] {
        assert!(text.lines().any(|line| line == name), "{name}: {text}");
    }
    let (code, text, _) = run(folder.path(), &["config", "headers", "--format", "json"]);
    let groups: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, groups[0]["always"].as_bool()), (0, Some(true)), "{text}");
    for (wrong, place) in [
        ("strip_headers: ['x-*-y']", "upstream.strip_headers[0]"),
        ("strip_headers: [default, 'x*']", "upstream.strip_headers[1]"),
        ("strip_headers: ['*']", "upstream.strip_headers[0]"),
        ("pass_headers: [x-forwarded-user]", "upstream.pass_headers[0]"),
        ("pass_headers: [x-ssl-client-dn, 'x-forwarded-*']", "upstream.pass_headers[1]"),
        ("pass_headers: [x-cedargate-roles]", "upstream.pass_headers[0]"),
        ("pass_headers: [X_Forwarded_For]", "upstream.pass_headers[0]"),
        ("pass_headers: ['x-*']", "upstream.pass_headers[0]"),
        ("pass_headers: [authorization]", "upstream.pass_headers[0]"),
    ] {
        let error = open_portal()
            .config(&format!("upstream: {{ url: 'http://{{app}}', {wrong} }}"))
            .try_start()
            .err();
        assert!(
            error.as_ref().is_some_and(|error| error.contains(place)),
            "{wrong}: {error:?}"
        );
    }
}
