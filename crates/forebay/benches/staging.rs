//! How long it takes to have a slot of the staging buffer and to give it back, while nobody else wants one.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use forebay::catalog::BLOCK_BYTES;
use forebay::staging::{Class, Staging};

fn staging(criterion: &mut Criterion) {
    let staging = Staging::new(16, BLOCK_BYTES).expect("64 KiB are to be had");
    for (name, class) in [("load", Class::Load), ("store", Class::Store)] {
        criterion.bench_function(&format!("staging/acquire and release/{name}"), |bencher| {
            bencher.iter(|| drop(staging.acquire(class, Duration::ZERO).expect("a slot is free")));
        });
    }
}

criterion_group!(benches, staging);
criterion_main!(benches);
