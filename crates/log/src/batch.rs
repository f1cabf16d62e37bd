//! A piece of the merged stream, as consumers get it.

/// A set of consumers: who gets an effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Targets(u8);

impl Targets {
    /// Nobody.
    pub const NONE: Self = Self(0);
    /// The append-only file.
    pub const FILE: Self = Self(1);
    /// Replicas.
    pub const REPLICAS: Self = Self(2);
    /// All of them.
    pub const ALL: Self = Self(3);

    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    /// The set with these bits: 1 is the file, 2 the replicas, as in Redis's `redis.set_repl`.
    pub fn from_bits(bits: u8) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// True if it is nobody.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in either set.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those in both sets.
    #[inline]
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// True if the sets have a consumer in common.
    #[inline]
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Bytes of a batch that go to the same consumers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Who gets them.
    pub targets: Targets,
    /// Where they end in [`Batch::bytes`]. They begin where the span before ends.
    pub end: usize,
}

/// Records in their total order, as commands. Spans are never empty.
#[derive(Debug, Default)]
pub struct Batch {
    /// The commands.
    pub bytes: Vec<u8>,
    /// Who gets which bytes.
    pub spans: Vec<Span>,
    /// The number of the first record.
    pub first: u64,
    /// The number after the last record.
    pub end: u64,
    /// Where records begin whose second differs from that of the record before: the place in `bytes`, and seconds since the epoch.
    pub seconds: Vec<(usize, i64)>,
    /// Where each record begins in `bytes`, and which database is selected there; `None` if the record itself begins with SELECT.
    pub starts: Vec<(u32, Option<u16>)>,
}

impl Batch {
    /// The pieces for a consumer, in order: from where in `bytes`, and the bytes. `cut` is the number of the first record that the
    /// consumer wants: [`Batch::first`] or less for all.
    pub fn after(&self, cut: u64, targets: Targets) -> impl Iterator<Item = (usize, &[u8])> {
        self.pieces(self.place_of(cut), self.bytes.len(), targets)
    }

    /// The pieces of the records from one number to before another, for a consumer, in order.
    pub fn between(&self, from: u64, to: u64, targets: Targets) -> impl Iterator<Item = &[u8]> {
        let (begin, end) = (self.place_of(from), self.place_of(to));
        self.pieces(begin, end, targets).map(|(_, piece)| piece)
    }

    /// Where a record begins in `bytes`.
    fn place_of(&self, record: u64) -> usize {
        match record.saturating_sub(self.first) as usize {
            0 => 0,
            passed => self
                .starts
                .get(passed)
                .map_or(self.bytes.len(), |&(at, _)| at as usize),
        }
    }

    fn pieces(
        &self,
        from: usize,
        to: usize,
        targets: Targets,
    ) -> impl Iterator<Item = (usize, &[u8])> {
        let mut start = 0;
        self.spans.iter().filter_map(move |span| {
            let (begin, end) = (start.max(from), span.end.min(to));
            start = span.end;
            (span.targets.meets(targets) && begin < end).then(|| (begin, &self.bytes[begin..end]))
        })
    }

    /// What a consumer needs that begins with this record, if the batch has it: SELECT, unless the record brings its own.
    pub fn beginning_at(&self, cut: u64) -> Vec<u8> {
        let mut select = Vec::new();
        let index = cut.saturating_sub(self.first) as usize;
        if let Some(&(_, Some(db))) = self.starts.get(index) {
            crate::record::write_select(&mut select, db);
        }
        select
    }

    /// Empties it, to be filled again.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
        self.seconds.clear();
        self.starts.clear();
        (self.first, self.end) = (0, 0);
    }

    /// True if it has no record.
    pub fn is_empty(&self) -> bool {
        self.first == self.end
    }

    pub(crate) fn add_span(&mut self, targets: Targets) {
        let end = self.bytes.len();
        match self.spans.last_mut() {
            Some(last) if last.targets == targets => last.end = end,
            _ => self.spans.push(Span { targets, end }),
        }
    }
}
