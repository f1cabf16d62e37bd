//! A disk that loses power. It keeps a journal of every step, so a test can look at what would be left after any of them.
//!
//! After a power failure, of what was not forced to the disk anything may be there: a part of a file, zeros, single sectors in any order,
//! and each change of a name or not.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use damselfly_server::persistence::aof::storage::{Appender, Storage};

const SECTOR_BYTES: usize = 512;

/// A random generator with a seed.
pub struct Random(pub u64);

impl Random {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A change of the disk.
#[derive(Clone, Debug)]
pub enum Step {
    /// A file with this name and these bytes, which are on disk already or not.
    Create(String, Vec<u8>, bool),
    Append(usize, Vec<u8>),
    OverwriteStart(usize, Vec<u8>),
    Truncate(usize, usize),
    Sync(usize),
    /// An fsync that failed: what was not on disk never will be, but no later fsync says so.
    FailedSync(usize),
    Rename(String, String),
    Remove(String),
    SyncNames,
}

/// A file.
#[derive(Clone, Default)]
struct Node {
    /// What a process reads.
    bytes: Vec<u8>,
    /// What is on disk for certain.
    durable: Vec<u8>,
    /// Ranges that were lost by a failed fsync.
    lost: Vec<(usize, usize)>,
}

/// How files that were not forced to the disk are damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// They end somewhere.
    Cut,
    /// They end with zeros.
    Zeros,
    /// Each sector is there or not.
    Sectors,
}

impl Damage {
    /// One of them.
    pub fn any(random: &mut Random) -> Self {
        [Self::Cut, Self::Zeros, Self::Sectors][random.below(3) as usize]
    }
}

impl Node {
    fn sync(&mut self) {
        self.durable = self.bytes.clone();
        for &(from, to) in &self.lost {
            let to = to.min(self.durable.len());
            self.durable[from.min(to)..to].fill(0);
        }
    }

    fn after_power_loss(&self, damage: Damage, random: &mut Random) -> Vec<u8> {
        let (old, new) = (self.durable.len(), self.bytes.len());
        let (least, most) = (old.min(new), old.max(new));
        let len = least + random.below((most - least) as u64 + 1) as usize;
        let mut after = Node::clone(self);
        after.sync();
        let written = after.durable;
        let mut bytes: Vec<u8> = (0..len)
            .map(|at| *written.get(at).or(self.durable.get(at)).unwrap_or(&0))
            .collect();
        match damage {
            Damage::Cut => {}
            Damage::Zeros if len > old => {
                let at = old + random.below((len - old) as u64) as usize;
                bytes[at..].fill(0);
            }
            Damage::Zeros => {}
            Damage::Sectors => {
                for (index, sector) in bytes.chunks_mut(SECTOR_BYTES).enumerate() {
                    if random.below(2) == 0 {
                        for (at, byte) in sector.iter_mut().enumerate() {
                            let at = index * SECTOR_BYTES + at;
                            *byte = self.durable.get(at).copied().unwrap_or(0);
                        }
                    }
                }
            }
        }
        bytes
    }
}

/// The disk at one moment.
#[derive(Clone, Default)]
pub struct State {
    nodes: Vec<Node>,
    names: BTreeMap<String, usize>,
    /// Changes of names that were not forced to the disk, in order.
    pending: Vec<(String, Option<usize>)>,
    durable_names: BTreeMap<String, usize>,
}

impl State {
    /// Makes a step.
    pub fn apply(&mut self, step: &Step) {
        match step {
            Step::Create(name, bytes, is_durable) => {
                self.nodes.push(Node {
                    bytes: bytes.clone(),
                    durable: if *is_durable {
                        bytes.clone()
                    } else {
                        Vec::new()
                    },
                    lost: Vec::new(),
                });
                self.name(name, Some(self.nodes.len() - 1));
            }
            Step::Append(node, bytes) => self.nodes[*node].bytes.extend_from_slice(bytes),
            Step::OverwriteStart(node, bytes) => {
                self.nodes[*node].bytes[..bytes.len()].copy_from_slice(bytes);
            }
            Step::Truncate(node, len) => {
                let node = &mut self.nodes[*node];
                node.bytes.resize(*len, 0);
                node.lost.retain(|&(from, _)| from < *len);
            }
            Step::Sync(node) => self.nodes[*node].sync(),
            Step::FailedSync(node) => {
                let node = &mut self.nodes[*node];
                node.lost.push((node.durable.len(), node.bytes.len()));
            }
            Step::Rename(from, to) => {
                let node = self.names.get(from).copied();
                self.name(to, node);
                self.name(from, None);
            }
            Step::Remove(name) => self.name(name, None),
            Step::SyncNames => {
                self.durable_names = self.names.clone();
                self.pending.clear();
            }
        }
    }

    fn name(&mut self, name: &str, node: Option<usize>) {
        match node {
            Some(node) => self.names.insert(name.to_owned(), node),
            None => self.names.remove(name),
        };
        self.pending.push((name.to_owned(), node));
    }

    /// The files that are left after a power failure.
    pub fn lose_power(&self, damage: Damage, random: &mut Random) -> BTreeMap<String, Vec<u8>> {
        let mut names = self.durable_names.clone();
        for (name, node) in &self.pending {
            if random.below(2) == 0 {
                match node {
                    Some(node) => names.insert(name.clone(), *node),
                    None => names.remove(name),
                };
            }
        }
        names
            .iter()
            .map(|(name, &node)| {
                let bytes = self.nodes[node].after_power_loss(damage, random);
                (name.clone(), bytes)
            })
            .collect()
    }
}

/// Decides which steps fail.
pub type Faults = Box<dyn FnMut(&Step) -> bool + Send>;

/// What happens before each step, without anything being held up but the thread that makes it.
pub type Delay = Arc<dyn Fn(&Step) + Send + Sync>;

#[derive(Default)]
struct Disk {
    now: State,
    journal: Vec<(Step, Instant)>,
    faults: Option<Faults>,
    delay: Option<Delay>,
}

impl Disk {
    fn step(&mut self, step: Step) -> io::Result<()> {
        let fails = self.faults.as_mut().is_some_and(|fails| fails(&step));
        // A failing write leaves a part of its bytes.
        let made = match step {
            step if !fails => step,
            Step::Append(node, bytes) => Step::Append(node, bytes[..bytes.len() / 2].to_vec()),
            Step::Sync(node) => Step::FailedSync(node),
            _ => return Err(io::Error::other("no space left")),
        };
        self.now.apply(&made);
        self.journal.push((made, Instant::now()));
        match fails {
            true => Err(io::Error::other("no space left")),
            false => Ok(()),
        }
    }
}

/// The disk, for a server.
#[derive(Clone, Default)]
pub struct SimulatedDisk(Arc<Mutex<Disk>>);

impl SimulatedDisk {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }

    /// How many steps there were.
    pub fn steps(&self) -> usize {
        self.disk().journal.len()
    }

    /// The steps from number `from` on, and when they ended.
    pub fn journal_from(&self, from: usize) -> Vec<(Step, Instant)> {
        self.disk().journal[from..].to_vec()
    }

    /// Sets what happens before each fsync of a file.
    pub fn set_delay(&self, delay: Delay) {
        self.disk().delay = Some(delay);
    }

    /// Sets which steps fail.
    pub fn set_faults(&self, faults: Option<Faults>) {
        self.disk().faults = faults;
    }
}

struct SimulatedFile(SimulatedDisk, usize);

impl Storage for SimulatedDisk {
    fn open(&self, name: &str) -> io::Result<(Box<dyn Appender>, u64)> {
        let mut disk = self.disk();
        if !disk.now.names.contains_key(name) {
            disk.step(Step::Create(name.to_owned(), Vec::new(), false))?;
        }
        let node = disk.now.names[name];
        let len = disk.now.nodes[node].bytes.len() as u64;
        Ok((Box::new(SimulatedFile(self.clone(), node)), len))
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let disk = self.disk();
        let node = disk.now.names.get(name);
        Ok(node.map(|&node| disk.now.nodes[node].bytes.clone()))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.disk()
            .step(Step::Create(name.to_owned(), bytes.to_vec(), true))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        if !disk.now.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.step(Step::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk().step(Step::Remove(name.to_owned()))
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        let disk = self.disk();
        let node = *disk.now.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(disk.now.nodes[node].bytes.len() as u64)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.disk().step(Step::SyncNames)
    }
}

impl Appender for SimulatedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.disk().step(Step::Append(self.1, bytes.to_vec()))
    }

    fn sync(&mut self) -> io::Result<()> {
        let (delay, step) = (self.0.disk().delay.clone(), Step::Sync(self.1));
        if let Some(delay) = delay {
            delay(&step);
        }
        self.0.disk().step(step)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.0.disk().step(Step::Truncate(self.1, len as usize))
    }

    fn overwrite_start(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0
            .disk()
            .step(Step::OverwriteStart(self.1, bytes.to_vec()))
    }
}
