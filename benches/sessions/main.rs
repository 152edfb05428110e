//! What a session costs beside a token, over a real Redis: found in this process, fetched from Redis, Redis not answering.
//!
//! One whole gate (one worker), one client thread, keep-alive connections; the rounds of what is compared are interleaved.
//! Ratios of one run count, not its times. Without `--bench` (as `cargo test` does) a few requests of each kind are made.
//! Needs `redis-server`; says so and measures nothing where it is missing.

#![expect(clippy::unwrap_used, reason = "a bench that cannot set up must stop and say so")]

mod client;
mod setting;

use std::time::{Duration, Instant};

use self::client::{Load, Round};
use self::setting::Setting;

/// Sessions that live while anything is measured.
const SESSIONS: usize = 10_000;
const ROUNDS: usize = 5;

fn main() {
    let measured = std::env::args().any(|arg| arg == "--bench");
    let (sessions, rounds, time) = if measured {
        (SESSIONS, ROUNDS, Duration::from_secs(2))
    } else {
        (50, 1, Duration::from_millis(50))
    };
    let Some(setting) = Setting::start(sessions) else {
        println!("sessions: redis-server is missing, nothing measured");
        return;
    };
    let kinds = [
        ("token", setting.cached.load(vec![setting.token()])),
        ("session, in this process", setting.cached.load(setting.cookies(1))),
        (
            "10,000 sessions in turn, in this process",
            setting.cached.load(setting.cookies(sessions)),
        ),
        (
            "session, fetched from Redis each time",
            setting.uncached.load(setting.cookies(sessions)),
        ),
    ];
    for (name, load) in &kinds {
        warm(name, load, sessions);
    }
    let mut results: Vec<Vec<Round>> = kinds.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for ((_, load), rounds) in kinds.iter().zip(&mut results) {
            rounds.push(load.run(time));
        }
    }
    println!(
        "{:<45} {:>12} {:>12} {:>12} {:>10}",
        "", "requests/s", "median us", "99 % us", "of token"
    );
    let token = median(results.first().unwrap(), |round| round.rate);
    for ((name, _), rounds) in kinds.iter().zip(&results) {
        let rate = median(rounds, |round| round.rate);
        let (p50, p99) = (median(rounds, |round| round.p50), median(rounds, |round| round.p99));
        println!("{name:<45} {rate:>12.0} {p50:>12.0} {p99:>12.0} {:>9.2}x", rate / token);
    }
    paused(&setting, measured);
}

/// Every session was seen once by its gate, and every answer is the app's.
fn warm(name: &str, load: &Load, sessions: usize) {
    let asked = load.each_once(sessions.min(load.credentials()));
    assert!(asked, "{name}: not every request was permitted");
}

/// Redis stops answering: how soon callers are told, and how soon they are served again.
fn paused(setting: &Setting, measured: bool) {
    let load = setting.cached.load(setting.cookies(1));
    setting.redis.pause();
    let (mut until_told, mut slowest, begun) = (None, Duration::ZERO, Instant::now());
    while until_told.is_none() && begun.elapsed() < Duration::from_secs(10) {
        let asked = Instant::now();
        let status = load.one();
        slowest = slowest.max(asked.elapsed());
        assert!([200, 503].contains(&status), "{status} while Redis is paused");
        if status == 503 {
            until_told = Some(begun.elapsed());
        }
    }
    let unavailable = load.run_any(if measured {
        Duration::from_secs(1)
    } else {
        Duration::from_millis(20)
    });
    setting.redis.resume();
    let resumed = Instant::now();
    while load.one() != 200 {
        assert!(resumed.elapsed() < Duration::from_secs(10), "not served again");
    }
    println!(
        "Redis paused: first 503 after {:.0} ms, slowest answer until then {:.1} ms, then {:.0} refusals/s at a median of {:.0} us; \
         served again {:.0} ms after it went on",
        until_told.unwrap_or_default().as_secs_f64() * 1e3,
        slowest.as_secs_f64() * 1e3,
        unavailable.rate,
        unavailable.p50,
        resumed.elapsed().as_secs_f64() * 1e3,
    );
}

fn median(rounds: &[Round], of: impl Fn(&Round) -> f64) -> f64 {
    let mut all: Vec<f64> = rounds.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    *all.get(all.len() / 2).unwrap()
}
