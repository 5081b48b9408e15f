//! What it costs to send a message to another core and get one back: alone, and in batches.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use corduroy_shards::runtime::ring::ring;
use corduroy_shards::runtime::{CoreOptions, Endpoint, Mesh, Poller, spawn_core};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// A poller that the end's bell wakes.
fn poller_of(end: &Endpoint<u64>) -> Poller {
    let poller = Poller::new().expect("epoll");
    poller.watch_input(end.bell().fd(), 0).expect("watched");
    poller
}

/// Waits on the bell until something is there, then drains it into `each`.
fn receive(end: &mut Endpoint<u64>, poller: &Poller, mut each: impl FnMut(u64)) {
    loop {
        if end.drain(usize::MAX, &mut each) > 0 {
            return;
        }
        end.bell().prepare_sleep();
        if end.is_empty() {
            poller.wait(None, |_, _| {}).expect("the bell");
        }
        end.bell().awake();
    }
}

/// `rounds` times: `batch` messages there, one wake, `batch` answers back, one wake. Both cores sleep in between.
fn round_trips(rounds: u64, batch: u64) -> Duration {
    let bells = Mesh::doorbells(2).expect("eventfds");
    let mut ends = Mesh::endpoints::<u64>(&bells, 4096);
    let mut echo = ends.pop().expect("two ends");
    let mut asker = ends.pop().expect("two ends");
    let cpus = corduroy_shards::runtime::CpuSet::of_this_thread().expect("affinity");
    let cpu = |n: usize| Some(*cpus.cpus().get(n % cpus.len()).expect("a CPU"));
    let echo_core =
        spawn_core(CoreOptions { name: "echo".into(), cpu: cpu(1), has_uring: true }, move || {
            let poller = poller_of(&echo);
            let mut left = rounds * batch;
            let mut answers = Vec::new();
            while left > 0 {
                receive(&mut echo, &poller, |message| answers.push(message));
                left -= answers.len() as u64;
                for answer in answers.drain(..) {
                    echo.send(0, answer).expect("room for a batch");
                }
                echo.flush();
            }
        })
        .expect("a core");
    let ask_core = spawn_core(CoreOptions { name: "ask".into(), cpu: cpu(0), has_uring: true }, move || {
        let poller = poller_of(&asker);
        let start = Instant::now();
        for _ in 0..rounds {
            for message in 0..batch {
                asker.send(1, message).expect("room for a batch");
            }
            asker.flush();
            let mut back = 0;
            while back < batch {
                receive(&mut asker, &poller, |message| {
                    black_box(message);
                    back += 1;
                });
            }
        }
        start.elapsed()
    })
    .expect("a core");
    let elapsed = ask_core.join().expect("ask");
    echo_core.join().expect("echo");
    elapsed
}

fn benches(c: &mut Criterion) {
    c.bench_function("ring push and pop, one thread", |b| {
        let (sender, receiver) = ring::<u64>(1024);
        b.iter(|| {
            sender.push(black_box(1)).expect("room");
            receiver.pop()
        });
    });
    let mut group = c.benchmark_group("mesh round trip between sleeping cores");
    group.sample_size(20);
    for batch in [1, 16, 256] {
        group.throughput(Throughput::Elements(batch));
        group.bench_function(format!("batch of {batch}"), |b| {
            b.iter_custom(|rounds| round_trips(rounds, batch))
        });
    }
    group.finish();
}

criterion_group!(mesh, benches);
criterion_main!(mesh);
