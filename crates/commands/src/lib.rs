//! The commands that work on keys: one row and one function each, one file per family.

pub mod acknowledgements;
pub mod args;
mod bit_fields;
mod bitmaps;
mod blocking;
pub mod command;
mod conditional_strings;
mod counters;
mod dump;
mod expiry;
mod geo;
mod geo_search;
mod hash_effects;
mod hash_expiry;
mod hash_walks;
mod hashes;
mod hyperloglogs;
mod key_places;
mod keys;
mod keyspace;
mod lcs;
mod list_ends;
mod lists;
mod long;
pub mod memcached;
mod migrate;
mod object;
mod ranges;
mod scans;
mod set_algebra;
mod sets;
pub mod sort;
mod sorted_set_algebra;
mod sorted_set_pops;
mod sorted_set_ranges;
mod sorted_sets;
mod sorting;
mod stop;
mod stream_claims;
mod stream_group_reads;
mod stream_groups;
mod stream_ids;
mod stream_info;
mod stream_ranges;
mod stream_reads;
mod stream_removals;
mod streams;
mod strings;

pub use args::{Args, OwnedArgs};
pub use bit_fields::exact_bitfield_access;
pub use command::{Access, Arity, At, Command, Group, KeySpec, Keys, Run, Trait, looks, reads};
pub use long::{Rest, SlicedReply, Unlocked};
pub use migrate::Migration;
pub use object::{encoding_name, memory_usage};
pub use stop::{Stop, Wait};

use damselfly_engine::Tx;
use damselfly_protocol::Reply;

/// The result of a command function: `Ok` if the reply was written, otherwise why the command stopped.
pub type Result<T = ()> = std::result::Result<T, Stop>;

/// The function of a command on keys. It runs with the locks held that the command's row asks for.
pub type KeyspaceFn = fn(&mut Tx<'_>, Args<'_>, &mut Reply<'_>) -> Result;

/// Runs a command on keys, and adds its effects to those of the section.
///
/// # Errors
/// Those of the command.
#[inline]
pub fn run(function: KeyspaceFn, tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let start = tx.begin_command();
    let result = function(tx, args, reply);
    tx.end_command(start, || args.from(0));
    result
}

/// All command families.
pub static FAMILIES: &[&[Command<KeyspaceFn>]] = &[
    strings::COMMANDS,
    conditional_strings::COMMANDS,
    counters::COMMANDS,
    ranges::COMMANDS,
    lcs::COMMANDS,
    bitmaps::COMMANDS,
    bit_fields::COMMANDS,
    hyperloglogs::COMMANDS,
    lists::COMMANDS,
    list_ends::COMMANDS,
    keys::COMMANDS,
    keyspace::COMMANDS,
    acknowledgements::COMMANDS,
    expiry::COMMANDS,
    object::COMMANDS,
    dump::COMMANDS,
    migrate::COMMANDS,
    sort::COMMANDS,
    hashes::COMMANDS,
    hash_walks::COMMANDS,
    hash_expiry::COMMANDS,
    sets::COMMANDS,
    set_algebra::COMMANDS,
    sorted_sets::COMMANDS,
    sorted_set_ranges::COMMANDS,
    sorted_set_pops::COMMANDS,
    sorted_set_algebra::COMMANDS,
    geo::COMMANDS,
    geo_search::COMMANDS,
    blocking::COMMANDS,
    streams::COMMANDS,
    stream_removals::COMMANDS,
    stream_ranges::COMMANDS,
    stream_reads::COMMANDS,
    stream_group_reads::COMMANDS,
    stream_groups::COMMANDS,
    stream_claims::COMMANDS,
    stream_info::COMMANDS,
];
