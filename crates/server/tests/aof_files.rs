//! The files of the append-only file on a disk that loses power after any step: what was forced to the disk must be there.

mod common {
    pub mod disk;
}

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use damselfly_server::persistence::aof::files::AofFiles;
use damselfly_server::persistence::aof::manifest::{FileEntry, Manifest};
use damselfly_server::persistence::aof::storage::Storage;

use common::disk::{Damage, Random, SimulatedDisk, State};

const NAME: &str = "log";

/// The numbers that the files hold, one byte each: those of the base, then those of the increments. `None` if a file is missing.
fn recovered(files: &BTreeMap<String, Vec<u8>>) -> Option<Vec<u8>> {
    let Some(text) = files.get(&format!("{NAME}.manifest")) else {
        return Some(Vec::new());
    };
    let manifest =
        Manifest::parse(&String::from_utf8_lossy(text)).expect("a manifest is never torn");
    let mut all = Vec::new();
    for entry in manifest.files() {
        let bytes = files.get(&entry.name)?;
        // The reader stops at the first byte that is no command. In any but the last file, the server would refuse to start.
        all.extend(bytes.iter().take_while(|byte| **byte != 0));
        if bytes.contains(&0) {
            break;
        }
    }
    Some(all)
}

/// The files under test, and what must be left of them.
struct Subject {
    disk: SimulatedDisk,
    files: AofFiles,
    written: Vec<u8>,
    durable: usize,
    bases: u64,
    random: Random,
    /// The disk after the steps that were checked.
    checked: State,
    steps: usize,
    seed: u64,
}

impl Subject {
    fn new(seed: u64, fails_in: Option<usize>) -> Self {
        let disk = SimulatedDisk::default();
        if let Some(mut left) = fails_in {
            disk.set_faults(Some(Box::new(move |_| {
                let fails = left == 0;
                left = left.wrapping_sub(1);
                fails
            })));
        }
        Self {
            files: AofFiles::open(Arc::new(disk.clone()), NAME).unwrap(),
            disk,
            written: Vec::new(),
            durable: 0,
            bases: 0,
            random: Random(seed * 0x9e37_79b9 + 1),
            checked: State::default(),
            steps: 0,
            seed,
        }
    }

    /// Does something until it succeeds, as the server does.
    fn insist(&mut self, mut action: impl FnMut(&mut Self) -> io::Result<()>) {
        while action(self).is_err() {}
    }

    fn append(&mut self) {
        let number = (self.written.len() % 200) as u8 + 1;
        self.insist(|subject| subject.files.append(&[number]));
        self.written.push(number);
    }

    /// A rewrite: its base has everything that was written before the cut.
    fn rewrite(&mut self, is_completed: bool) {
        self.insist(|subject| subject.files.begin_increment());
        if !self.files.needs_base() {
            self.durable = self.written.len();
        }
        let first = self.files.manifest().next_increment() - 1;
        self.bases += 1;
        let (base, numbers) = (
            FileEntry {
                name: AofFiles::base_name(NAME, self.bases, true),
                number: self.bases,
            },
            self.written.clone(),
        );
        self.insist(|subject| subject.disk.write(&base.name, &numbers));
        self.insist(|subject| subject.disk.sync_names());
        for _ in 0..self.random.below(3) {
            self.append();
        }
        if is_completed {
            self.insist(|subject| subject.files.replace_base(&base, first));
            if !self.files.needs_base() {
                self.durable = self.durable.max(numbers.len());
            }
        }
    }

    /// Loses power after each step since the last call; `durable` numbers must be left.
    fn check(&mut self, durable: usize) {
        for (step, _) in self.disk.journal_from(self.steps) {
            self.lose_power(durable);
            self.checked.apply(&step);
            self.steps += 1;
        }
        self.lose_power(self.durable);
    }

    fn lose_power(&mut self, durable: usize) {
        for _ in 0..2 {
            let left = self.checked.lose_power(Damage::Zeros, &mut self.random);
            let found = recovered(&left).expect("a file that the manifest names is missing");
            let (seed, len) = (self.seed, found.len());
            assert!(len >= durable, "seed {seed}: {len} of {durable} are left");
            assert_eq!(found, self.written[..len], "seed {seed}");
        }
    }
}

/// Writes numbers, forces them to the disk, and rewrites, while power fails after every step.
fn play(seed: u64, fails_in: Option<usize>) {
    let mut subject = Subject::new(seed, fails_in);
    subject.insist(|subject| subject.files.begin_increment());
    for _ in 0..60 {
        let durable_before = subject.durable;
        match subject.random.below(10) {
            0..=5 => subject.append(),
            6..=8 => {
                if subject.files.sync().is_ok() {
                    subject.durable = subject.written.len();
                }
            }
            _ => {
                let is_completed = subject.random.below(4) > 0;
                subject.rewrite(is_completed);
            }
        }
        while subject.files.needs_base() {
            subject.rewrite(true);
        }
        subject.check(durable_before);
    }
}

#[test]
fn what_was_forced_to_the_disk_survives_a_power_failure_at_every_step() {
    for seed in 1..=200 {
        play(seed, None);
    }
}

#[test]
fn a_full_disk_at_any_step_loses_nothing_either() {
    for seed in 1..=10 {
        for fails_in in 0..60 {
            play(seed, Some(fails_in));
        }
    }
}

/// Bug: after two rewrites with the same number, the base was deleted as the one that it had replaced, and the server did not start.
#[test]
fn a_base_that_takes_its_own_place_is_kept() {
    let mut subject = Subject::new(1, None);
    subject.insist(|subject| subject.files.begin_increment());
    subject.append();
    for _ in 0..2 {
        subject.bases = 0;
        subject.rewrite(true);
    }
    let base = subject.files.manifest().base.clone().unwrap();
    assert!(subject.disk.read(&base.name).unwrap().is_some());
}
