//! Options for limits per client, and for notifications.

use super::{Access, I64_MAX_BYTES, Opt};
use crate::events::events;
use crate::kind::{Kind, Setting};

pub(super) static OPTIONS: &[Opt] = &[
    Opt::live(
        "memcached-max-item-size",
        Kind::memory(1 << 10, 1 << 30),
        field!(memcached_max_item_size_bytes),
        "Largest item that memcached clients can store, with its key and memcached's overhead of about 60 bytes.",
    ),
    Opt::live(
        "client-output-buffer-limit",
        Kind::Groups(&["class", "hard", "soft", "seconds"]),
        Access {
            read: |c| c.client_output_buffer_limit.show(),
            write: |c, value| c.client_output_buffer_limit.update(&value.words()),
        },
        "Limits for unread replies, per class of clients (`normal`, `replica`, `pubsub`). A client is disconnected as soon as it has more than `hard` bytes unread, or once it has had more than `soft` bytes unread for `seconds`; 0 bytes means no limit. MONITOR clients belong to `pubsub`.",
    ),
    Opt::live(
        "client-query-buffer-limit",
        Kind::memory(1 << 20, I64_MAX_BYTES),
        field!(client_query_buffer_limit_bytes),
        "Most bytes of requests that are held for one client: incomplete ones, those queued by MULTI, and those that arrive while it is blocked. A client that exceeds it is disconnected.",
    ),
    Opt::live(
        "proto-max-bulk-len",
        Kind::memory(1 << 20, I64_MAX_BYTES),
        field!(proto_max_bulk_len_bytes),
        "Most bytes of one argument of a request; more than 4 GiB is never accepted.",
    ),
    Opt::live(
        "tracking-table-max-keys",
        Kind::integer(0, i64::MAX),
        field!(tracking_table_max_keys),
        "Most keys remembered for client-side caching; 0 means no limit. Beyond it, the server forgets keys and sends their invalidations early.",
    ),
    Opt::live(
        "notify-keyspace-events",
        Kind::Text,
        Access {
            read: |c| {
                let shown = events(&c.notify_keyspace_events);
                shown.unwrap_or_default().show()
            },
            write: |c, value| {
                let mut letters = String::new();
                value.store(&mut letters)?;
                events(&letters)?;
                // Stored as given: when shown, `A` hides a letter (`n`) that it does not stand for.
                c.notify_keyspace_events = letters;
                Ok(())
            },
        },
        "Which keyspace events are published: `K` and `E` choose the channels (by key, by event), the other letters choose the classes of events; empty publishes none.",
    ),
];
