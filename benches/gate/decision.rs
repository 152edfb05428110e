//! One decision, its parts, and Cedar's own authorizer over the whole policy set.

use cedargate_benches::portal::LoadedPortal;
use cedargate_benches::shop::{REQUESTS, claims, load};
use criterion::{BenchmarkId, Criterion};

use crate::sizes;

pub fn bench(criterion: &mut Criterion) {
    for policies in sizes(&[10, 100, 1_000, 10_000]) {
        let portal = load(*policies);
        reference(criterion, &portal, *policies);
        decide(criterion, &portal, *policies, "original policies");
        // the match sets are there since the requests were prepared
        portal.make_condition_only();
        decide(criterion, &portal, *policies, "condition-only policies");
        evaluate(criterion, &portal, *policies);
    }
    parts(criterion, &load(100));
}

/// The whole decision function: tenant, action and resource, context, policies.
fn decide(criterion: &mut Criterion, portal: &LoadedPortal, policies: usize, evaluated: &str) {
    let mut group = criterion.benchmark_group("decide");
    for case in REQUESTS {
        let request = portal.request(&claims(), case.method, case.path).unwrap();
        assert!(portal.decide(&request), "{} is not allowed", case.name);
        let id = BenchmarkId::new(format!("{}, {evaluated}", case.name), policies);
        group.bench_function(id, |b| b.iter(|| portal.decide(&request)));
    }
    group.finish();
}

/// The engine alone: action and resource are known.
fn evaluate(criterion: &mut Criterion, portal: &LoadedPortal, policies: usize) {
    let mut group = criterion.benchmark_group("evaluate");
    for case in REQUESTS {
        let request = portal.request(&claims(), case.method, case.path).unwrap();
        assert!(portal.evaluate(&request), "{} is not allowed", case.name);
        group.bench_function(BenchmarkId::new(case.name, policies), |b| {
            b.iter(|| portal.evaluate(&request))
        });
    }
    group.finish();
}

fn reference(criterion: &mut Criterion, portal: &LoadedPortal, policies: usize) {
    let mut group = criterion.benchmark_group("decide");
    for case in REQUESTS.into_iter().take(2) {
        let request = portal.request(&claims(), case.method, case.path).unwrap();
        let reference = portal.reference(&request).unwrap();
        assert!(reference.allows(), "{} is not allowed", case.name);
        let id = BenchmarkId::new(format!("{}, plain Cedar", case.name), policies);
        group.bench_function(id, |b| b.iter(|| reference.allows()));
    }
    group.finish();
}

/// The steps around the evaluation of policies.
fn parts(criterion: &mut Criterion, portal: &LoadedPortal) {
    let mut group = criterion.benchmark_group("around");
    let request = portal.request(&claims(), "GET", "/shop/cart").unwrap();
    group.bench_function("principal", |b| b.iter(|| portal.principal(&request).unwrap()));
    group.bench_function("context for Cedar, all of it", |b| {
        b.iter(|| portal.context(&request).unwrap());
    });
    group.bench_function("context for the record", |b| {
        b.iter(|| portal.recorded_context(&request).unwrap());
    });
    group.finish();
}
