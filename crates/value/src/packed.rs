//! A packed collection inside an entry's own block, as an editable buffer.

use damselfly_collections::Buffer;

use crate::Entry;

/// The value part of an entry that holds a packed collection.
#[derive(Debug)]
pub struct PackedValue<'a>(pub(crate) &'a mut Entry);

impl Buffer for PackedValue<'_> {
    fn bytes(&self) -> &[u8] {
        self.0.packed()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.packed_mut()
    }

    fn splice(&mut self, at: usize, removed: usize, inserted: usize) -> &mut [u8] {
        self.0.splice(at, removed, inserted)
    }
}

#[cfg(test)]
mod tests {
    use damselfly_base::random::Random;

    use super::*;
    use crate::Type;

    /// Compares random splices with a plain vector, for short and long keys and with or without a deadline.
    #[test]
    fn random_splices_match_a_plain_vector() {
        let mut random = Random::for_test();
        let mut random = move |below: usize| random.below(below);
        for round in 0..100 {
            let key = vec![b'k'; if round % 10 == 0 { 300 } else { random(40) }];
            let mut deadline = (round % 2 == 0).then_some(7);
            let mut entry = Entry::new_collection(&key, Type::List, deadline);
            let mut model = Vec::new();
            for step in 0..200_u32 {
                let at = random(model.len() + 1);
                let (removed_max, inserted_max) = (1 << random(12), 1 << random(10));
                let removed = random((model.len() - at + 1).min(removed_max));
                let inserted = vec![step as u8; random(inserted_max)];
                PackedValue(&mut entry)
                    .splice(at, removed, inserted.len())
                    .copy_from_slice(&inserted);
                model.splice(at..at + removed, inserted);
                if random(10) == 0 {
                    deadline = (random(2) == 0).then_some(i64::from(step));
                    entry.set_deadline_ms(deadline);
                }
                assert_eq!(PackedValue(&mut entry).bytes(), model);
                assert_eq!(entry.view().key(), key);
                assert_eq!(entry.view().deadline_ms(), deadline);
                let needed = key.len() + model.len() + 4 + 8 + 8;
                assert!(entry.view().allocated_bytes() <= needed + needed / 3 + 16);
            }
        }
    }
}
