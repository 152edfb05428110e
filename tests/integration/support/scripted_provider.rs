//! An OpenID provider whose documents and tokens a test writes member by member, as the providers of the market shape
//! them.
//!
//! It asks for no account: every login is `alice`. Tokens are signed with one RS256 key. A `null` in the script removes
//! a member. For a provider's own rules (consent, rotation, PKCE) use `openid::Provider`.

#![allow(dead_code, reason = "a harness has more handles than each of its users needs")]

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::certificates::Pair;
use super::{RawConnection, ScriptedServer, Signer, now};

/// Members to set in the provider's answers.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub discovery: Value,
    /// The answer of the token endpoint to a code.
    pub token: Value,
    /// The answer to a refresh token, over that to a code.
    pub refreshed: Value,
    pub id_claims: Value,
    /// Claims of the access token; an access token without any is opaque.
    pub access_claims: Value,
    /// Members of the access token's header.
    pub access_header: Value,
    pub userinfo: Value,
    /// Members of the published key.
    pub key: Value,
    /// Keys that are published before it, each as changes of the signing key.
    pub keys_before: Vec<Value>,
}

/// One request, as the provider got it.
#[derive(Clone, Debug)]
pub struct ProviderRequest {
    pub path: String,
    pub head: String,
    /// The parameters of query and form.
    pub parameters: HashMap<String, String>,
}

type Hook = Box<dyn FnOnce() + Send>;

pub struct ScriptedProvider {
    server: ScriptedServer,
    shared: Arc<Shared>,
}

struct Shared {
    key: Signer,
    issuer: String,
    script: Mutex<Script>,
    /// The nonce of each code.
    nonces: Mutex<HashMap<String, String>>,
    seen: Mutex<Vec<ProviderRequest>>,
    /// Called before the next answer to a code is sent.
    before_tokens: Mutex<Option<Hook>>,
}

impl ScriptedProvider {
    pub fn start(script: Script) -> Self {
        Self::start_below("", script)
    }

    /// Starts with an issuer that has a path, such as `/realms/acme` or `/`.
    pub fn start_below(path: &str, script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let issuer = format!("http://{}{path}", listener.local_addr().unwrap());
        Self::on(listener, issuer, script)
    }

    /// Starts at `http://localhost:<port>`, which is another site than `http://127.0.0.1`.
    pub fn start_at_localhost(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let issuer = format!("http://localhost:{}", listener.local_addr().unwrap().port());
        Self::on(listener, issuer, script)
    }

    /// Starts with an issuer that does not name this server's address.
    pub fn start_as(issuer: &str, script: Script) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), issuer.to_owned(), script)
    }

    /// Starts behind TLS, at `https://localhost:<port>`.
    pub fn start_tls(certificate: &Pair, script: Script) -> Self {
        let plain = TcpListener::bind("127.0.0.1:0").unwrap();
        let front = tls_front(certificate, plain.local_addr().unwrap());
        Self::on(plain, format!("https://localhost:{}", front.port()), script)
    }

    fn on(listener: TcpListener, issuer: String, script: Script) -> Self {
        let shared = Arc::new(Shared {
            key: Signer::rsa("scripted"),
            script: Mutex::new(script),
            issuer,
            nonces: Mutex::default(),
            seen: Mutex::default(),
            before_tokens: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        let server = ScriptedServer::on(listener, move |head, connection| {
            let answer = serving.answer(head, connection);
            connection.send(answer);
        });
        Self { server, shared }
    }

    pub fn issuer(&self) -> String {
        self.shared.issuer.clone()
    }

    /// The address at which the server really is.
    pub fn url(&self) -> String {
        self.server.url()
    }

    pub fn script(&self, script: Script) {
        *self.shared.script.lock().unwrap() = script;
    }

    /// Calls `hook` after the next code was redeemed and before the gate gets the tokens.
    pub fn before_tokens(&self, hook: impl FnOnce() + Send + 'static) {
        *self.shared.before_tokens.lock().unwrap() = Some(Box::new(hook));
    }

    /// The requests that a path got.
    pub fn requests(&self, path: &str) -> Vec<ProviderRequest> {
        let seen = self.shared.seen.lock().unwrap();
        seen.iter().filter(|request| request.path == path).cloned().collect()
    }

    /// A logout token for the client `gate`.
    pub fn logout_token(&self, claims: &Value) -> String {
        let event = json!({"http://schemas.openid.net/event/backchannel-logout": {}});
        let usual = json!({"iss": self.issuer(), "aud": "gate", "iat": now(), "exp": now() + 120, "jti": format!("{:x}", rand::random::<u64>()),
            "events": event});
        let header = json!({"typ": "logout+jwt"});
        self.shared.sign(&header, &with(usual, claims))
    }
}

impl Shared {
    fn answer(&self, head: &str, connection: &mut RawConnection) -> Vec<u8> {
        let length = head.to_ascii_lowercase();
        let length = length.split("\r\ncontent-length: ").nth(1).map_or(0, |rest| {
            rest.split("\r\n").next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
        });
        let body = connection.read_exactly(length);
        let target = head.split(' ').nth(1).unwrap_or("/");
        // a proxy gets the whole URL
        let target = target
            .strip_prefix("http://")
            .map_or(target, |rest| &rest[rest.find('/').unwrap()..]);
        let base = self.issuer.trim_end_matches('/');
        let below = base.splitn(4, '/').nth(3).map(|path| format!("/{path}")).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = path.strip_prefix(below.as_str()).unwrap_or(path);
        let pairs = form_urlencoded::parse(query.as_bytes()).chain(form_urlencoded::parse(&body));
        let pairs = pairs.map(|(name, value)| (name.into_owned(), value.into_owned()));
        let request = ProviderRequest {
            path: path.to_owned(),
            head: head.to_owned(),
            parameters: pairs.collect(),
        };
        self.seen.lock().unwrap().push(request.clone());
        let script = self.script.lock().unwrap().clone();
        match path {
            "/.well-known/openid-configuration" => json_response(&with(discovery(&self.issuer), &script.discovery)),
            "/jwks" => {
                let before = script.keys_before.iter().map(|changes| with(self.key.jwk.clone(), changes));
                let keys: Vec<Value> = before.chain([with(self.key.jwk.clone(), &script.key)]).collect();
                json_response(&json!({ "keys": keys }))
            }
            "/authorize" => self.authorize(&request),
            "/token" => {
                let answer = json_response(&self.tokens(&script, &request));
                let hook = self.before_tokens.lock().unwrap().take();
                hook.into_iter().for_each(|hook| hook());
                answer
            }
            "/userinfo" => json_response(&with(json!({"sub": "alice"}), &script.userinfo)),
            "/logout" => redirect(request.parameters.get("post_logout_redirect_uri").map_or("/", String::as_str)),
            _ => response("404 Not Found", "text/plain", "no such endpoint"),
        }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        self.key.token_with(&with(self.key.header(), header), claims)
    }

    fn authorize(&self, request: &ProviderRequest) -> Vec<u8> {
        let parameter = |name: &str| request.parameters.get(name).cloned().unwrap_or_default();
        let code = format!("code-{:x}", rand::random::<u64>());
        self.nonces.lock().unwrap().insert(code.clone(), parameter("nonce"));
        let (target, state) = (parameter("redirect_uri"), parameter("state"));
        if parameter("response_mode") == "form_post" {
            let page = format!(
                "<form method=\"post\" action=\"{target}\"><input type=\"hidden\" name=\"code\" value=\"{code}\">\
                 <input type=\"hidden\" name=\"state\" value=\"{state}\"></form><script>document.forms[0].submit()</script>"
            );
            return response("200 OK", "text/html", &page);
        }
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("code", code), ("state", state)])
            .finish();
        redirect(&format!("{target}?{query}"))
    }

    fn tokens(&self, script: &Script, request: &ProviderRequest) -> Value {
        let base = &self.issuer;
        let is_refresh = request
            .parameters
            .get("grant_type")
            .is_some_and(|grant| grant == "refresh_token");
        let code = request.parameters.get("code").cloned().unwrap_or_default();
        let nonce = self.nonces.lock().unwrap().remove(&code);
        let usual = json!({"iss": base, "aud": "gate", "sub": "alice", "iat": now(), "exp": now() + 300, "nonce": nonce});
        let usual = if is_refresh {
            with(usual, &json!({"nonce": null}))
        } else {
            usual
        };
        let id_token = self.sign(&json!({}), &with(usual, &script.id_claims));
        let access = json!({"iss": base, "aud": "api", "sub": "alice", "iat": now(), "exp": now() + 300});
        let access_token = match &script.access_claims {
            Value::Null => format!("opaque-{:x}", rand::random::<u64>()),
            claims => self.sign(&with(json!({"typ": "at+jwt"}), &script.access_header), &with(access, claims)),
        };
        let answer = json!({"access_token": access_token, "token_type": "Bearer", "expires_in": 300, "id_token": id_token});
        let answer = with(answer, &script.token);
        if is_refresh { with(answer, &script.refreshed) } else { answer }
    }
}

fn discovery(issuer: &str) -> Value {
    let base = issuer.trim_end_matches('/');
    json!({"issuer": issuer, "authorization_endpoint": format!("{base}/authorize"), "token_endpoint": format!("{base}/token"),
        "jwks_uri": format!("{base}/jwks"), "userinfo_endpoint": format!("{base}/userinfo"),
        "end_session_endpoint": format!("{base}/logout")})
}

/// Ends TLS and passes one request of each connection on.
fn tls_front(certificate: &Pair, target: SocketAddr) -> SocketAddr {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.cert.as_bytes())
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            std::thread::spawn(move || pass_on(&mut StreamOwned::new(connection, stream), target));
        }
    });
    address
}

/// `None` if the client leaves, for example because it does not trust the certificate.
fn pass_on(client: &mut StreamOwned<ServerConnection, TcpStream>, target: SocketAddr) -> Option<()> {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let length = client.read(&mut buffer).ok().filter(|length| *length > 0)?;
        request.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let body = text.split("\r\ncontent-length: ").nth(1);
        let body: usize = body.map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
        if text.find("\r\n\r\n").is_some_and(|at| request.len() >= at + 4 + body) {
            break;
        }
    }
    let (mut server, mut answer) = (TcpStream::connect(target).ok()?, Vec::new());
    server.write_all(&request).ok()?;
    server.read_to_end(&mut answer).ok()?;
    client.write_all(&answer).ok()?;
    client.conn.send_close_notify();
    client.flush().ok()
}

/// `value` with the members of `changes`; a `null` removes a member.
pub fn with(mut value: Value, changes: &Value) -> Value {
    for (name, change) in changes.as_object().into_iter().flatten() {
        match change {
            Value::Null => drop(value.as_object_mut().unwrap().remove(name)),
            change => value[name] = change.clone(),
        }
    }
    value
}

fn json_response(body: &Value) -> Vec<u8> {
    response("200 OK", "application/json", &body.to_string())
}

fn redirect(target: &str) -> Vec<u8> {
    format!("HTTP/1.1 303 See Other\r\nlocation: {target}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").into_bytes()
}

fn response(status: &str, kind: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
        .into_bytes()
}
