//! Logins at a scripted provider: every wrong response of token endpoint and userinfo, every wrong ID token and logout
//! token.
//!
//! The tests need no session store: they begin after `state` was opened.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::complete::Parameters;
use super::*;
use crate::authn::{PresentedToken, SigningKey};
use crate::base::clock::unix_seconds;
use crate::session::{Grant, Handle, RefreshError};

const CLIENT: &str = "gate";
const SECRET: &str = "s3cret:with/odd chars";
const CODE: &str = "code-4711";
const ACCESS: &str = "access-4711";
const PATIENCE: Duration = Duration::from_secs(10);

/// The provider's behaviour: members to set in its responses; `null` removes a member.
#[derive(Clone, Default)]
struct Script {
    discovery: Value,
    tokens: Value,
    claims: Value,
    header: Value,
    userinfo: Value,
    /// Whole responses by path, in place of the usual ones.
    raw: Vec<(&'static str, String)>,
    /// Signs with a key that is not published.
    forged: bool,
    /// The whole ID token, in place of a signed one.
    id_token: Option<String>,
    slow: Option<Duration>,
}

struct Provider {
    base: String,
    key: SigningKey,
    other: SigningKey,
    script: Mutex<Script>,
    seen: Mutex<Vec<String>>,
}

impl Provider {
    async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = Arc::new(Self {
            base: format!("http://{}", listener.local_addr().unwrap()),
            key: SigningKey::generate().unwrap(),
            other: SigningKey::generate().unwrap(),
            script: Mutex::default(),
            seen: Mutex::default(),
        });
        let serving = Arc::clone(&provider);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let provider = Arc::clone(&serving);
                tokio::spawn(async move { provider.serve(stream).await });
            }
        });
        provider
    }

    async fn serve(&self, mut stream: TcpStream) {
        let (mut text, mut buffer) = (String::new(), [0; 4096]);
        loop {
            let length = stream.read(&mut buffer).await.unwrap_or(0);
            text.push_str(&String::from_utf8_lossy(&buffer[..length]));
            let head = text.find("\r\n\r\n");
            let body = text
                .to_ascii_lowercase()
                .split_once("content-length: ")
                .map_or(0, |(_, rest)| {
                    rest.split("\r\n").next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
                });
            if length == 0 || head.is_some_and(|at| text.len() >= at + 4 + body) {
                break;
            }
        }
        let path = text.split(' ').nth(1).unwrap_or("/").to_owned();
        let script = self.script.lock().clone();
        self.seen.lock().push(text);
        if let Some(pause) = script.slow.filter(|_| path == "/token") {
            tokio::time::sleep(pause).await;
        }
        let whole = script.raw.iter().find(|(at, _)| *at == path).map(|(_, whole)| whole.clone());
        let whole =
            whole.unwrap_or_else(|| http_response(200, "application/json", &self.response_body(&path, &script).to_string()));
        drop(stream.write_all(whole.as_bytes()).await);
    }

    fn response_body(&self, path: &str, script: &Script) -> Value {
        let base = &self.base;
        match path {
            "/.well-known/openid-configuration" => with(
                json!({"issuer": base, "authorization_endpoint": format!("{base}/authorize"), "token_endpoint": format!("{base}/token"),
                    "jwks_uri": format!("{base}/jwks"), "userinfo_endpoint": format!("{base}/userinfo"),
                    "end_session_endpoint": format!("{base}/end")}),
                &script.discovery,
            ),
            "/jwks" => self.key.jwks(),
            "/token" => with(
                json!({"access_token": ACCESS, "token_type": "Bearer", "expires_in": 100, "refresh_token": "refresh-2",
                    "id_token": script.id_token.clone().unwrap_or_else(|| self.id_token(script))}),
                &script.tokens,
            ),
            "/userinfo" => with(json!({"sub": "alice"}), &script.userinfo),
            _ => json!({}),
        }
    }

    fn id_token(&self, script: &Script) -> String {
        let now = unix_seconds();
        let claims = with(
            json!({"iss": self.base, "aud": CLIENT, "sub": "alice", "iat": now, "exp": now + 60, "nonce": login_state(None, None).nonce(&browser()),
                "tenant": "acme", "roles": ["viewer"], "email": "a@acme.test", "sid": "sid-1"}),
            &script.claims,
        );
        self.sign(script, &claims)
    }

    fn sign(&self, script: &Script, claims: &Value) -> String {
        let header = with(json!({"alg": "ES256", "kid": self.key.kid()}), &script.header);
        let key = if script.forged { &self.other } else { &self.key };
        key.sign(&header, claims).unwrap()
    }

    fn set(&self, change: impl FnOnce(&mut Script)) {
        let mut script = Script::default();
        change(&mut script);
        *self.script.lock() = script;
    }

    fn requests(&self, path: &str) -> Vec<String> {
        let seen = self.seen.lock();
        seen.iter()
            .filter(|text| text.split(' ').nth(1) == Some(path))
            .cloned()
            .collect()
    }
}

fn http_response(status: u16, kind: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn with(mut value: Value, changes: &Value) -> Value {
    for (name, change) in changes.as_object().into_iter().flatten() {
        match change {
            Value::Null => drop(value.as_object_mut().unwrap().remove(name)),
            change => value[name] = change.clone(),
        }
    }
    value
}

fn browser() -> BrowserSecret {
    Redacted::new([9; 32])
}

/// The login state of all tests, with a fixed seed and so with fixed nonce and verifier.
fn login_state(acr_values: Option<&str>, max_age: Option<u64>) -> LoginState {
    let browser = browser();
    let login = LoginRequest {
        provider: "corp",
        portal: "customer",
        origin: "https://shop.test",
        is_cut: false,
        return_to: "/orders",
        acr_values,
        max_age,
        login_hint: None,
        prompt: None,
        browser: &browser,
    };
    let random = LoginState::new(&login, unix_millis()).unwrap().to_bytes().unwrap();
    let mut fixed: Value = serde_json::from_slice(&random).unwrap();
    fixed["seed"] = json!([5; 32].to_vec());
    LoginState::from_bytes(fixed.to_string().as_bytes(), unix_millis()).unwrap()
}

struct LoginFixture {
    login: Arc<RelyingParty>,
    stop: CancellationToken,
}

impl Drop for LoginFixture {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn lab(provider: &Provider, more: &str) -> LoginFixture {
    lab_with(provider, more, &format!("client_secret: '{SECRET}'"))
}

fn lab_with(provider: &Provider, issuer: &str, client: &str) -> LoginFixture {
    let yaml = format!(
        "upstream: {{ url: 'http://127.0.0.1:1' }}\npublic_url: 'https://shop.test'\n\
         issuers:\n  - {{ name: corp, issuer: '{}', audiences: [api], leeway: 5s {issuer} }}\n\
         login: {{ providers: {{ corp: {{ issuer: corp, client_id: {CLIENT}, {client}, scopes: [openid, email] }} }} }}\n",
        provider.base
    );
    let config = Config::from_yaml(&yaml).unwrap_or_else(|errors| panic!("{yaml}\n{errors}"));
    let metrics = crate::base::metrics::Metrics::new().unwrap();
    let (audit, _writer) = crate::audit::start(&config.audit, &metrics).unwrap();
    let authn = Authn::new(&config.issuers, config.limits.token_bytes.as_usize(), metrics.clone()).unwrap();
    let sessions = Sessions::new(&config, &metrics).unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(Arc::clone(&authn).run(stop.clone()));
    let deadline = Duration::from_secs(2);
    let login = RelyingParty::with_deadline(&config, &authn, &sessions, &audit, deadline).unwrap();
    LoginFixture { login, stop }
}

impl LoginFixture {
    fn corp(&self) -> &OidcProvider {
        self.login.oidc("corp").unwrap()
    }

    async fn log_in(&self) -> Result<SessionData, LoginFailure> {
        self.log_in_with(None, None).await
    }

    async fn log_in_with(&self, acr_values: Option<&str>, max_age: Option<u64>) -> Result<SessionData, LoginFailure> {
        let state = login_state(acr_values, max_age);
        let parameters = Parameters::parse(&format!("code={CODE}&state=x")).unwrap();
        self.login.redeem_callback(self.corp(), &state, parameters, &browser()).await
    }

    async fn failure_code(&self) -> LoginCode {
        match self.log_in().await {
            Ok(data) => panic!("logged in as {}", data.subject),
            Err(failure) => {
                for secret in [SECRET, CODE, ACCESS, "refresh-2", "eyJ"] {
                    assert!(!failure.detail.contains(secret), "{}", failure.detail);
                }
                failure.code
            }
        }
    }

    async fn renew(&self, data: SessionData) -> Result<SessionData, RefreshError> {
        let handle = Handle::from_hex(&"5".repeat(64)).unwrap();
        Arc::clone(&self.login).renew(handle, data).await
    }
}

#[test]
fn docs_list_every_reason_code() {
    let page = include_str!("../../docs/login.md");
    for code in LoginCode::ALL {
        assert!(page.contains(&format!("| `{}` |", code.as_str())), "{code:?}");
    }
}

#[tokio::test]
async fn login_gives_the_session_its_claims_and_grant() {
    let provider = Provider::start().await;
    let lab = lab(&provider, "");
    let data = lab.log_in().await.unwrap();
    assert_eq!(
        (data.provider.as_str(), data.issuer.as_str(), data.subject.as_str()),
        ("corp", "corp", "alice")
    );
    assert_eq!(
        (data.claims["tenant"].as_str(), data.idp_session.as_deref()),
        (Some("acme"), Some("sid-1"))
    );
    let grant = data.grant.unwrap();
    assert_eq!(grant.access_token.expose(), ACCESS);
    assert_eq!(grant.refresh_token.unwrap().expose(), "refresh-2");
    let due = grant.refresh_at.unwrap() - data.created_at;
    assert!((79_000..=81_000).contains(&due), "{due}");
    let state = login_state(None, None);
    let token_request = provider.requests("/token").remove(0);
    let verifier = state.verifier(&browser()).unwrap();
    for part in [
        format!("code={CODE}"),
        format!("code_verifier={verifier}"),
        "grant_type=authorization_code".to_owned(),
        "redirect_uri=https%3A%2F%2Fshop.test%2Fapi%2Fv1%2Fidentity%2Fauth%2Fcallback".to_owned(),
        "authorization: Basic ".to_owned(),
    ] {
        assert!(token_request.contains(&part), "{part}: {token_request}");
    }
    assert!(provider.requests("/userinfo").is_empty(), "nothing was missing");
}

#[tokio::test]
async fn wrong_id_token_fails_the_login() {
    let provider = Provider::start().await;
    let lab = lab(&provider, "");
    assert!(lab.log_in().await.is_ok());
    let far = unix_seconds() + 3600;
    for claims in [
        json!({"iss": "https://other.test"}),
        json!({"iss": null}),
        json!({"aud": "other"}),
        json!({"aud": null}),
        json!({"aud": []}),
        json!({"aud": ["other", "another"]}),
        json!({"aud": [CLIENT, "other"], "azp": "other"}),
        json!({"azp": "other"}),
        json!({"azp": 7}),
        json!({"nonce": "other"}),
        json!({"nonce": null}),
        json!({"nonce": ["x"]}),
        json!({"exp": unix_seconds() - 60}),
        json!({"exp": null}),
        json!({"exp": far.to_string()}),
        json!({"iat": far}),
        json!({"iat": null}),
        json!({"nbf": far}),
        json!({"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}),
        json!({"at_hash": 1}),
        json!({"sub": null}),
        json!({"sub": ""}),
        json!({"sub": 7}),
        json!({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}),
        json!({"roles": [7]}),
        json!({"tenant": ["a", "b"]}),
        json!({"sid": {}}),
        json!({"sid": true}),
    ] {
        provider.set(|script| script.claims = claims.clone());
        assert_eq!(lab.failure_code().await, LoginCode::LoginInvalid, "{claims}");
        let member = claims.as_object().unwrap().keys().next_back().unwrap();
        let failure = lab.log_in().await.unwrap_err();
        assert!(
            failure.detail.contains(member)
                || ["token expired", "not valid yet"]
                    .iter()
                    .any(|text| failure.detail.contains(text)),
            "{}",
            failure.detail
        );
    }
    for header in [
        json!({"alg": "none"}),
        json!({"alg": "HS256"}),
        json!({"alg": "ES384"}),
        json!({"typ": "at+jwt"}),
        json!({"typ": "logout+jwt"}),
        json!({"crit": ["x"]}),
    ] {
        provider.set(|script| script.header = header.clone());
        assert_eq!(lab.failure_code().await, LoginCode::LoginInvalid, "{header}");
    }
    provider.set(|script| script.forged = true);
    assert_eq!(lab.failure_code().await, LoginCode::LoginInvalid);
    let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.";
    for token in ["", "x", "a.b.c", unsigned] {
        provider.set(|script| script.id_token = Some(token.to_owned()));
        assert_eq!(lab.failure_code().await, LoginCode::LoginInvalid, "{token}");
    }
    provider.set(|script| script.claims = json!({"aud": [CLIENT, "other"], "azp": CLIENT, "at_hash": at_hash(ACCESS)}));
    assert!(
        lab.log_in().await.is_ok(),
        "several audiences, used by the gate, of this access token"
    );
}

#[tokio::test]
async fn claim_that_no_check_needs_fails_no_login() {
    let provider = Provider::start().await;
    let lab = lab(&provider, "");
    for claims in [
        json!({"aud": [CLIENT, "account"]}),
        json!({"acr": 1, "amr": "pwd"}),
        json!({"acr": null, "amr": null, "sid": null, "auth_time": null, "nbf": null}),
        json!({"acr": ["a"], "amr": 7, "auth_time": "yesterday"}),
    ] {
        provider.set(|script| script.claims = claims.clone());
        lab.log_in()
            .await
            .unwrap_or_else(|failure| panic!("{claims}: {}", failure.detail));
    }
    // what a check needs is read in either form
    provider.set(|script| script.claims = json!({"acr": 2, "sid": 17}));
    let data = lab.log_in_with(Some("1 2"), None).await.unwrap();
    assert_eq!(data.idp_session.as_deref(), Some("17"));
    provider.set(|script| script.claims = json!({"acr": ["2"]}));
    let failure = lab.log_in_with(Some("2"), None).await.unwrap_err();
    assert_eq!(failure.code, LoginCode::StepUpFailed);
    provider.set(|script| script.claims = json!({"auth_time": "now"}));
    let failure = lab.log_in_with(None, Some(60)).await.unwrap_err();
    assert_eq!(failure.code, LoginCode::StepUpFailed);
}

fn at_hash(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&sha256(text.as_bytes())[..16])
}

#[tokio::test]
async fn wrong_token_response_fails_the_login_with_its_own_code() {
    let provider = Provider::start().await;
    let lab = lab(&provider, "");
    let token = |raw: String| move |script: &mut Script| script.raw = vec![("/token", raw)];
    let error = |status, code: &str| {
        http_response(
            status,
            "application/json",
            &json!({"error": code, "error_description": SECRET}).to_string(),
        )
    };
    use LoginCode::{LoginExpired, LoginInvalid, ProviderUnavailable};
    let redirect = format!(
        "HTTP/1.1 307 x\r\nlocation: {}/other\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        provider.base
    );
    for (raw, code) in [
        (error(400, "invalid_grant"), LoginExpired),
        (error(401, "invalid_client"), LoginInvalid),
        (error(400, "<script>"), LoginInvalid),
        (error(503, "x"), ProviderUnavailable),
        (error(429, "x"), ProviderUnavailable),
        (http_response(500, "text/html", SECRET), ProviderUnavailable),
        (http_response(200, "text/html", SECRET), LoginInvalid),
        (http_response(200, "application/json", "{"), LoginInvalid),
        (http_response(200, "application/json", "{}"), LoginInvalid),
        (http_response(200, "application/json", ""), LoginInvalid),
        (http_response(200, "application/json", &" ".repeat(300 * 1024)), LoginInvalid),
        (redirect, ProviderUnavailable),
        (String::new(), ProviderUnavailable),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort".to_owned(),
            ProviderUnavailable,
        ),
    ] {
        let shown = raw.chars().take(80).collect::<String>();
        provider.set(token(raw));
        assert_eq!(lab.failure_code().await, code, "{shown}");
    }
    assert!(provider.requests("/other").is_empty());
    for tokens in [
        json!({"id_token": null}),
        json!({"token_type": "mac"}),
        json!({"access_token": null}),
    ] {
        provider.set(|script| script.tokens = tokens.clone());
        assert_eq!(lab.failure_code().await, LoginInvalid, "{tokens}");
        let member = tokens.as_object().unwrap().keys().next().unwrap();
        let detail = lab.log_in().await.unwrap_err().detail;
        assert!(detail.contains(&format!("`{member}`")), "{detail}");
    }
    for tokens in [
        json!({"token_type": null, "refresh_token": null, "expires_in": "3600", "scope": ["openid", "email"]}),
        json!({"token_type": "BEARER", "expires_in": null, "scope": null}),
        json!({"expires_in": "soon", "refresh_token": ""}),
    ] {
        provider.set(|script| script.tokens = tokens.clone());
        lab.log_in()
            .await
            .unwrap_or_else(|failure| panic!("{tokens}: {}", failure.detail));
    }
    provider.set(|script| script.slow = Some(Duration::from_secs(60)));
    let started = Instant::now();
    assert_eq!(lab.failure_code().await, ProviderUnavailable);
    assert!(started.elapsed() < PATIENCE);
}

#[tokio::test]
async fn userinfo_adds_missing_claims_of_the_same_subject_only() {
    let provider = Provider::start().await;
    let lab = lab(&provider, ", roles: [viewer, admin]");
    let bare = json!({"tenant": null, "roles": null, "email": null});
    provider.set(|script| {
        script.claims = bare.clone();
        script.userinfo = json!({"tenant": "acme", "roles": ["admin"], "acr": "9", "sid": "x", "aud": "x", "nonce": "x"});
    });
    let data = lab.log_in().await.unwrap();
    assert_eq!(
        (&data.claims["tenant"], &data.claims["roles"]),
        (&json!("acme"), &json!(["admin"]))
    );
    assert_eq!(
        (data.claims.get("acr"), &data.claims["aud"], &data.claims["sid"]),
        (None, &json!(CLIENT), &json!("sid-1"))
    );
    assert!(provider.requests("/userinfo")[0].contains(&format!("authorization: Bearer {ACCESS}")));
    provider.set(|script| {
        script.claims = json!({"email": null});
        script.userinfo = json!({"email": "a@b.test", "roles": ["admin"], "tenant": "other"});
    });
    let data = lab.log_in().await.unwrap();
    assert_eq!(
        (&data.claims["tenant"], &data.claims["roles"]),
        (&json!("acme"), &json!(["viewer"])),
        "the ID token wins"
    );
    for userinfo in [
        json!({"sub": "mallory"}),
        json!({"sub": null}),
        json!({"roles": ["root"]}),
        json!({"tenant": 7}),
    ] {
        provider.set(|script| {
            script.claims = bare.clone();
            script.userinfo = userinfo.clone();
        });
        assert_eq!(lab.failure_code().await, LoginCode::LoginInvalid, "{userinfo}");
    }
    for (raw, code) in [
        (http_response(200, "application/jwt", "a.b.c"), LoginCode::LoginInvalid),
        (
            http_response(200, "text/plain", r#"{"sub":"alice"}"#),
            LoginCode::LoginInvalid,
        ),
        (
            http_response(200, "application/json", r#"{"sub":"mallory","sub":"alice"}"#),
            LoginCode::LoginInvalid,
        ),
        (http_response(401, "application/json", "{}"), LoginCode::LoginInvalid),
        (http_response(500, "application/json", "{}"), LoginCode::ProviderUnavailable),
        (http_response(302, "application/json", "{}"), LoginCode::ProviderUnavailable),
    ] {
        provider.set(|script| {
            script.claims = bare.clone();
            script.raw = vec![("/userinfo", raw.clone())];
        });
        assert_eq!(lab.failure_code().await, code, "{raw}");
    }
}

#[tokio::test]
async fn step_up_succeeds_only_if_the_id_token_confirms_it() {
    let provider = Provider::start().await;
    let lab = lab(&provider, "");
    let failed = |outcome: Result<SessionData, LoginFailure>| outcome.err().map(|failure| failure.code);
    let step_up = Some(LoginCode::StepUpFailed);
    assert_eq!(failed(lab.log_in_with(Some("mfa"), None).await), step_up);
    assert_eq!(failed(lab.log_in_with(None, Some(60)).await), step_up);
    provider.set(|script| script.claims = json!({"acr": "mf", "auth_time": unix_seconds() - 120}));
    assert_eq!(failed(lab.log_in_with(Some("mfa"), None).await), step_up);
    assert_eq!(failed(lab.log_in_with(None, Some(60)).await), step_up);
    provider.set(|script| script.claims = json!({"acr": "mfa", "auth_time": unix_seconds() - 30}));
    assert_eq!(failed(lab.log_in_with(Some("pwd mfa"), Some(60)).await), None);
}

#[tokio::test]
async fn callback_of_another_provider_or_without_a_code_fails() {
    let provider = Provider::start().await;
    let lab = lab(&provider, "");
    let base = provider.base.clone();
    let check = async |query: String| {
        let parameters = Parameters::parse(&query)?;
        lab.login.check_issuer(lab.corp(), &parameters).await
    };
    assert!(check("code=x".to_owned()).await.is_ok());
    assert!(check(format!("code=x&iss={base}")).await.is_ok());
    for iss in ["https://other.test", "", &format!("{base}/"), &base.to_uppercase()] {
        let outcome = check(format!("code=x&iss={iss}")).await;
        assert_eq!(outcome.unwrap_err().code, LoginCode::LoginInvalid, "{iss}");
    }
    for query in [
        "code=a&code=b",
        "state=a&state=a",
        "iss=a&iss=b",
        "error=a&error=b",
        &"x".repeat(20 * 1024),
    ] {
        assert!(Parameters::parse(query).is_err(), "{query}");
    }
    let state = login_state(None, None);
    for (query, code) in [
        ("error=access_denied&error_description=x", LoginCode::LoginDenied),
        ("error=server_error&code=stolen", LoginCode::ProviderUnavailable),
        ("error=unmet_authentication_requirements", LoginCode::StepUpFailed),
        ("error=%3Cscript%3Ealert(1)", LoginCode::LoginInvalid),
        ("error=", LoginCode::LoginInvalid),
        ("state=x", LoginCode::LoginInvalid),
    ] {
        let parameters = Parameters::parse(query).unwrap();
        let failure = lab
            .login
            .redeem_callback(lab.corp(), &state, parameters, &browser())
            .await
            .unwrap_err();
        assert_eq!(failure.code, code, "{query}");
        assert!(!failure.detail.contains(['<', '(']), "{}", failure.detail);
    }
    assert!(
        provider.requests("/token").is_empty(),
        "an error with a code beside it redeems nothing"
    );
    let strict = Provider::start().await;
    strict.set(|script| script.discovery = json!({"authorization_response_iss_parameter_supported": true}));
    let lab = lab_with(&strict, "", "client_secret: x");
    let silent = Parameters::parse("code=x").unwrap();
    assert!(lab.login.check_issuer(lab.corp(), &silent).await.is_err());
}

#[tokio::test]
async fn discovery_is_fetched_at_first_use_retried_and_kept() {
    let provider = Provider::start().await;
    provider.set(|script| script.discovery = json!({"issuer": "https://other.test"}));
    let lab = lab(&provider, ", jwks: { file: /dev/null }");
    assert!(provider.requests("/.well-known/openid-configuration").is_empty());
    assert!(matches!(lab.corp().metadata().await, Err(ProviderError::Unreachable(_))));
    assert!(lab.corp().metadata().await.is_err());
    assert_eq!(
        provider.requests("/.well-known/openid-configuration").len(),
        1,
        "a failed fetch is not repeated at once"
    );
    provider.set(|_| {});
    let started = Instant::now();
    while lab.corp().metadata().await.is_err() {
        assert!(started.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
    provider.set(|script| script.raw = vec![("/.well-known/openid-configuration", http_response(500, "x", ""))]);
    assert!(lab.corp().metadata().await.is_ok());
}

#[tokio::test]
async fn authorization_url_has_every_parameter_and_hides_the_return_path() {
    let provider = Provider::start().await;
    let lab = lab(&provider, "");
    let browser = browser();
    let login = LoginRequest {
        provider: "corp",
        portal: "customer",
        origin: "https://shop.test",
        is_cut: false,
        return_to: "/orders?x=1",
        acr_values: Some("urn:mfa"),
        max_age: Some(300),
        login_hint: None,
        prompt: None,
        browser: &browser,
    };
    let url = url::Url::parse(&lab.login.authorization_url(login).await.unwrap()).unwrap();
    assert!(url.as_str().starts_with(&format!("{}/authorize?", provider.base)));
    let query: Map<String, Value> = url
        .query_pairs()
        .map(|(name, value)| (name.into_owned(), json!(value)))
        .collect();
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", CLIENT),
        ("code_challenge_method", "S256"),
        ("scope", "openid email"),
        ("acr_values", "urn:mfa"),
        ("max_age", "300"),
        ("redirect_uri", "https://shop.test/api/v1/identity/auth/callback"),
    ] {
        assert_eq!(query[name], value, "{name}");
    }
    assert_eq!(query["code_challenge"].as_str().unwrap().len(), 43);
    assert!(!url.as_str().contains("orders"), "the return target is sealed");
}

#[tokio::test]
async fn provider_gets_the_configured_client_authentication() {
    let provider = Provider::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pem");
    std::fs::write(&path, SigningKey::generate().unwrap().to_pem().unwrap().expose()).unwrap();
    let post = lab_with(&provider, "", "client_secret: abc, auth_method: client_secret_post");
    assert!(post.log_in().await.is_ok());
    let key = lab_with(&provider, "", &format!("client_key_file: '{}'", path.display()));
    assert!(key.log_in().await.is_ok());
    let token_requests = provider.requests("/token");
    assert!(token_requests[0].contains("client_secret=abc") && !token_requests[0].contains("authorization:"));
    assert!(token_requests[1].contains("client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer"));
    assert!(token_requests[1].contains("client_assertion=eyJ") && !token_requests[1].contains("client_secret"));
    let yaml = "upstream: { url: 'http://127.0.0.1:1' }\npublic_url: 'https://shop.test'\n\
        issuers: [{ name: corp, issuer: 'http://id.test', audiences: [api], jwks: { file: /dev/null } }]\n\
        login: { providers: { corp: { issuer: corp, client_id: x, client_secret: x } } }\n";
    let config = Config::from_yaml(yaml).unwrap();
    let provider = &config.login.providers[0];
    let refused = OidcProvider::new(provider, &config, Duration::from_secs(1));
    assert!(
        matches!(refused, Err(LoginError::Provider { .. })),
        "plain http is for loopback"
    );
}

#[tokio::test]
async fn renewal_stores_rotated_tokens_and_ends_only_sessions_that_the_provider_ended() {
    let provider = Provider::start().await;
    let lab = lab(&provider, "");
    let old = lab.log_in().await.unwrap();
    let no_nonce = json!({"nonce": null});
    provider.set(|script| {
        script.claims = with(no_nonce.clone(), &json!({"roles": ["admin"], "sid": null}));
        script.claims["nonce"] = Value::Null;
        script.claims["sid"] = Value::Null;
        script.tokens = json!({"refresh_token": "refresh-3"});
    });
    let new = lab.renew(old.clone()).await.unwrap();
    assert!(
        provider
            .requests("/token")
            .last()
            .unwrap()
            .contains("refresh_token=refresh-2")
    );
    let grant = |data: &SessionData| data.grant.clone().unwrap();
    assert_eq!(grant(&new).refresh_token.unwrap().expose(), "refresh-3");
    assert_eq!(new.claims["roles"], json!(["admin"]));
    assert_eq!(new.claims["sid"], "sid-1", "claims about the login stay");
    assert_eq!((new.created_at, &new.subject), (old.created_at, &old.subject));
    assert!(grant(&new).id_token != grant(&old).id_token);
    provider.set(|script| script.tokens = json!({"id_token": null, "refresh_token": null, "expires_in": 1000}));
    let same = lab.renew(new.clone()).await.unwrap();
    assert_eq!(grant(&same).refresh_token.unwrap().expose(), "refresh-3", "not rotated: kept");
    assert_eq!(
        (&same.claims, grant(&same).id_token == grant(&new).id_token),
        (&new.claims, true)
    );
    let due = grant(&same).refresh_at.unwrap() - unix_millis();
    assert!((790_000..=801_000).contains(&due), "{due}");
    for claims in [
        json!({"sub": "mallory"}),
        json!({"iss": "https://other.test"}),
        json!({"aud": "other"}),
    ] {
        provider.set(|script| script.claims = claims.clone());
        assert!(
            matches!(lab.renew(old.clone()).await, Err(RefreshError::Foreign(_))),
            "{claims}"
        );
    }
    for (raw, ended) in [
        (http_response(400, "application/json", r#"{"error":"invalid_grant"}"#), true),
        (http_response(401, "application/json", r#"{"error":"invalid_client"}"#), false),
        (
            http_response(400, "application/json", r#"{"error":"temporarily_unavailable"}"#),
            false,
        ),
        (http_response(400, "text/html", "invalid_grant"), false),
        (http_response(500, "application/json", r#"{"error":"invalid_grant"}"#), false),
        (String::new(), false),
    ] {
        provider.set(|script| script.raw = vec![("/token", raw.clone())]);
        let outcome = lab.renew(old.clone()).await;
        assert_eq!(matches!(outcome, Err(RefreshError::Ended(_))), ended, "{raw}");
        assert!(outcome.is_err());
    }
}

#[tokio::test]
async fn renewal_without_valid_claims_keeps_new_tokens_and_old_claims() {
    let provider = Provider::start().await;
    let lab = lab(&provider, "");
    let old = lab.log_in().await.unwrap();
    let cases: [fn(&mut Script); 3] = [
        |script| script.forged = true,
        |script| script.claims = json!({"exp": 1}),
        |script| {
            script.claims = json!({"email": null});
            script.raw = vec![("/userinfo", http_response(500, "x", ""))];
        },
    ];
    for case in cases {
        provider.set(|script| {
            script.tokens = json!({"refresh_token": "refresh-3"});
            case(script);
        });
        let renewed = lab.renew(old.clone()).await.unwrap();
        let grant: Grant = renewed.grant.unwrap();
        assert_eq!(grant.refresh_token.unwrap().expose(), "refresh-3");
        assert_eq!((&renewed.claims, renewed.rotation_due), (&old.claims, false));
        assert!(grant.refresh_at.unwrap() <= unix_millis() + 30_000);
    }
    provider.set(|script| {
        script.claims = json!({"email": null});
        script.userinfo = json!({"sub": "mallory"});
    });
    assert!(matches!(lab.renew(old).await, Err(RefreshError::Foreign(_))));
}

#[tokio::test]
async fn logout_token_with_any_wrong_claim_or_header_is_refused() {
    let provider = Provider::start().await;
    let lab = lab(&provider, "");
    let event = json!({"http://schemas.openid.net/event/backchannel-logout": {}});
    let good = json!({"iss": provider.base, "aud": CLIENT, "iat": unix_seconds(), "jti": "j1", "sid": "sid-1", "sub": "alice", "events": event});
    let check = async |changes: &Value, header: &Value| {
        let script = Script {
            header: header.clone(),
            ..Script::default()
        };
        let token = provider.sign(&script, &with(good.clone(), changes));
        lab.login.authn.verify_logout_token(0, &token, CLIENT).await
    };
    let typ = json!({"typ": "logout+jwt"});
    for (changes, header) in [
        (json!({}), &typ),
        (json!({"sid": null}), &json!({})),
        (json!({"sub": null, "exp": unix_seconds() + 60}), &typ),
    ] {
        assert!(check(&changes, header).await.is_ok(), "{changes}");
    }
    for changes in [
        json!({"nonce": "x"}),
        json!({"events": null}),
        json!({"events": {}}),
        json!({"events": {"http://schemas.openid.net/event/backchannel-logout": 1}}),
        json!({"events": "http://schemas.openid.net/event/backchannel-logout"}),
        json!({"sid": null, "sub": null}),
        json!({"jti": null}),
        json!({"iat": null}),
        json!({"iat": unix_seconds() - 3600}),
        json!({"iat": unix_seconds() + 3600}),
        json!({"exp": unix_seconds() - 60}),
        json!({"aud": "other"}),
        json!({"iss": "https://other.test"}),
        json!({"sid": [7]}),
    ] {
        assert!(check(&changes, &typ).await.is_err(), "{changes}");
    }
    for header in [json!({"typ": "at+jwt"}), json!({"alg": "none"}), json!({"typ": 7})] {
        assert!(check(&json!({}), &header).await.is_err(), "{header}");
    }
    // a logout token or ID token is not accepted as a bearer token, nor an ID token as a logout token
    let token = provider.sign(&Script::default(), &good);
    assert!(
        lab.login
            .authn
            .verify(PresentedToken::bearer(&token), &[0], unix_seconds())
            .await
            .is_err()
    );
    let id = provider.id_token(&Script::default());
    assert!(
        lab.login
            .authn
            .verify(PresentedToken::bearer(&id), &[0], unix_seconds())
            .await
            .is_err()
    );
    assert!(lab.login.authn.verify_logout_token(0, &id, CLIENT).await.is_err());
}
