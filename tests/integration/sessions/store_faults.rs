//! Redis and the provider fail at random under load: no session ends by itself, and no revoked session is served.
//!
//! Two gates on one Redis that keeps what it confirmed, users whose tokens must be renewed all the time, logouts in
//! between. While processes are stopped and killed and connections cut, a session without a logout is answered 200 or
//! 503, and one whose logout was confirmed is never answered 200 after `staleness_max`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::prelude::*;
use serde_json::json;

use crate::support::openid::{Browser, Fault, Provider};
use crate::support::redis::Redis;
use crate::support::{Gate, PAGE, eventually, open_portal, raw};

const USERS: usize = 12;
const LOADERS: usize = 4;
const STALENESS: Duration = Duration::from_secs(1);
/// Allowance for a request that was under way when the time was over.
const SLACK: Duration = Duration::from_millis(100);

pub struct User {
    pub cookie: String,
    /// Time at which the gate confirmed the logout.
    ended: Mutex<Option<Instant>>,
    /// A logout is under way: any answer may be right.
    ending: AtomicBool,
}

/// Longest extension of a run in which no session was renewed yet.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Tally {
    served: AtomicU64,
    unavailable: AtomicU64,
    refused: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

/// `CEDARGATE_CHAOS_SECONDS`: the time of the run. The default shows that the test works; a search for faults takes
/// longer.
fn duration() -> Duration {
    let seconds = std::env::var("CEDARGATE_CHAOS_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(15))
}

#[test]
fn under_random_failures_no_session_ends_and_no_revoked_session_is_served() {
    let mut redis = Redis::setup().appendonly().start();
    let provider = Provider::setup().always_refresh().access_token_seconds(2).start();
    let (first, origin) = gate(&redis, &provider, None);
    let (second, _) = gate(&redis, &provider, Some(&origin));
    register(&provider, &origin);
    let users: Vec<User> = (0..USERS).map(|n| log_in(&provider, &origin, &format!("user-{n}"))).collect();
    let (tally, over) = (Tally::default(), AtomicBool::new(false));
    let gates = [&first, &second];
    let seed: u64 = rand::random::<u64>() / 2;
    println!("seed {seed}");
    std::thread::scope(|scope| {
        for n in 0..LOADERS {
            let (users, tally, over) = (&users, &tally, &over);
            scope.spawn(move || load(StdRng::seed_from_u64(seed + n as u64), gates, users, tally, over));
        }
        let ender = scope.spawn(|| log_out_some(StdRng::seed_from_u64(seed + 100), gates, &origin, &users, &over));
        let random = &mut StdRng::seed_from_u64(seed + 200);
        let begun = Instant::now();
        // once in each run, Redis is away for longer than `sessions.staleness_max`
        redis.pause();
        std::thread::sleep(Duration::from_millis(2500));
        redis.resume();
        let renewals = || provider.count_tokens("refresh_token");
        // a gate waits 10 s after a renewal that failed, so a short run may have none yet
        while begun.elapsed() < duration() || renewals() == 0 && begun.elapsed() < duration() + RENEWAL_TIMEOUT {
            inject_fault(random, &mut redis, &provider);
        }
        over.store(true, Ordering::Relaxed);
        ender.join().unwrap();
    });
    let wrong = tally.wrong.lock().unwrap();
    assert!(wrong.is_empty(), "{} wrong answers, first {:?}", wrong.len(), wrong.first());
    for user in &users {
        let ended = user.ended.lock().unwrap().is_some();
        for gate in gates {
            eventually("what is not ended is served, what is ended is not", || {
                let status = ask(gate, &user.cookie);
                match (ended, status) {
                    (false, 200) | (true, 401) => Ok(()),
                    _ => Err(format!("ended: {ended}, status {status}")),
                }
            });
        }
    }
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    let (served, unavailable, refused) = (count(&tally.served), count(&tally.unavailable), count(&tally.refused));
    println!(
        "{served} served, {unavailable} unavailable, {refused} refused, {} renewals",
        provider.count_tokens("refresh_token")
    );
    assert!(served > 100, "{served} served");
    assert!(unavailable > 0, "nothing ever failed");
    assert!(
        users.iter().any(|user| user.ended.lock().unwrap().is_some()),
        "no user was logged out"
    );
    assert!(provider.count_tokens("refresh_token") > 0, "nothing was renewed");
}

pub fn register(provider: &Provider, origin: &str) {
    provider.client(&json!({
        "client_id": "gate", "client_secret": "a secret for tests",
        "redirect_uris": [format!("{origin}/api/v1/identity/auth/callback")],
        "grant_types": ["authorization_code", "refresh_token"],
    }));
}

pub fn gate(redis: &Redis, provider: &Provider, origin: Option<&str>) -> (Gate, String) {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let origin = origin.map_or_else(|| format!("http://127.0.0.1:{port}"), str::to_owned);
    let mut setup = open_portal()
        .file("policies/p/portal.yaml", "login: { provider: corp }\n")
        .file("keys", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n")
        .config(&format!(
            "public_url: {origin}\n\
             listen: {{ proxy: {{ address: '127.0.0.1:{port}' }}, decision: null, admin: {{ address: '127.0.0.1:0' }} }}\n\
             sessions: {{ store: redis, key_file: keys, danger_insecure_cookie: true, redis: {{ url: '{}', key_prefix: 'cedargate:test:', timeout: 300ms }} }}\n\
             login: {{ providers: {{ corp: {{ issuer: corp, client_id: gate, client_secret: a secret for tests, \
                       scopes: [openid, offline_access] }} }} }}",
            redis.url()
        ));
    setup.issuers = Some(format!(
        "issuers: [{{ name: corp, issuer: '{}', audiences: [gate] }}]",
        provider.issuer()
    ));
    (setup.start(), origin)
}

pub fn log_in(provider: &Provider, origin: &str, name: &str) -> User {
    provider.account(name, &json!({"tenant": "acme", "roles": ["viewer"]}));
    let mut browser = Browser::new();
    let page = browser.log_in(&format!("{origin}{PAGE}"), name);
    assert_eq!(page.status, 200, "{}", page.text());
    let cookie = browser.cookie("cedargate").expect("a session cookie");
    User {
        cookie: format!("cedargate={}", cookie.value),
        ended: Mutex::default(),
        ending: AtomicBool::new(false),
    }
}

pub fn ask(gate: &Gate, cookie: &str) -> u16 {
    raw(gate.proxy, "GET", PAGE, &[("cookie", cookie)], b"").status
}

fn load(mut random: StdRng, gates: [&Gate; 2], users: &[User], tally: &Tally, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let user = users.choose(&mut random).unwrap();
        let gate = gates.choose(&mut random).unwrap();
        let asked = Instant::now();
        let may_serve = user.ended.lock().unwrap().is_none_or(|at| asked < at + STALENESS + SLACK);
        let answer = raw(gate.proxy, "GET", PAGE, &[("cookie", &user.cookie)], b"");
        let status = answer.status;
        let must_serve = !user.ending.load(Ordering::Relaxed);
        let (count, right) = match status {
            200 => (&tally.served, may_serve),
            503 => (&tally.unavailable, true),
            _ => (&tally.refused, !must_serve && status == 401),
        };
        count.fetch_add(1, Ordering::Relaxed);
        if !right {
            let text = answer.text();
            let what = format!("{status} {text}; may serve: {may_serve}, must serve: {must_serve}");
            tally.wrong.lock().unwrap().push(what);
        }
    }
}

/// Logs out one user after the other, until half are gone; asks again until it is confirmed.
fn log_out_some(mut random: StdRng, gates: [&Gate; 2], origin: &str, users: &[User], over: &AtomicBool) {
    for user in users.iter().take(USERS / 2) {
        pause(&mut random, 500..2500);
        if over.load(Ordering::Relaxed) {
            return;
        }
        user.ending.store(true, Ordering::Relaxed);
        let gate = gates.choose(&mut random).unwrap();
        let headers = [("cookie", user.cookie.as_str()), ("origin", origin)];
        eventually("the logout is confirmed", || {
            let answer = raw(gate.proxy, "POST", "/api/v1/identity/auth/logout", &headers, b"");
            match answer.status {
                200 | 204 | 303 => Ok(()),
                status => Err(format!("{status} {}", answer.text())),
            }
        });
        *user.ended.lock().unwrap() = Some(Instant::now());
    }
}

fn inject_fault(random: &mut StdRng, redis: &mut Redis, provider: &Provider) {
    match random.random_range(0..5) {
        0 => {
            redis.kill();
            pause(random, 50..1500);
            redis.restart();
        }
        1 => {
            redis.pause();
            pause(random, 100..2500);
            redis.resume();
        }
        2 => {
            provider.pause();
            pause(random, 200..2000);
            provider.resume();
        }
        3 => {
            provider.fault("token", Fault::Status(500), None);
            pause(random, 200..2000);
            provider.heal();
        }
        _ => {
            provider.fault("token", Fault::Close, Some(3));
            pause(random, 200..1000);
            provider.heal();
        }
    }
    pause(random, 100..1500);
}

fn pause(random: &mut StdRng, millis: std::ops::Range<u64>) {
    std::thread::sleep(Duration::from_millis(random.random_range(millis)));
}
