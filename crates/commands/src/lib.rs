//! Damselfly: commands.
