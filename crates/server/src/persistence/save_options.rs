//! What the options say about the file of a save.

use std::path::PathBuf;
use std::sync::Arc;

use damselfly_config::Config;

use super::aof;
use super::aof::storage::Storage;
use crate::shared::Shared;

/// What the options say about the file, when the save began.
pub(super) struct FileOptions {
    pub(super) folder: PathBuf,
    pub(super) name: String,
    pub(super) with_checksum: bool,
    pub(super) syncs_early: bool,
    pub(super) compress: bool,
    /// The version, if an option fixes it.
    pub(super) version: Option<u32>,
    /// The file is the base of the append-only file.
    pub(super) base: Option<BaseOptions>,
}

/// A base of the append-only file.
pub(super) struct BaseOptions {
    pub(super) number: u64,
    /// `aof-use-rdb-preamble`
    pub(super) is_rdb: bool,
    /// It begins with the time: `aof-timestamp-enabled`.
    pub(super) has_time: bool,
    /// Its folder, or why it can't be created.
    pub(super) storage: Result<Arc<dyn Storage>, String>,
}

impl FileOptions {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            folder: PathBuf::from(&config.dir),
            name: config.dbfilename.clone(),
            with_checksum: config.rdbchecksum,
            syncs_early: config.rdb_save_incremental_fsync,
            compress: config.rdbcompression,
            version: config.rdb_save_version.number(),
            base: None,
        }
    }

    /// The path of the file.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// The next base of the append-only file.
    pub(super) fn of_base(shared: &Shared, config: &Config) -> Self {
        let storage = shared.aof.storage(config);
        let number = shared.aof.take_base_number(config);
        let is_rdb = config.aof_use_rdb_preamble;
        Self {
            folder: aof::folder(config),
            name: aof::files::AofFiles::base_name(&config.appendfilename, number, is_rdb),
            syncs_early: config.aof_rewrite_incremental_fsync,
            base: Some(BaseOptions {
                number,
                is_rdb,
                has_time: config.aof_timestamp_enabled,
                storage: storage.map_err(|error| error.to_string()),
            }),
            ..Self::new(config)
        }
    }
}
