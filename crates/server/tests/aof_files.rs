//! The files of the append-only file on a disk that loses power: after each step, everything that was not forced to the disk is lost,
//! torn or kept at random, and names that were not forced to it are old or new. What was on disk must be there in every case.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use damselfly_server::persistence::aof::files::AofFiles;
use damselfly_server::persistence::aof::manifest::Manifest;
use damselfly_server::persistence::aof::storage::{Appender, Storage};

const NAME: &str = "log";

/// A file: its contents, of which the first `synced` bytes are certainly on disk.
#[derive(Clone, Default)]
struct Node {
    bytes: Vec<u8>,
    synced: usize,
}

/// What the process sees, and what is on disk for certain.
#[derive(Clone, Default)]
struct Disk {
    nodes: Vec<Node>,
    names: BTreeMap<String, usize>,
    /// Changes of names that were not forced to the disk, in order.
    pending: Vec<(String, Option<usize>)>,
    durable_names: BTreeMap<String, usize>,
    /// Steps until the next one fails.
    fails_in: Option<usize>,
    /// The disk as it was before each step since these were last looked at.
    before_steps: Vec<Disk>,
}

impl Disk {
    fn clone_without_history(&self) -> Self {
        Self {
            nodes: self.nodes.clone(),
            names: self.names.clone(),
            pending: self.pending.clone(),
            durable_names: self.durable_names.clone(),
            fails_in: None,
            before_steps: Vec::new(),
        }
    }

    fn step(&mut self) -> io::Result<()> {
        let before = self.clone_without_history();
        self.before_steps.push(before);
        match &mut self.fails_in {
            Some(0) => Err(io::Error::other("no space left")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn name(&mut self, name: &str, node: Option<usize>) {
        match node {
            Some(node) => self.names.insert(name.to_owned(), node),
            None => self.names.remove(name),
        };
        self.pending.push((name.to_owned(), node));
    }

    /// What is left after a power failure.
    fn lose_power(&self, random: &mut Random) -> BTreeMap<String, Vec<u8>> {
        let mut names = self.durable_names.clone();
        // Any of the changes of names may be there, each or not.
        for (name, node) in &self.pending {
            if random.below(2) == 0 {
                match node {
                    Some(node) => names.insert(name.clone(), *node),
                    None => names.remove(name),
                };
            }
        }
        let content = |node: usize, random: &mut Random| {
            let node = &self.nodes[node];
            let unsynced = node.bytes.len().saturating_sub(node.synced);
            let kept =
                node.synced.min(node.bytes.len()) + random.below(unsynced as u64 + 1) as usize;
            let mut bytes = node.bytes[..kept].to_vec();
            // Of pages that were not forced to the disk, some may be there as zeros.
            if kept > node.synced && random.below(3) == 0 {
                let at = node.synced + random.below((kept - node.synced) as u64) as usize;
                bytes[at..].fill(0);
            }
            bytes
        };
        names
            .iter()
            .map(|(name, &node)| (name.clone(), content(node, random)))
            .collect()
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[derive(Clone, Default)]
struct Simulated(Arc<Mutex<Disk>>);

struct SimulatedFile(Arc<Mutex<Disk>>, usize);

impl Storage for Simulated {
    fn open(&self, name: &str) -> io::Result<(Box<dyn Appender>, u64)> {
        let mut disk = self.0.lock().unwrap();
        disk.step()?;
        let node = match disk.names.get(name) {
            Some(&node) => node,
            None => {
                disk.nodes.push(Node::default());
                let node = disk.nodes.len() - 1;
                disk.name(name, Some(node));
                node
            }
        };
        let len = disk.nodes[node].bytes.len() as u64;
        Ok((Box::new(SimulatedFile(self.0.clone(), node)), len))
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let disk = self.0.lock().unwrap();
        Ok(disk
            .names
            .get(name)
            .map(|&node| disk.nodes[node].bytes.clone()))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.step()?;
        disk.nodes.push(Node {
            bytes: bytes.to_vec(),
            synced: bytes.len(),
        });
        let node = disk.nodes.len() - 1;
        disk.name(name, Some(node));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.step()?;
        let node = *disk.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        disk.name(to, Some(node));
        disk.name(from, None);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.step()?;
        disk.name(name, None);
        Ok(())
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        let disk = self.0.lock().unwrap();
        let node = *disk.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(disk.nodes[node].bytes.len() as u64)
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.step()?;
        disk.durable_names = disk.names.clone();
        disk.pending.clear();
        Ok(())
    }
}

impl Appender for SimulatedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        let failed = disk.step();
        // A failing write leaves a part of its bytes.
        let written = if failed.is_err() {
            bytes.len() / 2
        } else {
            bytes.len()
        };
        disk.nodes[self.1]
            .bytes
            .extend_from_slice(&bytes[..written]);
        failed
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.step()?;
        let node = &mut disk.nodes[self.1];
        node.synced = node.bytes.len();
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.step()?;
        let node = &mut disk.nodes[self.1];
        node.bytes.truncate(len as usize);
        node.synced = node.synced.min(len as usize);
        Ok(())
    }
}

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
        // The reader stops at the first byte that is no command.
        let whole = bytes.iter().take_while(|byte| **byte != 0);
        all.extend(whole);
    }
    Some(all)
}

/// Writes numbers, forces them to the disk, and rewrites, while power fails after every step.
fn play(seed: u64, fails_in: Option<usize>) {
    let mut random = Random(seed * 0x9e37_79b9 + 1);
    let storage = Simulated::default();
    storage.0.lock().unwrap().fails_in = fails_in;
    let mut files = AofFiles::open(Box::new(storage.clone()), NAME).unwrap();
    // A step may fail, and is then repeated, as the server does.
    let insist = |action: &mut dyn FnMut() -> io::Result<()>| {
        while action().is_err() {
            storage.0.lock().unwrap().fails_in = None;
        }
    };
    insist(&mut || files.begin_increment());
    let (mut written, mut durable, mut base) = (Vec::<u8>::new(), 0, 0_u64);
    for _ in 0..60 {
        let durable_before = durable;
        match random.below(10) {
            0..=5 => {
                let number = (written.len() % 200) as u8 + 1;
                insist(&mut || files.append(&[number]));
                written.push(number);
            }
            6..=8 => {
                insist(&mut || files.sync());
                durable = written.len();
            }
            _ => {
                // A rewrite: its base has everything that was written before the cut.
                insist(&mut || files.begin_increment());
                durable = written.len();
                let first = files.manifest().next_increment() - 1;
                base += 1;
                let name = AofFiles::base_name(NAME, base);
                insist(&mut || storage.write(&name, &written));
                insist(&mut || storage.sync_names());
                for _ in 0..random.below(3) {
                    let number = (written.len() % 200) as u8 + 1;
                    insist(&mut || files.append(&[number]));
                    written.push(number);
                }
                if random.below(4) > 0 {
                    insist(&mut || files.replace_base(base, first));
                }
            }
        }
        let mut disk = storage.0.lock().unwrap();
        let within = std::mem::take(&mut disk.before_steps);
        for (disk, durable) in within
            .iter()
            .map(|disk| (disk, durable_before))
            .chain([(&*disk, durable)])
        {
            for _ in 0..2 {
                let left = disk.lose_power(&mut random);
                let found = recovered(&left).expect("a file that the manifest names is missing");
                let len = found.len();
                assert!(len >= durable, "seed {seed}: {len} of {durable} are left");
                assert_eq!(found, written[..len], "seed {seed}");
            }
        }
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
