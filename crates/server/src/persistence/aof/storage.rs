//! The folder of a file that must survive crashes, as a trait, so that tests can lose power at any step: everything that saves and the
//! append-only file write goes through it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A folder.
pub trait Storage: Send + Sync {
    /// Opens a file to append to it; creates it if it does not exist. Returns its length, too.
    fn open(&self, name: &str) -> io::Result<(Box<dyn Appender>, u64)>;

    /// Reads a small file; `None` if it does not exist.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Writes a small file and forces it to the disk.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Renames a file, in place of another.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Deletes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The length of a file.
    fn len(&self, name: &str) -> io::Result<u64>;

    /// Forces the names of files to the disk.
    fn sync_names(&self) -> io::Result<()>;
}

/// Removes a file that no manifest names. If that fails, the log says so.
pub fn remove_useless(storage: &dyn Storage, name: &str) {
    if let Err(error) = storage.remove(name) {
        log::warn!("Can't remove {name}, which nothing needs: {error}");
    }
}

/// Finds out whether something can be appended: to this file, which must exist, or to a new one.
///
/// # Errors
/// It can't.
pub fn check_writable(storage: &dyn Storage, file: Option<&str>) -> io::Result<()> {
    const PROBE: &str = "temp-probe.aof";
    let Some(name) = file else {
        storage.open(PROBE)?;
        return storage.remove(PROBE);
    };
    // Opening would create it, and what it had would be lost without a word.
    storage.len(name)?;
    storage.open(name).map(drop)
}

/// A file that grows.
pub trait Appender: Send {
    /// Appends bytes. After an error, some of them may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Forces what was appended to the disk.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file to this length.
    fn truncate(&mut self, len: u64) -> io::Result<()>;

    /// Writes over the first bytes of the file.
    fn overwrite_start(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// A folder on disk.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// A folder that exists.
    pub fn existing(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Creates the folder if it does not exist.
    ///
    /// # Errors
    /// It can't be created.
    pub fn create(path: &Path) -> io::Result<Self> {
        if !path.is_dir() {
            fs::create_dir(path)?;
            if let Some(parent) = path.parent() {
                sync_folder(parent)?;
            }
        }
        Ok(Self(path.to_owned()))
    }
}

pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    match File::open(path).and_then(|folder| folder.sync_all()) {
        Err(error) if crate::persistence::save_file::is_unsupported(&error) => Ok(()),
        synced => synced,
    }
}

impl Storage for Folder {
    fn open(&self, name: &str) -> io::Result<(Box<dyn Appender>, u64)> {
        let path = self.0.join(name);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let len = file.seek(SeekFrom::End(0))?;
        Ok((Box::new(DiskFile(file)), len))
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.0.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create(self.0.join(name))?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.0.join(name))?.len())
    }

    fn sync_names(&self) -> io::Result<()> {
        sync_folder(&self.0)
    }
}

/// A file on disk. What is appended goes behind the file's position.
pub(in crate::persistence) struct DiskFile(pub File);

impl Appender for DiskFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.0.set_len(len)?;
        self.0.seek(SeekFrom::Start(len)).map(drop)
    }

    fn overwrite_start(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, 0)
    }
}
