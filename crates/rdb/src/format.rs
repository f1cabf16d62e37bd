//! The numbers of the format: versions, opcodes, types of values, encodings. `docs/decisions/0020-rdb.md` draws the file.

/// The newest version of Redis's files that we read.
pub const REDIS_VERSION_MAX: u32 = 16;
/// The oldest version of Valkey's own files.
pub const VALKEY_VERSION_MIN: u32 = 80;
/// The newest version of Valkey's files that we read.
pub const VALKEY_VERSION_MAX: u32 = 81;
/// The oldest version that we write: Redis 7.0 and Valkey read it.
pub const VERSION_WRITTEN: u32 = 10;
/// The first version with deadlines of fields: Redis 7.4.
pub const VERSION_WITH_FIELD_DEADLINES: u32 = 12;
/// The first version with listpacks of members: Redis 7.2.
pub(crate) const VERSION_WITH_SET_LISTPACKS: u32 = 11;
/// The first version with a checksum at the end.
pub(crate) const VERSION_WITH_CHECKSUM: u32 = 5;

/// Redis's magic string; four digits of the version follow.
pub(crate) const REDIS_MAGIC: &[u8] = b"REDIS";
/// Valkey's magic string from version 80 on; three digits of the version follow.
pub(crate) const VALKEY_MAGIC: &[u8] = b"VALKEY";
/// Magic and version.
pub(crate) const HEADER_BYTES: usize = 9;
/// Version and checksum at the end of a DUMP payload.
pub(crate) const DUMP_FOOTER_BYTES: usize = 10;

/// Opcodes: they precede a key or replace it.
pub(crate) mod opcode {
    /// Redis: metadata of modules for the next key. Valkey: a slot that is being imported.
    pub const KEY_META_OR_SLOT_IMPORT: u8 = 243;
    pub const SLOT_INFO: u8 = 244;
    pub const FUNCTION: u8 = 245;
    pub const FUNCTION_PRE_GA: u8 = 246;
    pub const MODULE_AUX: u8 = 247;
    pub const IDLE: u8 = 248;
    pub const FREQUENCY: u8 = 249;
    pub const AUX: u8 = 250;
    pub const RESIZE_DB: u8 = 251;
    pub const EXPIRE_MS: u8 = 252;
    pub const EXPIRE_SECONDS: u8 = 253;
    pub const SELECT_DB: u8 = 254;
    pub const END: u8 = 255;
}

/// Types of values, each with its encoding.
pub(crate) mod kind {
    pub const STRING: u8 = 0;
    pub const LIST: u8 = 1;
    pub const SET: u8 = 2;
    pub const SORTED_SET: u8 = 3;
    pub const HASH: u8 = 4;
    pub const SORTED_SET_BINARY: u8 = 5;
    pub const MODULE_PRE_GA: u8 = 6;
    pub const MODULE: u8 = 7;
    pub const HASH_ZIPMAP: u8 = 9;
    pub const LIST_ZIPLIST: u8 = 10;
    pub const SET_INTSET: u8 = 11;
    pub const SORTED_SET_ZIPLIST: u8 = 12;
    pub const HASH_ZIPLIST: u8 = 13;
    pub const LIST_QUICKLIST: u8 = 14;
    pub const STREAM: u8 = 15;
    pub const HASH_LISTPACK: u8 = 16;
    pub const SORTED_SET_LISTPACK: u8 = 17;
    pub const LIST_QUICKLIST_2: u8 = 18;
    pub const STREAM_2: u8 = 19;
    pub const SET_LISTPACK: u8 = 20;
    pub const STREAM_3: u8 = 21;
    /// Redis 7.4 before its release: absolute deadlines. In Valkey's files it is [`HASH_VALKEY`].
    pub const HASH_DEADLINES_PRE_GA: u8 = 22;
    /// A hash with deadlines in Valkey's files.
    pub const HASH_VALKEY: u8 = 22;
    pub const HASH_LISTPACK_DEADLINES_PRE_GA: u8 = 23;
    pub const HASH_DEADLINES: u8 = 24;
    pub const HASH_LISTPACK_DEADLINES: u8 = 25;
    /// Adds the state of idempotent producers.
    pub const STREAM_4: u8 = 26;
    /// Adds entries released with XNACK.
    pub const STREAM_5: u8 = 27;
    /// The first type that we do not read; those from here to [`LAST`] are known by name only.
    pub const ARRAY: u8 = 28;
    pub const LAST: u8 = 33;
}

/// Special forms of a string, in the low six bits of its first byte.
pub(crate) mod string {
    pub const INT_8: u64 = 0;
    pub const INT_16: u64 = 1;
    pub const INT_32: u64 = 2;
    pub const LZF: u64 = 3;
}

/// Parts of a module's value.
pub(crate) mod module {
    pub const END: u64 = 0;
    pub const SIGNED: u64 = 1;
    pub const UNSIGNED: u64 = 2;
    pub const FLOAT: u64 = 3;
    pub const DOUBLE: u64 = 4;
    pub const STRING: u64 = 5;
}

/// Encodings of a list node.
pub(crate) mod node {
    pub const PLAIN: u64 = 1;
    pub const PACKED: u64 = 2;
}

/// The name of a module's type, from its id: nine characters of six bits, above ten bits of a version.
pub(crate) fn module_name(id: u64) -> String {
    const CHARACTERS: &[u8; 64] =
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let character = |index: u32| CHARACTERS[(id >> (58 - 6 * index) & 63) as usize];
    (0..9).map(|index| char::from(character(index))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_module_is_in_its_id() {
        let id = b"ReJSON-RL".iter().fold(0, |id: u64, character| {
            let index = match character {
                b'A'..=b'Z' => character - b'A',
                b'a'..=b'z' => character - b'a' + 26,
                b'0'..=b'9' => character - b'0' + 52,
                b'-' => 62,
                _ => 63,
            };
            id << 6 | u64::from(index)
        });
        assert_eq!(module_name(id << 10 | 3), "ReJSON-RL");
    }
}
