//! The first sight of a token, per algorithm, and every later one.

use cedargate_benches::issuer::{ALGORITHMS, Keys};
use cedargate_benches::tokens::Tokens;
use criterion::{BenchmarkId, Criterion};

const SUBJECT: &str = "alice";

pub fn bench(criterion: &mut Criterion) {
    let keys = Keys::generate();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, keys.jwks().to_string()).unwrap();
    let tokens = Tokens::new(&file).unwrap();
    let mut group = criterion.benchmark_group("token");
    for algorithm in ALGORITHMS {
        let token = keys.token(algorithm, SUBJECT);
        assert!(tokens.verify(&token).is_some(), "{algorithm} is refused");
        group.bench_function(BenchmarkId::new("first sight", algorithm), |b| {
            b.iter(|| tokens.verify(&token).unwrap());
        });
    }
    let token = keys.token("RS256", SUBJECT);
    tokens.remember(&token).unwrap();
    assert!(tokens.seen_before(&token), "the token is not in the cache");
    group.bench_function(BenchmarkId::new("seen before", "RS256"), |b| {
        b.iter(|| tokens.seen_before(&token));
    });
    group.finish();
}
