//! The effects of a section, for the log.
//!
//! By default the effect of a command is its request, if it has changed something ([`Tx::end_command`]). A command whose request
//! would not do the same everywhere adds its own effects instead ([`Tx::log_effect`]). Expired and evicted keys add theirs by themselves.

use damselfly_log::Targets;

use crate::section::held_locks::HeldLocks;
use crate::{Now, Tx};

/// The state of a section before a command: what [`Tx::end_command`] compares with.
#[derive(Clone, Copy, Debug)]
pub struct CommandStart {
    changes: u64,
    effects: usize,
}

impl Tx<'_> {
    /// True if effects go to the log.
    #[inline]
    pub fn is_logged(&self) -> bool {
        self.engine().log.is_on()
    }

    /// Begins a command.
    #[inline]
    pub fn begin_command(&self) -> CommandStart {
        CommandStart {
            changes: self.effects.changes,
            effects: self.effects_by_commands(),
        }
    }

    /// Ends a command: if it has changed something and added no effects itself, its request is its effect.
    #[inline]
    pub fn end_command<'r, I>(&mut self, start: CommandStart, request: impl FnOnce() -> I)
    where
        I: ExactSizeIterator<Item = &'r [u8]>,
    {
        if self.effects.changes != start.changes
            && self.is_logged()
            && self.effects_by_commands() == start.effects
        {
            self.log_request(request());
        }
    }

    /// Out of line, since most commands change nothing, and most servers have no log.
    #[cold]
    #[inline(never)]
    fn log_request<'r>(&mut self, request: impl ExactSizeIterator<Item = &'r [u8]>) {
        self.log_args(request);
    }

    /// True if the section has changed something since `start`.
    #[inline]
    pub fn has_changed(&self, start: CommandStart) -> bool {
        self.effects.changes != start.changes
    }

    #[inline]
    fn effects_by_commands(&self) -> usize {
        self.record
            .as_ref()
            .map_or(0, |record| record.by_commands())
    }

    /// Adds an effect of the current command, which replaces its request: a command on the selected database. Does nothing if the
    /// log is off; check [`Tx::is_logged`] first if making the arguments takes time.
    pub fn log_effect(&mut self, args: &[&[u8]]) {
        if self.is_logged() {
            self.log_args(args.iter().copied());
        }
    }

    /// Adds a message that replicas publish, too.
    pub fn log_message<'r>(&mut self, args: impl ExactSizeIterator<Item = &'r [u8]>) {
        if self.engine().log.wants(Targets::REPLICAS) {
            let db = self.db();
            self.record().add_for(Targets::REPLICAS, db, args);
        }
    }

    /// As [`Tx::log_effect`].
    pub fn log_args<'r>(&mut self, args: impl ExactSizeIterator<Item = &'r [u8]>) {
        if self.is_logged() {
            let db = self.db();
            self.record().add(db, args);
        }
    }

    /// Notes that the current command has no effects beside those that it has added.
    pub fn log_no_more(&mut self) {
        if self.is_logged() {
            self.record().note_complete();
        }
    }

    /// Sets which consumers get the effects of the following commands of this section: `redis.set_repl`.
    pub fn set_log_targets(&mut self, targets: Targets) {
        if self.is_logged() && (targets != Targets::ALL || self.record.is_some()) {
            self.record().set_targets(targets);
        }
    }

    /// Notes that the effects of this section need not be applied together.
    pub fn set_effects_loose(&mut self) {
        if let Some(record) = self.record.as_mut() {
            record.set_loose();
        }
    }

    #[cold]
    pub(crate) fn log_eviction(&mut self, db: usize, key: &[u8]) {
        if self.is_logged() {
            let name = self.engine().settings.name_of_eviction();
            self.record().add_own(db, [name, key].into_iter());
        }
    }

    fn record(&mut self) -> &mut damselfly_log::Record {
        let engine = self.engine();
        self.record.get_or_insert_with(|| engine.log.record())
    }

    /// Takes the section's place in the order of the log, before it releases any lock.
    pub(super) fn reserve_number(&mut self) {
        if self.is_logged() {
            let engine = self.engine();
            engine.log.reserve(self.record());
        }
    }

    /// Appends the record to the log, or gives it back to the section that has lent its locks.
    pub(super) fn append_record(&mut self) {
        let Some(record) = self.record.take() else {
            return;
        };
        let (engine, Now(time_ms)) = (self.engine(), self.now());
        match &mut self.held {
            HeldLocks::Lent(lender) => **lender = Some(record),
            HeldLocks::None
            | HeldLocks::Waiting(_)
            | HeldLocks::One(_)
            | HeldLocks::Many(_)
            | HeldLocks::All => engine.log.append(record, time_ms),
        }
    }
}
