//! Measures large sets: bytes per member of 12 bytes, and time per operation.
//!
//! `cargo run --release -p damselfly-collections --example members -- MEMBERS`

use std::{hint::black_box, time::Instant};

use damselfly_collections::Members;

#[global_allocator]
static HEAP: damselfly_base::heap::Heap = damselfly_base::heap::Heap;

fn member(number: u64) -> [u8; 12] {
    let mut member = *b"m00000000000";
    let mut rest = number;
    for digit in member[1..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    member
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("this runs on Linux");
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("the second field is the resident pages") * 4096
}

fn time(label: &str, count: u64, mut each: impl FnMut(u64)) {
    let start = Instant::now();
    (0..count).for_each(&mut each);
    println!(
        "{label}: {:.1} ns",
        start.elapsed().as_nanos() as f64 / count as f64
    );
}

fn main() {
    let count = std::env::args()
        .nth(1)
        .and_then(|count| count.parse().ok())
        .unwrap_or(1_000_000);
    let mut members = Members::new();
    let resident = resident_bytes();
    let per_member = |bytes: usize, members: &Members| bytes as f64 / members.len() as f64;
    time("insert", count, |number| {
        members.insert(&member(number));
    });
    println!(
        "{count} members: {:.2} bytes each, resident {:.2}",
        per_member(members.memory_bytes(), &members),
        per_member(resident_bytes() - resident, &members),
    );
    let scattered = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % count;
    time("hit", count, |number| {
        black_box(members.contains(&member(scattered(number))));
    });
    time("miss", count, |number| {
        black_box(members.contains(&member(scattered(number) + count)));
    });
    time("random", count, |number| {
        black_box(members.random(number));
    });
    let start = Instant::now();
    let bytes: usize = members.iter().map(<[u8]>::len).sum();
    println!(
        "iterate: {:.1} ns ({bytes})",
        start.elapsed().as_nanos() as f64 / count as f64
    );
    let (mut each, mut resident_each) = (Vec::new(), Vec::new());
    for number in count..count * 2 {
        members.insert(&member(number));
        if number.is_multiple_of(count / 100) {
            each.push(per_member(members.memory_bytes(), &members));
            resident_each.push(per_member(resident_bytes() - resident, &members));
        }
    }
    for (label, each) in [("bytes", each), ("resident", resident_each)] {
        println!(
            "{count} to {} members: {label} each, min {:.2} mean {:.2} max {:.2}",
            count * 2,
            each.iter().copied().fold(f64::MAX, f64::min),
            each.iter().sum::<f64>() / each.len() as f64,
            each.iter().copied().fold(0.0, f64::max),
        );
    }
}
