//! Sorted sets, small and large: validation refuses hostile bytes, and after any sequence of changes both forms equal a plain
//! map.
#![no_main]

use std::collections::BTreeMap;

use damselfly_collections::{PackedRanking, Ranking, packed_ranking};
use libfuzzer_sys::arbitrary::{Result, Unstructured};

/// Scores that repeat, and scores that are far apart.
const SCORES: [f64; 8] = [
    0.0,
    1.0,
    -1.0,
    0.1,
    1e300,
    5e-324,
    f64::INFINITY,
    f64::NEG_INFINITY,
];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // The only possible error is that the input is used up.
    let _ = drive(&mut Unstructured::new(data));
});

fn score(source: &mut Unstructured<'_>) -> Result<f64> {
    let number: f64 = source.arbitrary()?;
    Ok(if source.arbitrary()? && !number.is_nan() {
        // Small sorted sets don't keep the sign of zero.
        number + 0.0
    } else {
        SCORES[source.int_in_range(0..=SCORES.len() - 1)?]
    })
}

fn drive(source: &mut Unstructured<'_>) -> Result<()> {
    let len = source.int_in_range(0..=60)?;
    let mut bytes = source.bytes(len)?.to_vec();
    if !PackedRanking::is_valid(&bytes) {
        bytes.clear();
    }
    let mut model: BTreeMap<Vec<u8>, f64> = PackedRanking::new(&bytes)
        .iter()
        .map(|scored| (scored.member.to_vec(), scored.score))
        .collect();
    let mut ranking = Ranking::of_sorted(PackedRanking::new(&bytes).iter());
    while !source.is_empty() {
        let len = source.int_in_range(0..=3)?;
        let member = source.bytes(len)?;
        match source.int_in_range(0..=5_u8)? {
            0 => {
                let removed = model.remove(member);
                assert_eq!(ranking.remove(member), removed);
                let found = PackedRanking::new(&bytes).find(member);
                assert_eq!(found.is_some(), removed.is_some());
                if let Some(found) = found {
                    packed_ranking::remove(&mut bytes, found);
                }
            }
            1 => {
                let end = source.int_in_range(0..=model.len())?;
                let start = source.int_in_range(0..=end)?;
                for scored in ranking.range(start..end) {
                    model.remove(scored.member());
                }
                ranking.remove_range(start..end);
                packed_ranking::remove_range(&mut bytes, start..end);
            }
            // Inserts many members, so that the tree gets several levels.
            2 => {
                let (from, count): (u16, u16) = source.arbitrary()?;
                for index in 0..count % 300 {
                    let member = from.wrapping_add(index).to_be_bytes();
                    let score = f64::from(from % 7);
                    ranking.insert(&member, score);
                    insert(&mut bytes, &member, score);
                    model.insert(member.to_vec(), score);
                }
            }
            _ => {
                let score = score(source)?;
                let old = model.insert(member.to_vec(), score);
                assert_eq!(ranking.insert(member, score), old);
                assert_eq!(insert(&mut bytes, member, score), old);
            }
        }
        let small = PackedRanking::new(&bytes);
        assert!(PackedRanking::is_valid(&bytes));
        assert_eq!((small.len(), ranking.len()), (model.len(), model.len()));
        let mut rank = 0;
        for (large, packed) in ranking.iter().zip(small.iter()) {
            assert_eq!(model.get(large.member()), Some(&large.score()));
            assert_eq!(packed.score, large.score());
            assert_eq!(packed.member.to_vec(), large.member());
            if rank % 50 == 0 {
                assert_eq!(ranking.rank(large.member()), Some((rank, large.score())));
            }
            rank += 1;
        }
    }
    Ok(())
}

fn insert(bytes: &mut Vec<u8>, member: &[u8], score: f64) -> Option<f64> {
    let small = PackedRanking::new(bytes);
    match small.find(member) {
        Some(found) => {
            let old = small.score_at(found);
            packed_ranking::rescore(bytes, found, member, score);
            Some(old)
        }
        None => {
            packed_ranking::insert(bytes, member, score);
            None
        }
    }
}
