//! Clients that observe what others do: subscribers, clients that cache keys, and clients that monitor.

pub mod client_tracking;
pub mod invalidation;
pub mod monitor;
pub mod notifications;
pub mod subscriptions;
