//! Damselfly: server.
