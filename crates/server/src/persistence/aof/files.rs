//! The files of the append-only file: which one grows, and how a new base takes the place of the old files.
//!
//! ```text
//! manifest ─► base 1, increment 1
//!   rewrite begins:  increment 2 is created, manifest ─► base 1, increments 1 and 2; the cut of base 2 is the end of increment 1
//!   base 2 is there: manifest ─► base 2, increment 2; then base 1 and increment 1 are deleted
//! ```
//!
//! A manifest is written under another name, forced to the disk and renamed, so there is always one that is whole, and all files that
//! it names are on disk, with their names, before it is.

use std::io;
use std::sync::Arc;

use super::manifest::{FileEntry, Manifest};
use super::storage::{Appender, Storage};

/// The open files.
pub struct AofFiles {
    storage: Arc<dyn Storage>,
    /// `appendfilename`
    name: String,
    manifest: Manifest,
    /// The file that grows.
    current: Option<Current>,
    /// The manifest does not name what is written until there is a base.
    awaits_base: bool,
    /// The last increment for which an fsync has failed.
    doubtful: Option<u64>,
    /// Bytes of the base.
    base_bytes: u64,
    /// Bytes of the increments but the current one.
    older_bytes: u64,
}

struct Current {
    file: Box<dyn Appender>,
    /// Bytes that are written whole.
    bytes: u64,
    /// Bytes that are on disk.
    synced_bytes: u64,
    /// A write has failed, so there may be more bytes than these.
    is_torn: bool,
}

fn explained(name: &str, what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {name}: {error}"))
}

impl AofFiles {
    /// Reads the manifest of a folder, if there is one.
    ///
    /// # Errors
    /// It can't be read, or is broken.
    pub fn open(storage: Arc<dyn Storage>, name: &str) -> io::Result<Self> {
        let manifest_name = format!("{name}.manifest");
        let refused = |why: &str| io::Error::other(format!("{manifest_name}: {why}"));
        let manifest = match storage.read(&manifest_name)? {
            None => Manifest::default(),
            Some(text) if text.is_empty() => return Err(refused("Found an empty AOF manifest")),
            Some(text) => {
                Manifest::parse(&String::from_utf8_lossy(&text)).map_err(|why| refused(&why))?
            }
        };
        let len = |entry: &FileEntry| storage.len(&entry.name).unwrap_or(0);
        Ok(Self {
            base_bytes: manifest.base.as_ref().map_or(0, len),
            older_bytes: manifest.increments.iter().map(len).sum(),
            awaits_base: false,
            doubtful: None,
            current: None,
            name: name.to_owned(),
            manifest,
            storage,
        })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let current = self.current.as_ref().map_or(0, |current| current.bytes);
        self.base_bytes + self.older_bytes + current
    }

    /// The name of the base with this number, in RDB or as commands.
    pub fn base_name(name: &str, number: u64, is_rdb: bool) -> String {
        match is_rdb {
            true => format!("{name}.{number}.base.rdb"),
            false => format!("{name}.{number}.base.aof"),
        }
    }

    /// Makes an old single file, which is in the folder now, the base.
    ///
    /// # Errors
    /// The manifest can't be written.
    pub fn adopt(&mut self, name: &str) -> io::Result<()> {
        let mut manifest = self.manifest.clone();
        manifest.base = Some(FileEntry {
            name: name.to_owned(),
            number: 1,
        });
        self.put(&manifest)?;
        self.base_bytes = self.storage.len(name)?;
        self.manifest = manifest;
        Ok(())
    }

    /// Continues the last increment, or begins the first one.
    ///
    /// # Errors
    /// A file can't be opened.
    pub fn continue_last(&mut self) -> io::Result<()> {
        let Some(last) = self.manifest.increments.last() else {
            return self.begin_increment();
        };
        let (file, bytes) = self
            .storage
            .open(&last.name)
            .map_err(|error| explained(&last.name, "can't open", &error))?;
        self.older_bytes -= bytes;
        self.current = Some(Current {
            file,
            bytes,
            synced_bytes: 0,
            is_torn: false,
        });
        self.sync()
    }

    /// Begins a history that has no base yet: the old files stay valid until there is one.
    ///
    /// # Errors
    /// The file can't be created.
    pub fn begin_anew(&mut self) -> io::Result<()> {
        self.awaits_base = true;
        self.begin_increment()
    }

    /// Begins the next increment. What was written before is on disk then.
    ///
    /// # Errors
    /// A file can't be written. Then nothing has changed.
    pub fn begin_increment(&mut self) -> io::Result<()> {
        if !self.needs_base() {
            self.sync()?;
        }
        let number = self.manifest.next_increment();
        let name = format!("{}.{number}.incr.aof", self.name);
        let failed = |error: io::Error| explained(&name, "can't create", &error);
        let (mut file, bytes) = self.storage.open(&name).map_err(failed)?;
        if bytes > 0 {
            // A leftover that no manifest names.
            file.truncate(0).map_err(failed)?;
        }
        file.sync().map_err(failed)?;
        let mut manifest = self.manifest.clone();
        manifest.increments.push(FileEntry { name, number });
        // After a doubtful increment, which may be too short, a manifest must name no other.
        if !self.awaits_base && !self.needs_base() {
            self.put(&manifest)?;
        }
        self.manifest = manifest;
        self.older_bytes += self.current.as_ref().map_or(0, |current| current.bytes);
        self.current = Some(Current {
            file,
            bytes: 0,
            synced_bytes: 0,
            is_torn: false,
        });
        Ok(())
    }

    /// Puts a manifest in place.
    fn put(&self, manifest: &Manifest) -> io::Result<()> {
        let (temporary, name) = (
            format!("temp-{}.manifest", self.name),
            format!("{}.manifest", self.name),
        );
        let failed = |error: io::Error| explained(&name, "can't write", &error);
        // The files that it names come before it.
        self.storage.sync_names().map_err(failed)?;
        self.storage
            .write(&temporary, manifest.to_text().as_bytes())
            .map_err(failed)?;
        self.storage.rename(&temporary, &name).map_err(failed)?;
        self.storage.sync_names().map_err(failed)
    }

    /// Makes a complete file the base; the increments from the number `first` on follow it.
    ///
    /// # Errors
    /// The manifest can't be written; the old files stay valid.
    pub fn replace_base(&mut self, base: &FileEntry, first: u64) -> io::Result<()> {
        let bytes = self.storage.len(&base.name)?;
        let is_doubtful = self.doubtful.is_some_and(|doubtful| doubtful >= first);
        if self.needs_base() && !is_doubtful {
            // It could not be forced to the disk before: `sync` refuses that.
            self.sync_current()?;
        }
        let mut manifest = self.manifest.clone();
        let (kept, old): (Vec<_>, Vec<_>) = manifest
            .increments
            .drain(..)
            .partition(|entry| entry.number >= first);
        manifest.increments = kept;
        let replaced = manifest.base.replace(base.clone());
        manifest.history.extend(replaced);
        manifest.history.extend(old);
        manifest.history.retain(|entry| entry.name != base.name);
        self.put(&manifest)?;
        self.manifest = manifest;
        self.awaits_base = false;
        if !is_doubtful {
            self.doubtful = None;
        }
        (self.base_bytes, self.older_bytes) = (bytes, 0);
        self.drop_history();
        Ok(())
    }

    /// False if the file of a base is gone.
    pub fn has(&self, base: &FileEntry) -> bool {
        let length = self.storage.len(&base.name);
        !length.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// Deletes files that are not needed any more.
    fn drop_history(&mut self) {
        let removed = |entry: &FileEntry| match self.storage.remove(&entry.name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::warn!(
                    "Can't remove the old append-only file {}: {error}",
                    entry.name
                );
                false
            }
            _ => true,
        };
        let mut manifest = self.manifest.clone();
        manifest.history.retain(|entry| !removed(entry));
        match self.put(&manifest) {
            Ok(()) => self.manifest = manifest,
            // They are still named as deleted, which does no harm.
            Err(error) => log::warn!("{error}"),
        }
    }

    /// Appends bytes. If that fails, the file has none of them, or is cut back before the next try.
    ///
    /// # Errors
    /// They can't be written.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        if current.is_torn {
            current.file.truncate(current.bytes)?;
            current.is_torn = false;
        }
        let appended = current.file.append(bytes);
        match appended {
            Ok(()) => current.bytes += bytes.len() as u64,
            Err(_) => current.is_torn = current.file.truncate(current.bytes).is_err(),
        }
        appended
    }

    /// True after an fsync has failed. The operating system may have dropped what it could not write, and says so only once: that a later
    /// fsync succeeds means nothing. Only a new base, made from the data in memory, is certain to have everything.
    pub fn needs_base(&self) -> bool {
        self.doubtful.is_some()
    }

    /// True if some bytes are not on disk, but [`AofFiles::sync`] can force them there.
    pub fn is_unsynced(&self) -> bool {
        !self.needs_base()
            && self
                .current
                .as_ref()
                .is_some_and(|current| current.synced_bytes < current.bytes)
    }

    /// Forces everything to the disk.
    ///
    /// # Errors
    /// It fails, so nothing is known of what was written since the last time: from then on [`AofFiles::needs_base`], and this fails.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.needs_base() {
            return Err(io::Error::other("an earlier fsync failed"));
        }
        self.sync_current()
    }

    fn sync_current(&mut self) -> io::Result<()> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        match current.file.sync() {
            Ok(()) => current.synced_bytes = current.bytes,
            Err(error) => {
                self.doubtful = self.manifest.increments.last().map(|last| last.number);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Stops writing.
    ///
    /// # Errors
    /// What was written can't be forced to the disk.
    pub fn close(&mut self) -> io::Result<()> {
        let synced = self.sync();
        self.older_bytes += self.current.take().map_or(0, |current| current.bytes);
        synced
    }
}
