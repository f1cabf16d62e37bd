//! A random sequence of commands, sent to two servers whose replies must agree.

use crate::agreement::{
    Outcome, agree, agree_all, is_stale_error, note_queued, plain_scores, show,
};
use crate::connection::{Connection, request};
use crate::events::EventListener;
use crate::grammar::{self, Node, OPTIONS};
use crate::newer;
use crate::random::Random;
use crate::rows::{self, Family, Row, Rule};
use crate::scripts::Scripts;
use crate::text::{quote, render};
use damselfly_protocol::client::Value;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;

/// The most commands that are sent together.
const BATCH_COMMANDS_MAX: usize = 50;
/// The most bytes that are sent before replies are read. The socket buffers hold as much, so there is
/// no deadlock with a server that stops reading until its replies are read.
const BATCH_BYTES_MAX: usize = 64 * 1024;
/// The longest command that is sent inline; servers limit the length of such a line.
const INLINE_BYTES_MAX: usize = 1000;
/// A full SCAN that takes more calls than this counts as endless.
const SCAN_CALLS_MAX: usize = 10_000;

/// One command of a sequence.
#[derive(Debug, Clone)]
pub struct Step {
    /// The command.
    pub arguments: Vec<Vec<u8>>,
    pub(crate) rule: Rule,
    /// True to send it as a line of text instead of an array of strings.
    inline: bool,
    /// True if replies are read before the next command is sent.
    ends_batch: bool,
}

impl Step {
    /// True for a command of this name.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.arguments[0].eq_ignore_ascii_case(name.as_bytes())
    }

    /// True for a command of this name, or a script that may call it.
    fn names(&self, name: &str) -> bool {
        let is_it = |argument: &Vec<u8>| argument.eq_ignore_ascii_case(name.as_bytes());
        self.arguments.iter().any(is_it)
    }

    fn plain(arguments: Vec<Vec<u8>>) -> Self {
        Self {
            arguments,
            rule: Rule::Exact,
            inline: false,
            ends_batch: false,
        }
    }

    /// The request as it is sent.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        if !self.inline {
            return request(&self.arguments);
        }
        let words: Vec<String> = self
            .arguments
            .iter()
            .map(|argument| quote(argument))
            .collect();
        format!("{}\r\n", words.join(" ")).into_bytes()
    }
}

/// Draws sequences of commands from the table.
pub struct Generator {
    rows: Vec<(Row, Vec<Node>)>,
    /// The rows of transactions among them.
    transactions: Vec<(Row, Vec<Node>)>,
    /// The mean number of commands between two transaction commands.
    distance: usize,
    scripts: Option<Scripts>,
    /// One in this many commands is a script.
    script_distance: usize,
}

impl Generator {
    /// A generator that draws from one family, or from all, but never the commands in `without`.
    #[must_use]
    pub fn new(family: Option<Family>, without: &[String]) -> Self {
        let wanted = rows::all().filter(|row| match family {
            None | Some(Family::Transactions | Family::Script) => true,
            Some(family) => row.family == family,
        });
        let wanted = wanted.filter(|row| {
            !without
                .iter()
                .any(|name| row.grammar.split(' ').any(|word| word == name))
        });
        let (transactions, rows): (Vec<_>, Vec<_>) = wanted
            .map(|row| (*row, grammar::parse(row.grammar)))
            .partition(|(row, _)| row.family == Family::Transactions);
        let with_scripts = matches!(family, None | Some(Family::Script))
            && !without.iter().any(|name| name == "EVAL");
        Self {
            scripts: with_scripts.then(|| Scripts::new(&rows)),
            script_distance: match family {
                Some(Family::Script) => 2,
                _ => 12,
            },
            rows,
            transactions,
            distance: match family {
                Some(Family::Transactions) => 4,
                _ => 40,
            },
        }
    }

    /// Draws `length` commands; the same seed gives the same commands.
    #[must_use]
    pub fn sequence(&self, seed: u64, length: usize) -> Vec<Step> {
        let mut random = Random::new(seed);
        let batch_commands = 1 + random.below(BATCH_COMMANDS_MAX);
        let mut is_open = false;
        let mut steps = Vec::new();
        if self.scripts.is_some() {
            steps.extend(Scripts::preparation().into_iter().map(Step::plain));
        }
        let drawn = (0..length).map(|_| {
            if let Some(scripts) = &self.scripts
                && random.one_in(self.script_distance)
            {
                let (arguments, rule) = scripts.draw(&mut random);
                return finish(arguments, rule, &mut random, batch_commands);
            }
            // Long transactions fail too often, since most contain a mistake.
            let distance = if is_open { 4 } else { self.distance };
            let rows = match !self.transactions.is_empty() && random.one_in(distance) {
                true => &self.transactions,
                false => &self.rows,
            };
            let mut step = step(rows, &mut random, batch_commands);
            if is_open && step.is("MIGRATE") {
                // Redis runs it in transactions, and holds up everybody meanwhile.
                step.arguments = vec![b"PING".to_vec()];
            }
            is_open = step.is("MULTI") || is_open && !step.is("EXEC");
            step
        });
        for step in drawn {
            steps.extend(newer::before(&step.arguments).into_iter().map(Step::plain));
            steps.push(step);
        }
        steps
    }
}

/// Draws a row.
pub(crate) fn pick<'r>(rows: &'r [(Row, Vec<Node>)], random: &mut Random) -> &'r (Row, Vec<Node>) {
    let weight_sum = rows.iter().map(|(row, _)| row.weight).sum();
    let mut ticket = random.below(weight_sum);
    let drawn = rows.iter().find(|(row, _)| {
        let here = ticket < row.weight;
        ticket = ticket.wrapping_sub(row.weight);
        here
    });
    drawn.expect("the ticket is below the sum of all weights")
}

/// Draws a command.
fn step(rows: &[(Row, Vec<Node>)], random: &mut Random, batch_commands: usize) -> Step {
    let (row, grammar) = pick(rows, random);
    let arguments = grammar::generate(grammar, random);
    finish(arguments, row.rule, random, batch_commands)
}

/// Decides how a command is sent.
fn finish(arguments: Vec<Vec<u8>>, rule: Rule, random: &mut Random, batch_commands: usize) -> Step {
    let length: usize = arguments.iter().map(Vec::len).sum();
    Step {
        arguments,
        rule,
        inline: length < INLINE_BYTES_MAX && random.one_in(20),
        ends_batch: random.one_in(batch_commands),
    }
}

/// Where two servers disagree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Index of the command in the sequence.
    pub index: usize,
    /// The reference's reply as text.
    pub reference: String,
    /// The subject's reply as text.
    pub subject: String,
}

/// The result of running a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// How many replies were compared; fewer than commands if both servers closed the connection.
    pub replies: usize,
    /// The first difference, if any.
    pub difference: Option<Difference>,
}

/// A reference and a subject.
pub struct Pair {
    reference: SocketAddr,
    subject: SocketAddr,
    /// The initial options and values, as CONFIG SET takes them.
    defaults: Vec<Vec<u8>>,
    /// True to compare keyspace notifications, too.
    compares_events: bool,
}

impl Pair {
    /// Records both servers and the reference's settings, which apply to both at the start of every
    /// sequence.
    ///
    /// # Errors
    /// The reference cannot be reached.
    pub fn new(reference: SocketAddr, subject: SocketAddr) -> io::Result<Self> {
        let mut connection = Connection::open(reference)?;
        let mut defaults = Vec::new();
        for option in OPTIONS {
            if let Value::Array(pair) = connection.call(&["CONFIG", "GET", option])? {
                defaults.extend(pair.into_iter().filter_map(|word| {
                    if let Value::Bulk(word) = word {
                        Some(word)
                    } else {
                        None
                    }
                }));
            }
        }
        Ok(Self {
            reference,
            subject,
            defaults,
            compares_events: false,
        })
    }

    /// Also compares the keyspace notifications of each command. The servers must allow DEBUG.
    #[must_use]
    pub fn with_events(self) -> Self {
        Self {
            compares_events: true,
            ..self
        }
    }

    /// Empties both servers, runs a sequence on both, and returns the first difference.
    ///
    /// # Errors
    /// A server cannot be reached at all.
    pub fn run(&self, steps: &[Step]) -> io::Result<Comparison> {
        let mut reference = self.fresh(self.reference)?;
        let mut subject = self.fresh(self.subject)?;
        let mut listeners = match self.compares_events {
            true => Some((
                EventListener::open(self.reference)?,
                EventListener::open(self.subject)?,
            )),
            false => None,
        };
        let mut first = 0;
        let mut queued = Vec::new();
        let mut sorts = false;
        while first < steps.len() {
            let length = match listeners {
                None => batch_length(&steps[first..]),
                Some(_) => 1,
            };
            let batch = &steps[first..first + length];
            let (ours, theirs) = if goes_alone(&batch[0]) {
                (
                    vec![run_alone(&mut subject, &batch[0])],
                    vec![run_alone(&mut reference, &batch[0])],
                )
            } else {
                // Both run at the same time, so that deadlines pass at the same commands.
                let sent = (send(&mut reference, batch), send(&mut subject, batch));
                (
                    receive(&mut subject, batch, sent.1),
                    receive(&mut reference, batch, sent.0),
                )
            };
            for (offset, (theirs, ours)) in theirs.iter().zip(&ours).enumerate() {
                let step = &batch[offset];
                sorts |= step.names("SORT") || step.names("SORT_RO");
                let agrees = match step.rule {
                    Rule::Queued => agree_all(&queued, theirs, ours),
                    rule => agree(rule, theirs, ours),
                };
                let agrees = agrees || sorts && plain_scores(theirs) == plain_scores(ours);
                note_queued(&mut queued, step, theirs);
                if !agrees && theirs.as_ref().is_ok_and(is_stale_error) {
                    // Ours has stored what it has sorted, so from here on, the data differ.
                    return Ok(Comparison {
                        replies: first + offset,
                        difference: None,
                    });
                }
                if !agrees {
                    let difference = Some(Difference {
                        index: first + offset,
                        reference: show(theirs),
                        subject: show(ours),
                    });
                    return Ok(Comparison {
                        replies: first + offset + 1,
                        difference,
                    });
                }
                // Both failed in the same way: the connections are gone, so the sequence ends here.
                if theirs.is_err() {
                    return Ok(Comparison {
                        replies: first + offset,
                        difference: None,
                    });
                }
            }
            if let Some((reference, subject)) = &mut listeners {
                let (theirs, ours) = (reference.drain()?, subject.drain()?);
                if theirs != ours {
                    let difference = Some(Difference {
                        index: first,
                        reference: theirs.join("\n"),
                        subject: ours.join("\n"),
                    });
                    return Ok(Comparison {
                        replies: first + 1,
                        difference,
                    });
                }
            }
            first += batch.len();
        }
        Ok(Comparison {
            replies: first,
            difference: None,
        })
    }

    /// Empties a server, restores its settings, and opens a connection.
    fn fresh(&self, address: SocketAddr) -> io::Result<Connection> {
        let mut connection = Connection::open(address)?;
        connection.call(&["FLUSHALL"])?;
        // Options are set one by one, so that a server that lacks one still gets the others.
        for pair in self.defaults.chunks_exact(2) {
            connection.send(&request(&[
                b"CONFIG".as_slice(),
                b"SET",
                pair[0].as_slice(),
                pair[1].as_slice(),
            ]))?;
        }
        for _ in self.defaults.chunks_exact(2) {
            connection.receive()?;
        }
        Ok(connection)
    }
}

/// How many steps are sent together.
fn batch_length(steps: &[Step]) -> usize {
    let mut bytes = 0;
    for (index, step) in steps.iter().enumerate() {
        bytes += step.bytes().len();
        if index > 0 && (goes_alone(step) || bytes > BATCH_BYTES_MAX) {
            return index;
        }
        if step.ends_batch || goes_alone(step) || index + 1 == BATCH_COMMANDS_MAX {
            return index + 1;
        }
    }
    steps.len()
}

/// True if the step takes more than one command.
fn goes_alone(step: &Step) -> bool {
    matches!(step.rule, Rule::Scan | Rule::Take)
}

fn run_alone(connection: &mut Connection, step: &Step) -> Outcome {
    if step.rule == Rule::Take {
        take(connection, step)
    } else {
        scan(connection, step)
    }
}

fn send(connection: &mut Connection, batch: &[Step]) -> io::Result<()> {
    let bytes: Vec<u8> = batch.iter().flat_map(Step::bytes).collect();
    connection.send(&bytes)
}

fn receive(connection: &mut Connection, batch: &[Step], sent: io::Result<()>) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(batch.len());
    for _ in batch {
        let outcome = match (&sent, outcomes.last()) {
            (Err(error), _) => Err(error.kind()),
            (Ok(()), Some(Err(kind))) => Err(*kind),
            (Ok(()), _) => connection.receive().map_err(|error| error.kind()),
        };
        outcomes.push(outcome);
    }
    outcomes
}

/// Sends the command, then deletes its key.
fn take(connection: &mut Connection, step: &Step) -> Outcome {
    let reply = connection.call(&step.arguments);
    if let Some(key) = step.arguments.get(1) {
        let removed = connection.call(&[b"DEL".as_slice(), key]);
        removed.map_err(|error| error.kind())?;
    }
    reply.map_err(|error| error.kind())
}

/// Follows the cursor until it is 0 and returns all keys, sorted and without duplicates.
fn scan(connection: &mut Connection, step: &Step) -> Outcome {
    let mut arguments = step.arguments.clone();
    let cursor_at = if arguments[0].eq_ignore_ascii_case(b"SCAN") {
        1
    } else {
        2
    };
    let mut keys = BTreeSet::new();
    for _ in 0..SCAN_CALLS_MAX {
        let reply = connection.call(&arguments).map_err(|error| error.kind())?;
        let Value::Array(parts) = &reply else {
            return Ok(reply);
        };
        let [Value::Bulk(cursor), Value::Array(found)] = parts.as_slice() else {
            return Ok(reply);
        };
        // A first cursor other than 0 (a mutated argument) may return anything.
        if step.arguments[cursor_at] != b"0" {
            return Ok(Value::Simple(b"some keys".to_vec()));
        }
        keys.extend(found.iter().map(render));
        if cursor == b"0" {
            return Ok(Value::Array(
                keys.into_iter()
                    .map(|key| Value::Bulk(key.into_bytes()))
                    .collect(),
            ));
        }
        arguments[cursor_at].clone_from(cursor);
    }
    Ok(Value::Error(
        format!("the iteration did not finish within {SCAN_CALLS_MAX} calls").into_bytes(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_sequence() {
        let generator = Generator::new(None, &[]);
        let bytes = |seed| {
            generator
                .sequence(seed, 100)
                .iter()
                .flat_map(Step::bytes)
                .collect::<Vec<u8>>()
        };
        assert_eq!(bytes(3), bytes(3));
        assert_ne!(bytes(3), bytes(4));
    }

    #[test]
    fn batches_cover_the_sequence_and_scans_go_alone() {
        let steps = Generator::new(None, &[]).sequence(11, 500);
        let mut first = 0;
        while first < steps.len() {
            let length = batch_length(&steps[first..]);
            assert!(length > 0);
            let batch = &steps[first..first + length];
            assert!(length == 1 || !batch.iter().any(goes_alone));
            first += length;
        }
        assert_eq!(first, steps.len());
    }
}
