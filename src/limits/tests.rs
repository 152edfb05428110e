//! Tests counting with the real clock and long periods: a caller over the rate stays over it for the whole test.

use std::num::NonZeroU32;
use std::str::FromStr;

use super::shared::RateWindow;
use super::*;
use crate::config::{Count, RateLimit, TimeSpan};

fn rate(requests: u32, per: Duration, burst: u32) -> Rate {
    Rate {
        requests: NonZeroU32::new(requests).unwrap(),
        per,
        burst: NonZeroU32::new(burst).unwrap(),
    }
}

fn keys(rate: Rate) -> RateLimit {
    RateLimit {
        requests: Count::new(rate.requests.get()),
        per: TimeSpan::new(rate.per).unwrap(),
        burst: Count::new(rate.burst.get()),
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn limits(address: Option<Rate>, principal: Option<Rate>, requests: usize) -> RequestLimits {
    let config = crate::config::Config::from_yaml("upstream: { url: 'http://127.0.0.1:1' }").unwrap();
    let limits = config::Limits {
        rate_per_address: address.map(keys),
        rate_per_principal: principal.map(keys),
        requests: Count::new(u32::try_from(requests).unwrap()).unwrap(),
        ..config.limits
    };
    RequestLimits::new(&limits, CountScope::ThisProcess)
}

const HOUR: Duration = Duration::from_hours(1);

#[test]
fn an_address_gets_its_burst_and_then_a_refusal_with_the_time_to_wait() {
    let limits = limits(Some(rate(6, HOUR, 3)), None, 1);
    let client = address("192.0.2.1");
    for _ in 0..3 {
        limits.check_address(client).unwrap();
    }
    let refusal = limits.check_address(client).unwrap_err();
    assert_eq!(refusal.denial, Denial::RateLimited);
    let wait = refusal.retry_after.unwrap();
    assert!(
        (595..=600).contains(&wait),
        "one of six per hour comes every ten minutes: {wait}"
    );
    limits.check_address(address("192.0.2.2")).unwrap();
    assert!(
        limits.check_address(address("::ffff:192.0.2.1")).is_err(),
        "the same client in another spelling"
    );
}

#[test]
fn an_ipv6_network_is_one_client() {
    let limits = limits(Some(rate(1, HOUR, 1)), None, 1);
    limits.check_address(address("2001:db8:0:1::1")).unwrap();
    assert!(limits.check_address(address("2001:db8:0:1:ffff:ffff:ffff:ffff")).is_err());
    limits.check_address(address("2001:db8:0:2::1")).unwrap();
    limits.check_address(address("2001:db8:0:0:ffff:ffff:ffff:ffff")).unwrap();
}

#[test]
fn equal_names_in_other_portals_issuers_or_types_are_other_principals() {
    let limits = limits(None, Some(rate(1, HOUR, 1)), 1);
    let key = |portal: &str, issuer: &str, principal: &str| PrincipalKey {
        portal: Arc::from(portal),
        issuer: Arc::from(issuer),
        principal: EntityUid::from_str(principal).unwrap(),
    };
    let all = [
        key("a", "b", "User::\"c\""),
        key("ab", "", "User::\"c\""),
        key("", "ab", "User::\"c\""),
        key("a", "b", "Robot::\"c\""),
        key("a", "b", "User::\"C\""),
        key("a", "bUser::\"c\"", "User::\"\""),
    ];
    for each in &all {
        limits.check_principal(|| each.clone()).unwrap();
    }
    for each in &all {
        assert!(limits.check_principal(|| each.clone()).is_err(), "{each:?}");
    }
}

#[test]
fn a_rate_that_is_not_configured_makes_no_key_and_refuses_no_request() {
    let limits = limits(None, None, 1);
    for _ in 0..1000 {
        limits.check_address(address("192.0.2.1")).unwrap();
    }
    limits
        .check_principal(|| -> PrincipalKey { panic!("no rate is configured") })
        .unwrap();
    limits.sweep();
}

#[test]
fn the_fastest_and_the_slowest_rate_that_can_be_configured_work() {
    let fast = limits(Some(rate(1_000_000, Duration::from_millis(1), 1_000_000)), None, 1);
    let slow = limits(Some(rate(1, HOUR, 1_000_000)), None, 1);
    for limits in [fast, slow] {
        for _ in 0..10_000 {
            limits.check_address(address("192.0.2.1")).unwrap();
        }
        limits.sweep();
    }
}

#[test]
fn waiting_times_are_whole_seconds_and_never_zero() {
    for (wait, seconds) in [(0, 1), (1, 1), (999, 1), (1000, 1), (1001, 2), (59_001, 60)] {
        assert_eq!(whole_seconds(Duration::from_millis(wait)), seconds, "{wait}");
    }
}

/// One request per period.
fn counts(max: usize, period: Duration) -> Limiter<u64> {
    let quota = Quota::with_period(period).unwrap();
    RateLimiter::new(quota, Counts::up_to(max), DefaultClock::default())
}

#[test]
fn a_flood_of_keys_takes_bounded_memory_shares_counts_and_leaves_known_keys_alone() {
    let limiter = counts(100, HOUR);
    for known in 0..100 {
        limiter.check_key(&known).unwrap();
    }
    let passed = (1000..100_000).filter(|key| limiter.check_key(key).is_ok()).count();
    assert_eq!(limiter.len(), 100);
    assert!(passed <= SPARE_COUNTS, "{passed} unknown callers passed");
    assert!(passed > SPARE_COUNTS / 2, "they share no single count: {passed}");
    assert!(limiter.check_key(&7).is_err(), "a known caller is still counted for itself");
}

#[test]
fn a_sweep_removes_recovered_keys_only() {
    let limiter = counts(10, Duration::from_millis(1));
    for key in 0..10_u64 {
        limiter.check_key(&key).unwrap();
    }
    let started = std::time::Instant::now();
    while !limiter.is_empty() && started.elapsed() < Duration::from_secs(10) {
        limiter.retain_recent();
    }
    assert_eq!(limiter.len(), 0);
    let slow = counts(10, HOUR);
    slow.check_key(&1).unwrap();
    slow.retain_recent();
    assert_eq!(slow.len(), 1);
    assert!(
        slow.check_key(&1).is_err(),
        "a sweep does not reset a count that has not recovered"
    );
}

#[test]
fn counts_stay_right_while_threads_check_and_sweep_at_once() {
    let limiter = counts(64, HOUR);
    let passed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for key in (0..64).cycle().take(20_000) {
                    if limiter.check_key(&key).is_ok() {
                        passed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        scope.spawn(|| (0..100).for_each(|_| limiter.retain_recent()));
    });
    // a key whose count another worker is about to insert may find the table full and take a spare count once
    let passed = passed.into_inner();
    assert!((64..=64 + 3 * 64).contains(&passed), "{passed}");
    assert_eq!(limiter.len(), 64);
}

#[test]
fn request_slots_are_given_up_to_the_limit_and_are_freed_even_by_a_panic() {
    let limits = limits(None, None, 2);
    let one = limits.acquire_slot().unwrap();
    let two = limits.acquire_slot().unwrap();
    assert!(limits.acquire_slot().is_none());
    drop(one);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _held = limits.acquire_slot().unwrap();
        assert!(limits.acquire_slot().is_none());
        std::panic::resume_unwind(Box::new("on purpose"));
    }));
    assert!(caught.is_err());
    drop(two);
    let all: Vec<Option<RequestSlot>> = (0..3).map(|_| limits.acquire_slot()).collect();
    assert_eq!(all.iter().flatten().count(), 2);
}

#[test]
fn requests_that_other_replicas_let_pass_count_here_until_their_window_ends() {
    let config = crate::config::Config::from_yaml("upstream: { url: 'http://127.0.0.1:1' }").unwrap();
    let limits = config::Limits {
        rate_per_address: Some(keys(rate(10, HOUR, 10))),
        ..config.limits
    };
    let limits = RequestLimits::new(&limits, CountScope::AllReplicas);
    let alice = address("192.0.2.1");
    let bob = address("192.0.2.2");
    limits.check_address(alice).unwrap();
    limits.check_address(alice).unwrap();
    let shared = limits.shared().pop().unwrap();
    let counts = shared.take();
    assert_eq!(counts.iter().map(|passed| passed.count).collect::<Vec<_>>(), [2]);
    assert!(shared.take().is_empty(), "a count is published once");
    let end = Instant::now() + HOUR / 2;
    shared.learn(counts[0].key, 9, end);
    limits.check_address(alice).unwrap();
    shared.learn(counts[0].key, 10, end);
    let refusal = limits.check_address(alice).unwrap_err();
    assert!((1795..=1800).contains(&refusal.retry_after.unwrap()));
    limits.check_address(bob).unwrap();
    shared.learn(counts[0].key, 10, Instant::now());
    limits.check_address(alice).unwrap();
}

#[test]
fn windows_are_numbered_alike_in_all_replicas_and_follow_each_other() {
    let shared = SharedRate::new(rate(1, Duration::from_secs(60), 1), "x");
    let at = |seconds| shared.window(Duration::from_secs(seconds));
    let window = |number, seconds| RateWindow {
        number,
        left: Duration::from_secs(seconds),
    };
    assert_eq!(at(120), window(2, 60));
    assert_eq!(at(179), window(2, 1));
    assert_eq!(at(180).number, 3);
}
