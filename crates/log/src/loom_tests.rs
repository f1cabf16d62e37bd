//! Every interleaving of two sections and the merge, under the C11 memory model.

use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::batch::{Batch, Targets};
use crate::merge::Merge;
use crate::record::Record;
use crate::stream::Log;

/// Runs a section that counts in a shard, and records the count.
fn count(log: &Log, writer: &mut crate::ring::Writer, shard: &Mutex<u8>) {
    let mut shard = shard.lock().expect("no panic");
    *shard += 1;
    let mut record = Record::default();
    record.add(0, [&[*shard][..]].into_iter());
    log.append_with(&mut record, 0, |head, payload| writer.append(head, payload));
}

/// The counts in the merged stream.
fn counts(merged: &Batch) -> Vec<u8> {
    let mut left = merged
        .after(0, Targets::ALL)
        .flat_map(|(_, bytes)| bytes.to_vec());
    let mut counts = Vec::new();
    while let Some(byte) = left.next() {
        if byte == b'1' && left.next() == Some(b'\r') && left.next() == Some(b'\n') {
            counts.extend(left.next().filter(|count| *count < 10));
        }
    }
    counts
}

#[test]
fn sections_of_one_shard_are_merged_in_their_order() {
    loom::model(|| {
        let log = std::sync::Arc::new(Log::default());
        let shard = Arc::new(Mutex::new(0));
        let other = {
            let (log, shard, mut writer) = (log.clone(), shard.clone(), log.add_ring());
            thread::spawn(move || count(&log, &mut writer, &shard))
        };
        let mut writer = log.add_ring();
        let mut merge = Merge::new(log.clone());
        count(&log, &mut writer, &shard);
        let mut merged = Batch::default();
        merge.fill(&mut merged, usize::MAX);
        other.join().expect("no panic");
        let mut rest = Batch::default();
        merge.fill(&mut rest, usize::MAX);
        let mut all = counts(&merged);
        all.extend(counts(&rest));
        assert_eq!(all, [1, 2]);
    });
}
