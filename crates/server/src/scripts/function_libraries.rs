//! Function libraries, which all threads share.
//!
//! ```text
//! FUNCTION LOAD ──► Functions: the libraries and a generation ◄── each thread compares its own generation, and
//!                                                                 takes a new snapshot if the two differ
//! ```
//!
//! A set of libraries is immutable: a change replaces the whole set with a new one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use damselfly_base::CommandError;
use damselfly_script::{Function, Libraries, Library};

use crate::scripts::LockHistory;

/// One thread's snapshot of the libraries.
#[derive(Debug, Default)]
pub struct Snapshot {
    libraries: Arc<Libraries>,
    generation: u64,
    /// Functions called before, by name as the callers spelled it.
    called: HashMap<Vec<u8>, Arc<KnownFunction>>,
}

/// One thread's record of a function. No other thread uses or changes this record.
#[derive(Debug)]
pub struct KnownFunction {
    /// Its library.
    pub library: Arc<Library>,
    /// Its index among the library's functions.
    pub index: usize,
    /// How often it lacked locks.
    pub memory: LockHistory,
}

impl KnownFunction {
    /// The function.
    pub fn function(&self) -> &Function {
        &self.library.functions()[self.index]
    }
}

impl Snapshot {
    /// Takes a new snapshot if the libraries have changed. True if they have.
    #[inline]
    pub fn refresh(&mut self, functions: &Functions) -> bool {
        let generation = functions.generation();
        if generation == self.generation {
            return false;
        }
        // The order matters: a change between these two lines is then noticed at the next refresh.
        self.generation = generation;
        self.libraries = functions.libraries();
        self.called.clear();
        true
    }

    /// True if this library is loaded.
    pub fn contains(&self, name: &str, id: u64) -> bool {
        self.libraries.contains(name, id)
    }

    /// The function with this name; letter case does not matter.
    pub fn find(&mut self, name: &[u8]) -> Option<Arc<KnownFunction>> {
        /// A limit on the names kept: clients can spell one name in many ways, with different letter case.
        const CALLED_MAX: usize = 1000;
        if let Some(known) = self.called.get(name) {
            return Some(known.clone());
        }
        let (library, index) = self.libraries.function(name)?;
        let known = Arc::new(KnownFunction {
            library: library.clone(),
            index,
            memory: LockHistory::default(),
        });
        if self.called.len() >= CALLED_MAX {
            self.called.clear();
        }
        self.called.insert(name.to_vec(), known.clone());
        Some(known)
    }
}

/// The loaded libraries, shared by all threads.
#[derive(Debug, Default)]
pub struct Functions {
    libraries: Mutex<Arc<Libraries>>,
    /// Increases with every change.
    generation: AtomicU64,
}

impl Functions {
    fn slot(&self) -> MutexGuard<'_, Arc<Libraries>> {
        self.libraries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The libraries at this moment.
    pub fn libraries(&self) -> Arc<Libraries> {
        self.slot().clone()
    }

    /// A number that changes with the libraries.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Replaces all libraries.
    pub fn replace(&self, libraries: Arc<Libraries>) {
        *self.slot() = libraries;
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Applies `change` to a copy of the libraries and replaces the current set with the copy, or fails and changes nothing. `change`
    /// runs without a lock, so it may take long; it runs again if another thread has replaced the set meanwhile.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn change<T>(
        &self,
        mut change: impl FnMut(&mut Libraries) -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        loop {
            let before = self.libraries();
            let mut libraries = Libraries::clone(&before);
            let changed = change(&mut libraries)?;
            let mut slot = self.slot();
            if Arc::ptr_eq(&slot, &before) {
                *slot = Arc::new(libraries);
                self.generation.fetch_add(1, Ordering::Release);
                return Ok(changed);
            }
        }
    }
}
