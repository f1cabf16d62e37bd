//! The libraries of functions, which all threads share.
//!
//! ```text
//! FUNCTION LOAD ──► Functions: the libraries and a generation ◄── each thread compares its own generation, and
//!                                                                 takes the libraries anew if that has grown
//! ```
//!
//! The libraries themselves never change: who changes something puts another set in their place.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use damselfly_base::CommandError;
use damselfly_script::Libraries;

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
