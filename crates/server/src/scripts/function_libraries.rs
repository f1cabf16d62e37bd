//! The libraries of functions, which all threads share.
//!
//! ```text
//! FUNCTION LOAD ──► Functions: the libraries and a generation ◄── each thread compares its own generation, and
//!                                                                 takes the libraries anew if that has grown
//! ```
//!
//! The libraries themselves never change: who changes something puts another set in their place.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use damselfly_base::CommandError;
use damselfly_script::{Function, Libraries, Library};

use crate::scripts::LockHistory;

/// The libraries as a thread knows them.
#[derive(Debug, Default)]
pub struct Snapshot {
    libraries: Arc<Libraries>,
    generation: u64,
    /// Functions that were called, by the names that they were called by.
    called: HashMap<Vec<u8>, Arc<KnownFunction>>,
}

/// A function as a thread knows it. No other thread counts or changes this one.
#[derive(Debug)]
pub struct KnownFunction {
    /// Its library.
    pub library: Arc<Library>,
    /// Its place among the library's functions.
    pub index: usize,
    /// What is remembered of its need for locks.
    pub memory: LockHistory,
}

impl KnownFunction {
    /// The function.
    pub fn function(&self) -> &Function {
        &self.library.functions()[self.index]
    }
}

impl Snapshot {
    /// Takes the libraries anew if they have changed. True if they have.
    #[inline]
    pub fn refresh(&mut self, functions: &Functions) -> bool {
        let generation = functions.generation();
        if generation == self.generation {
            return false;
        }
        // What changes between these two lines is seen next time.
        self.generation = generation;
        self.libraries = functions.libraries();
        self.called.clear();
        true
    }

    /// Whether this library is loaded.
    pub fn contains(&self, name: &str, id: u64) -> bool {
        self.libraries.contains(name, id)
    }

    /// The function of this name, in any case.
    pub fn find(&mut self, name: &[u8]) -> Option<Arc<KnownFunction>> {
        /// More than that are many ways to write the same names.
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

/// The libraries that are loaded.
#[derive(Debug, Default)]
pub struct Functions {
    libraries: Mutex<Arc<Libraries>>,
    /// Grows with every change.
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

    /// Makes a new set from the current one and puts it in its place, or fails and changes nothing. `change` may take
    /// its time, since nobody waits for it; it runs again if somebody else was quicker.
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
