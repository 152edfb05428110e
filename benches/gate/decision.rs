//! One decision, and what is made for it: target, context, record; beside Cedar's own authorizer over the whole set.

use cedargate::bench::World;
use criterion::{BenchmarkId, Criterion};

use crate::sizes;
use crate::world::{QUESTIONS, claims, world};

pub fn bench(criterion: &mut Criterion) {
    for policies in sizes(&[10, 100, 1_000, 10_000]) {
        let world = world(*policies);
        plain(criterion, &world, *policies);
        decide(criterion, &world, *policies, "originals");
        // the first question made the slices, which wait for their twins
        world.make_twins();
        decide(criterion, &world, *policies, "twins");
    }
    around(criterion, &world(100));
}

fn decide(criterion: &mut Criterion, world: &World, policies: usize, evaluated: &str) {
    let mut group = criterion.benchmark_group("decide");
    for (name, method, path) in QUESTIONS {
        let question = world.question(&claims(), method, path).unwrap();
        assert!(world.decide(&question), "{name} is not allowed");
        let id = BenchmarkId::new(format!("{name}, {evaluated}"), policies);
        group.bench_function(id, |b| b.iter(|| world.decide(&question)));
    }
    group.finish();
}

fn plain(criterion: &mut Criterion, world: &World, policies: usize) {
    let mut group = criterion.benchmark_group("decide");
    for (name, method, path) in QUESTIONS.into_iter().take(2) {
        let question = world.question(&claims(), method, path).unwrap();
        let plain = world.plain(&question).unwrap();
        assert!(plain.decide(), "{name} is not allowed");
        group.bench_function(BenchmarkId::new(format!("{name}, plain Cedar"), policies), |b| {
            b.iter(|| plain.decide());
        });
    }
    group.finish();
}

/// What the path does around the decision.
fn around(criterion: &mut Criterion, world: &World) {
    let mut group = criterion.benchmark_group("around");
    for (name, method, path) in QUESTIONS.into_iter().skip(2) {
        let question = world.question(&claims(), method, path).unwrap();
        group.bench_function(BenchmarkId::new("target", name), |b| b.iter(|| world.target(&question)));
    }
    let question = world.question(&claims(), "GET", "/shop/cart").unwrap();
    group.bench_function("principal", |b| b.iter(|| world.principal(&question).unwrap()));
    group.bench_function("context for Cedar, all of it", |b| {
        b.iter(|| world.context(&question).unwrap())
    });
    group.bench_function("context for the record", |b| {
        b.iter(|| world.recorded_context(&question).unwrap());
    });
    group.finish();
}
