//! Traffic of every kind for a gate whose build counts what runs: `.ci/release` optimises the next build by these
//! counts.
//!
//! It measures nothing. A gate writes its counts when it ends, so each is ended by a signal and awaited.

use std::net::SocketAddr;
use std::time::Duration;

use cedargate::app::start_from_yaml;
use cedargate_benches::issuer::ALGORITHMS;
use cedargate_benches::sessions::create_sessions;
use cedargate_benches::{AUDIENCE, ISSUER};
use serde_json::json;

use crate::Extent;
use crate::growth::redis::Redis;
use crate::growth::setting::{Files, ONE_PORTAL, Setting};
use crate::load::{Answers, Load, Pace, Until, request};
use crate::options::Options;
use crate::transport;

const POLICIES: usize = 1_000;
const CONNECTIONS: usize = 16;
const SESSIONS: usize = 100;
/// Tokens of each algorithm that the gate has not seen.
const NEW_TOKENS: usize = 200;
const PORTAL: &str = "policies/bench/portal.yaml";
const PUBLIC: &str = "public:\n  - 'GET /assets/**'\n";
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

/// Requests of one kind, and the status of their answers.
struct Kind {
    address: SocketAddr,
    requests: Vec<Vec<u8>>,
    expected: u16,
    until: Until,
}

/// Sends each kind of traffic for the time of a round.
pub fn run(options: &Options) {
    let (policies, few) = match options.extent {
        Extent::Whole => (POLICIES, 1),
        Extent::Smoke => (10, 50),
    };
    let time = options.time();
    let setting = Setting::new();
    let files = setting.files(policies);
    files.put("keys", KEY);
    let portal = std::fs::read_to_string(files.path().join(PORTAL)).unwrap();
    files.put(PORTAL, &(portal + PUBLIC));
    let redis = Redis::start();
    let mut more = format!("{ONE_PORTAL}trusted_proxies: [127.0.0.1]\n");
    if let Some(redis) = &redis {
        more += &format!(
            "sessions: {{ store: redis, key_file: keys, redis: {{ url: 'redis://{}', key_prefix: 'cedargate:train:' }} }}\n",
            redis.address
        );
    } else {
        println!("training: no sessions, because `redis-server` is missing");
    }
    let cookies = redis.as_ref().map(|_| cookies(&setting, &files, &more, SESSIONS / few));
    let gate = setting.start(&files, None, &more);
    let mut kinds = requests(&setting, gate.proxy, time, NEW_TOKENS / few);
    kinds.extend(queries(&setting, gate.decision, time));
    kinds.extend(cookies.map(|requests| Kind {
        address: gate.proxy,
        requests,
        expected: 200,
        until: Until::Time(time),
    }));
    kinds.iter().for_each(Kind::send);
    gate.process.end();
    transport::train(policies, time);
}

/// Requests to the proxy listener: permitted, refused, public, with tokens of all algorithms that are new.
fn requests(setting: &Setting, address: SocketAddr, time: Duration, new_tokens: usize) -> Vec<Kind> {
    let bearer = format!("Bearer {}", setting.token());
    // the address that conditions look at
    let headers = [("authorization", bearer.as_str()), ("x-forwarded-for", "10.1.2.3")];
    let all = |named: &[(&str, &str)]| {
        named
            .iter()
            .map(|(method, path)| request(method, path, &headers, None))
            .collect()
    };
    let permitted = [("GET", "/shop/cart"), ("GET", "/orders/17"), ("GET", "/a/b/c/d/e/f/g/h")];
    let conditional = [("POST", "/shop/cart"), ("PUT", "/shop/cart")];
    let denied = [("DELETE", "/shop/cart"), ("GET", "/elsewhere")];
    let new = ALGORITHMS.iter().flat_map(|algorithm| {
        (0..new_tokens).map(move |n| {
            let token = setting.token_of(algorithm, &format!("user-{n}"));
            request("GET", "/shop/cart", &[("authorization", &format!("Bearer {token}"))], None)
        })
    });
    let kind = |requests, expected, until| Kind {
        address,
        requests,
        expected,
        until,
    };
    vec![
        kind(new.collect(), 200, Until::AllOnce),
        kind(all(&permitted), 200, Until::Time(time * 2)),
        kind(all(&conditional), 200, Until::Time(time)),
        kind(all(&denied), 403, Until::Time(time)),
        kind(vec![request("GET", "/shop/cart", &[], None)], 401, Until::Time(time / 2)),
        kind(vec![request("GET", "/assets/logo.svg", &[], None)], 200, Until::Time(time)),
    ]
}

/// Queries to the decision listener, one and several at once.
fn queries(setting: &Setting, address: SocketAddr, time: Duration) -> Vec<Kind> {
    let caller = json!({"type": "User", "id": "alice", "parents": [{"type": "Role", "id": "viewer"}]});
    let resource = |n: usize| json!({"resource": {"type": "Path", "id": format!("/shop/item-{n}")}});
    let one = [json!({"principal": caller.clone()}), json!({"token": setting.token()})].map(|mut query| {
        let fields = query.as_object_mut().unwrap();
        fields.extend([("portal".to_owned(), json!("bench")), ("action".to_owned(), json!("GET"))]);
        fields.extend(resource(1).as_object().unwrap().clone());
        request("POST", "/authorize", &[], Some(&query.to_string()))
    });
    let items: Vec<_> = (0..20).map(resource).collect();
    let batch = json!({"portal": "bench", "action": "GET", "principal": caller, "requests": items});
    let batch = request("POST", "/authorize/batch", &[], Some(&batch.to_string()));
    [one.to_vec(), vec![batch]]
        .map(|requests| Kind {
            address,
            requests,
            expected: 200,
            until: Until::Time(time),
        })
        .into()
}

/// Requests with sessions that a gate in this process created in the store of the other gate.
fn cookies(setting: &Setting, files: &Files, more: &str, sessions: usize) -> Vec<Vec<u8>> {
    let yaml = format!(
        "listen: {{ proxy: {{ address: '127.0.0.1:0' }}, decision: null, admin: null }}\n\
         upstream: {{ url: 'http://{}' }}\n\
         issuers: [{{ name: corp, issuer: '{ISSUER}', audiences: [{AUDIENCE}], jwks: {{ file: jwks.json }} }}]\n\
         audit: {{ sink: {{ file: /dev/null }} }}\nlimits: {{ workers: 1, drain_delay: 0s }}\n{more}",
        setting.app()
    );
    let running = start_from_yaml(&yaml, files.path()).unwrap();
    let cookies = create_sessions(&running, sessions, &["viewer"]).unwrap();
    running.stop();
    let all = cookies
        .iter()
        .map(|cookie| request("GET", "/shop/cart", &[("cookie", cookie)], None));
    all.collect()
}

impl Kind {
    fn send(&self) {
        let load = Load {
            address: self.address,
            requests: &self.requests,
            expected: self.expected,
            connections: CONNECTIONS,
            pace: Pace::Closed,
            until: self.until,
        };
        load.run().and_then(Answers::all_expected).unwrap();
    }
}
