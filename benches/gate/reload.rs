//! From files in memory to a revision: everything new, and one changed file of many.

use cedargate::bench::Reload;
use criterion::{BatchSize, BenchmarkId, Criterion};

use crate::sizes;
use crate::world::folder;

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reload");
    for policies in sizes(&[1_000, 10_000]) {
        let files = folder(*policies, "");
        group.bench_function(BenchmarkId::new("everything", policies), |b| {
            b.iter_batched(
                || Reload::new().unwrap(),
                |mut reload| {
                    reload.load(&files).unwrap();
                    reload
                },
                BatchSize::PerIteration,
            );
        });
        // each load changes one file back or forth
        let mut versions = [folder(*policies, "one"), folder(*policies, "two")].into_iter().cycle();
        let mut reload = Reload::new().unwrap();
        reload.load(&files).unwrap();
        group.bench_function(BenchmarkId::new("one file", policies), |b| {
            b.iter_with_large_drop(|| reload.load(&versions.next().unwrap()).unwrap());
        });
    }
    group.finish();
}
