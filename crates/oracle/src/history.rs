//! Checks whether a concurrent history is linearizable: whether each call can have taken effect at one moment between its start
//! and its end.
//!
//! The search is that of Wing and Gong (1993) with the memoization of Lowe (2017). The calls of a client take
//! effect in their order, so the state of a search is one position per client:
//!
//! ```text
//! client 0   [--- SET a 1 ---]      [-- GET a: 1 --]
//! client 1        [------ INCR a: 2 ------]
//!                  ▲ positions (1, 0): SET is done, INCR and GET are not
//! ```
//!
//! A client's next call is a candidate for the next place in the order if no other remaining call ended before it started. It
//! fits if the model gives the observed reply. A pair of positions and state is searched only once.

use std::collections::HashSet;
use std::fmt::{self, Debug};
use std::hash::Hash;
use std::time::Instant;

/// The state that calls act on, and their sequential semantics.
pub trait Model: Clone + Eq + Hash {
    /// A call.
    type Operation: Debug + Clone;
    /// The reply of a call.
    type Reply: Debug + Clone + PartialEq;

    /// Applies a call and returns the correct reply.
    fn apply(&mut self, operation: &Self::Operation) -> Self::Reply;

    /// True only if a call with this reply changes nothing, whatever the state. This makes the search much shorter; if it is true
    /// for a call that changes something, the result is wrong.
    fn is_inert(operation: &Self::Operation, reply: &Self::Reply) -> bool;

    /// The numbers, below 64, of the keys that a call touches. Calls whose keys are not connected, not even through
    /// other calls, are checked separately.
    fn keys(operation: &Self::Operation) -> Vec<usize>;
}

/// A call of a client, as observed from outside.
#[derive(Debug, Clone)]
pub struct Call<M: Model> {
    /// The operation.
    pub operation: M::Operation,
    /// Its reply.
    pub reply: M::Reply,
    /// A moment before the call was sent.
    pub started: Instant,
    /// A moment after its reply arrived.
    pub ended: Instant,
}

/// The calls of each client, in the client's order. Calls of one client may overlap (in a pipeline), but take effect in
/// their order.
pub type History<M> = Vec<Vec<Call<M>>>;

/// Why a history was rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// No order explains the history. The text shows the longest order found and the calls that cannot follow it.
    NotLinearizable(String),
    /// The search gave up after this many steps.
    TooHard(usize),
}

impl fmt::Display for Rejection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLinearizable(text) => write!(formatter, "not linearizable:\n{text}"),
            Self::TooHard(steps) => write!(formatter, "undecided after {steps} steps"),
        }
    }
}

/// The most steps of one search: a few seconds.
const STEPS_MAX: usize = 3_000_000;
/// How many calls of the longest order a rejection shows.
const SHOWN_MAX: usize = 12;

/// Accepts a history if some order of its calls explains it, starting from `initial`.
///
/// # Errors
/// There is no such order, or the search took too many steps.
pub fn check<M: Model>(initial: &M, history: &[Vec<Call<M>>]) -> Result<(), Rejection> {
    for keys in connected_keys(history) {
        let part: Vec<Vec<&Call<M>>> = history
            .iter()
            .map(|calls| calls.iter().filter(|call| mask(call) & keys != 0).collect())
            .collect();
        search(initial, &part)?;
    }
    Ok(())
}

fn mask<M: Model>(call: &Call<M>) -> u64 {
    M::keys(&call.operation)
        .iter()
        .fold(0, |mask, key| mask | 1 << key)
}

/// Partitions the keys into bit sets such that no call touches two of them.
fn connected_keys<M: Model>(history: &[Vec<Call<M>>]) -> Vec<u64> {
    let mut sets: Vec<u64> = Vec::new();
    for call in history.iter().flatten() {
        let mut joined = mask(call);
        sets.retain(|set| {
            let apart = set & joined == 0;
            if !apart {
                joined |= set;
            }
            apart
        });
        sets.push(joined);
    }
    sets
}

/// A place in the order being tried, and the alternatives.
struct Step<M> {
    before: M,
    /// The clients whose calls may come next here; the last one is tried first.
    candidates: Vec<usize>,
    /// The client whose call was taken.
    taken: Option<usize>,
}

fn search<M: Model>(initial: &M, history: &[Vec<&Call<M>>]) -> Result<(), Rejection> {
    let total: usize = history.iter().map(Vec::len).sum();
    let mut positions = vec![0; history.len()];
    let mut seen: HashSet<(Vec<usize>, M)> = HashSet::new();
    let mut longest: Vec<usize> = Vec::new();
    let mut steps = vec![Step {
        before: initial.clone(),
        candidates: candidates(history, &positions),
        taken: None,
    }];
    // All steps but the last one have a call.
    while steps.len() <= total {
        let Some(step) = steps.last_mut() else {
            return Err(Rejection::NotLinearizable(describe(
                initial, history, &longest,
            )));
        };
        if let Some(client) = step.taken.take() {
            positions[client] -= 1;
        }
        let Some(client) = step.candidates.pop() else {
            steps.pop();
            if steps.len() > longest.len() {
                longest = steps.iter().filter_map(|step| step.taken).collect();
            }
            continue;
        };
        let call = history[client][positions[client]];
        let mut state = step.before.clone();
        if state.apply(&call.operation) != call.reply {
            continue;
        }
        if M::is_inert(&call.operation, &call.reply) {
            // A call that changes nothing fits here as well as later, so no alternative needs to be tried.
            step.candidates.clear();
        }
        step.taken = Some(client);
        positions[client] += 1;
        if !seen.insert((positions.clone(), state.clone())) {
            continue;
        }
        if seen.len() > STEPS_MAX {
            return Err(Rejection::TooHard(STEPS_MAX));
        }
        steps.push(Step {
            before: state,
            candidates: candidates(history, &positions),
            taken: None,
        });
    }
    Ok(())
}

/// The clients whose next call started before any other remaining call ended. The call that ended first comes last and so is
/// tried first: most calls take effect in the order of their ends.
fn candidates<M: Model>(history: &[Vec<&Call<M>>], positions: &[usize]) -> Vec<usize> {
    let next = |client: usize| history[client].get(positions[client]);
    let all = 0..history.len();
    let Some(first_end) = all.clone().filter_map(next).map(|call| call.ended).min() else {
        return Vec::new();
    };
    let mut clients: Vec<usize> = all
        .filter(|&client| next(client).is_some_and(|call| call.started <= first_end))
        .collect();
    clients.sort_by_key(|&client| std::cmp::Reverse(next(client).map(|call| call.ended)));
    clients
}

/// Describes the end of an order of clients, and the calls that cannot follow it.
fn describe<M: Model>(initial: &M, history: &[Vec<&Call<M>>], order: &[usize]) -> String {
    let mut text = String::new();
    let mut state = initial.clone();
    let mut positions = vec![0; history.len()];
    let hidden = order.len().saturating_sub(SHOWN_MAX);
    if hidden > 0 {
        text += &format!("  ... {hidden} calls before\n");
    }
    for (number, &client) in order.iter().enumerate() {
        let Call {
            operation, reply, ..
        } = history[client][positions[client]];
        if number >= hidden {
            text += &format!("  client {client}: {operation:?} => {reply:?}\n");
        }
        state.apply(operation);
        positions[client] += 1;
    }
    text += "none of these calls can follow:\n";
    for client in candidates(history, &positions) {
        let Call {
            operation, reply, ..
        } = history[client][positions[client]];
        let expected = state.clone().apply(operation);
        text += &format!("  client {client}: {operation:?} => {reply:?}, expected {expected:?}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    /// Registers that start at zero.
    #[derive(Clone, PartialEq, Eq, Hash, Default)]
    struct Registers(BTreeMap<usize, i64>);

    #[derive(Debug, Clone)]
    enum Operation {
        Read(usize),
        Write(usize, i64),
        Add(usize, i64),
        /// Reads two registers at one moment.
        Both(usize, usize),
    }
    use Operation::{Add, Both, Read, Write};

    impl Model for Registers {
        type Operation = Operation;
        type Reply = Vec<i64>;

        fn apply(&mut self, operation: &Operation) -> Vec<i64> {
            let mut value = |key: usize| *self.0.entry(key).or_default();
            match *operation {
                Read(key) => vec![value(key)],
                Both(one, other) => vec![value(one), value(other)],
                Write(key, number) => {
                    self.0.insert(key, number);
                    vec![]
                }
                Add(key, number) => {
                    let sum = value(key) + number;
                    self.0.insert(key, sum);
                    vec![sum]
                }
            }
        }

        fn is_inert(operation: &Operation, _reply: &Vec<i64>) -> bool {
            match operation {
                Read(_) | Both(..) => true,
                Write(..) | Add(..) => false,
            }
        }

        fn keys(operation: &Operation) -> Vec<usize> {
            match *operation {
                Read(key) | Write(key, _) | Add(key, _) => vec![key],
                Both(one, other) => vec![one, other],
            }
        }
    }

    /// Operation, reply, start and end of a call.
    type Seen = (Operation, &'static [i64], u64, u64);

    /// Checks a history.
    fn verdict(clients: &[&[Seen]]) -> Result<(), Rejection> {
        let zero = Instant::now();
        let at = |moment: &u64| zero + Duration::from_secs(*moment);
        let call = |(operation, reply, started, ended): &Seen| Call {
            operation: operation.clone(),
            reply: reply.to_vec(),
            started: at(started),
            ended: at(ended),
        };
        let history: History<Registers> = clients
            .iter()
            .map(|calls| calls.iter().map(call).collect())
            .collect();
        check(&Registers::default(), &history)
    }

    fn rejected(clients: &[&[Seen]]) -> String {
        match verdict(clients) {
            Err(Rejection::NotLinearizable(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_client_must_see_what_it_did() {
        let write = (Write(0, 1), &[][..], 0, 1);
        assert_eq!(verdict(&[&[write.clone(), (Read(0), &[1], 2, 3)]]), Ok(()));
        let text = rejected(&[&[write, (Read(0), &[0], 2, 3)]]);
        assert!(
            text.contains("Write(0, 1)") && text.contains("expected [1]"),
            "{text}"
        );
        assert_eq!(verdict(&[]), Ok(()));
    }

    #[test]
    fn a_read_during_a_write_may_see_either_value_but_not_the_old_after_the_new() {
        let write: &[_] = &[(Write(0, 1), &[][..], 0, 9)];
        let reads = |first: &'static [i64], second: &'static [i64]| {
            verdict(&[write, &[(Read(0), first, 1, 2)], &[(Read(0), second, 3, 4)]])
        };
        assert_eq!(reads(&[0], &[0]), Ok(()));
        assert_eq!(reads(&[0], &[1]), Ok(()));
        assert_eq!(reads(&[1], &[1]), Ok(()));
        assert!(reads(&[1], &[0]).is_err());
    }

    #[test]
    fn a_stale_read_after_the_end_of_a_write_is_rejected() {
        let read = |start| {
            verdict(&[
                &[(Write(0, 1), &[][..], 0, 2)],
                &[(Read(0), &[0], start, 9)],
            ])
        };
        assert_eq!(read(1), Ok(()));
        assert!(read(3).is_err());
    }

    #[test]
    fn a_lost_update_is_rejected() {
        let adds = |one: &'static [i64], other: &'static [i64]| {
            verdict(&[&[(Add(0, 1), one, 0, 5)], &[(Add(0, 1), other, 1, 6)]])
        };
        assert_eq!(adds(&[1], &[2]), Ok(()));
        assert_eq!(adds(&[2], &[1]), Ok(()));
        assert!(adds(&[1], &[1]).is_err());
    }

    /// Each register for itself has an order, but both together have none.
    #[test]
    fn two_writes_seen_in_different_orders_are_rejected() {
        let writes: [&[_]; 2] = [
            &[(Write(0, 1), &[][..], 0, 9)],
            &[(Write(1, 1), &[][..], 0, 9)],
        ];
        let seen = |one: &'static [i64], other: &'static [i64]| {
            verdict(&[
                writes[0],
                writes[1],
                &[(Both(0, 1), one, 1, 8)],
                &[(Both(0, 1), other, 1, 8)],
            ])
        };
        assert_eq!(seen(&[1, 0], &[1, 1]), Ok(()));
        assert_eq!(seen(&[0, 1], &[0, 0]), Ok(()));
        assert!(seen(&[1, 0], &[0, 1]).is_err());
    }

    #[test]
    fn keys_that_no_call_connects_are_checked_separately() {
        let zero = Instant::now();
        let call = |operation| Call::<Registers> {
            operation,
            reply: vec![],
            started: zero,
            ended: zero,
        };
        let history = [
            vec![call(Read(0)), call(Both(1, 2)), call(Read(5))],
            vec![call(Both(2, 3)), call(Write(0, 1))],
        ];
        let mut sets = connected_keys(&history);
        sets.sort_unstable();
        assert_eq!(sets, [1, 0b1110, 1 << 5]);
        // A wrong call is found in any set.
        let good = (Write(0, 1), &[][..], 0, 1);
        assert!(verdict(&[&[good, (Read(7), &[1], 2, 3)]]).is_err());
    }

    /// A history made by running calls one by one is accepted, however their times overlap. With one reply changed to a
    /// value that no order gives, it is rejected.
    #[test]
    fn random_histories_are_accepted_until_a_reply_is_falsified() {
        const CLIENTS: usize = 4;
        let seed = 0x5eed;
        println!("seed {seed}");
        let mut random = crate::random::Random::new(seed);
        for _ in 0..50 {
            let zero = Instant::now();
            let at = |moment: usize| zero + Duration::from_secs(moment as u64);
            let mut model = Registers::default();
            let mut history: History<Registers> = vec![Vec::new(); CLIENTS];
            let mut last = [(0, 0); CLIENTS];
            for effect in 1..100_usize {
                let client = random.below(CLIENTS);
                let key = random.below(3);
                let operation = match random.below(4) {
                    0 => Read(key),
                    1 => Write(key, random.between(0, 5)),
                    2 => Add(key, random.between(1, 5)),
                    _ => Both(key, (key + 1) % 3),
                };
                let earliest = (effect * 10).saturating_sub(random.below(60));
                let ended = effect * 10 + random.below(60);
                let reply = model.apply(&operation);
                // Calls of one client may overlap, as in a pipeline, but keep their order.
                let (started, ended) = (earliest.max(last[client].0), ended.max(last[client].1));
                last[client] = (started, ended);
                history[client].push(Call {
                    operation,
                    reply,
                    started: at(started),
                    ended: at(ended),
                });
            }
            assert_eq!(check(&Registers::default(), &history), Ok(()));
            let falsified = history
                .iter_mut()
                .flatten()
                .find(|call| !call.reply.is_empty());
            falsified.expect("half of the calls have a reply").reply[0] += 1000;
            assert!(check(&Registers::default(), &history).is_err());
        }
    }
}
