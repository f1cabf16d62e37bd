//! Encoding what was copied for a save, and appending it to the file.

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_rdb::{Encoder, VERSION_WRITTEN, WriteOptions};
use damselfly_value::EntryRef;

use super::save_job::{Backlog, Batch, SaveJob};

/// About how many bytes of a large value are encoded at a time.
pub(super) const VALUE_SLICE_BYTES: usize = 256 << 10;

/// The encoders of one thread.
#[derive(Default)]
pub(super) struct Encoders {
    usual: Option<Encoder>,
    /// As `usual`, but without compression.
    fast: Option<Encoder>,
    /// For hashes with expiration times of fields, if no option fixes the version.
    newer: Option<Encoder>,
    out: Vec<u8>,
}

impl Encoders {
    /// The memory that they take between two batches.
    pub(super) fn memory_bytes(&self) -> usize {
        let encoders = [&self.usual, &self.fast, &self.newer];
        let bytes = encoders.into_iter().flatten().map(Encoder::memory_bytes);
        bytes.sum::<usize>() + self.out.capacity()
    }

    /// Encodes a batch and appends it to the file.
    pub(super) fn encode(&mut self, job: &SaveJob, batch: &Batch) -> io::Result<()> {
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let mut is_selected = false;
        let is_late = job.backlog() != Backlog::Small;
        for entry in &batch.entries {
            let encoder = self.encoder(job, entry.view(), is_late);
            if !std::mem::replace(&mut is_selected, true) {
                encoder.select_db(batch.db as u64, &mut out);
            }
            let access = job.access(entry.view());
            let begun = encoder.begin_entry(entry.view(), access, &mut out);
            let mut writer = begun.map_err(|error| {
                io::Error::other(format!(
                    "the key '{}' can't be written, since rdb-save-version is fixed: {error}",
                    String::from_utf8_lossy(entry.view().key()),
                ))
            })?;
            if writer.write(entry.view().value(), encoder, VALUE_SLICE_BYTES, &mut out) {
                continue;
            }
            // A large value is written slice by slice.
            job.output.with(|file| {
                loop {
                    file.write(&out)?;
                    out.clear();
                    let value = entry.view().value();
                    if writer.write(value, encoder, VALUE_SLICE_BYTES, &mut out) || job.has_failed()
                    {
                        file.write(&out)?;
                        out.clear();
                        return Ok(());
                    }
                }
            })?;
            // The next entry may come behind entries of other databases.
            is_selected = false;
        }
        job.output.append(&out)?;
        self.out = out;
        Ok(())
    }

    fn encoder(&mut self, job: &SaveJob, entry: EntryRef<'_>, is_late: bool) -> &mut Encoder {
        let compress = job.file.compress;
        let new = |version| Encoder::new(WriteOptions { version, compress });
        let needed = damselfly_rdb::version_needed(entry);
        if job.file.version.is_none() && needed > VERSION_WRITTEN {
            job.version.fetch_max(needed, Relaxed);
            return self.newer.get_or_insert_with(|| new(needed));
        }
        let version = job.file.version.unwrap_or(VERSION_WRITTEN);
        if is_late {
            let compress = false;
            let new = || Encoder::new(WriteOptions { version, compress });
            return self.fast.get_or_insert_with(new);
        }
        self.usual.get_or_insert_with(|| new(version))
    }
}
