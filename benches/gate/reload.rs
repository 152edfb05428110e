//! From files in memory to a revision: everything new, and one changed file of many.

use cedargate_benches::reload::Reload;
use cedargate_benches::shop::tree;
use criterion::{BatchSize, BenchmarkId, Criterion};

use crate::sizes;

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reload");
    for policies in sizes(&[1_000, 10_000]) {
        let files = tree(*policies, "");
        group.bench_function(BenchmarkId::new("everything", policies), |b| {
            b.iter_batched(
                Reload::default,
                |mut reload| {
                    reload.load(&files).unwrap();
                    reload
                },
                BatchSize::PerIteration,
            );
        });
        // each load changes one file back or forth
        let mut versions = [tree(*policies, "one"), tree(*policies, "two")].into_iter().cycle();
        let mut reload = Reload::default();
        reload.load(&files).unwrap();
        group.bench_function(BenchmarkId::new("one file", policies), |b| {
            b.iter_with_large_drop(|| reload.load(&versions.next().unwrap()).unwrap());
        });
    }
    group.finish();
}
