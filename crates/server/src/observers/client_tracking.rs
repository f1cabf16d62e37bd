//! CLIENT TRACKING and related commands: which keys a connection tracks, and how it gets its invalidations.
//!
//! Invalidations that a client causes itself follow the reply of the command, or of the EXEC, that caused them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::CommandError;
use damselfly_commands::{Args, Result};
use damselfly_engine::{Key, Tracker, Tx};
use damselfly_protocol::{Reply, Version};

use crate::clients::Client;
use crate::observers::invalidation::{PendingInvalidation, begins_with_any};
use crate::registry::Row;
use crate::session::{Context, Session};
use crate::shared::Shared;
use crate::threads::Message;
use crate::users;

/// The part of an invalidation message before the keys, without its first byte.
const HEAD: &[u8] = b"2\r\n$10\r\ninvalidate\r\n";

/// The same for a subscriber that uses RESP2.
const HEAD_FOR_SUBSCRIBER: &[u8] = b"3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n";

/// Which keys a client tracks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All keys that it reads.
    All,
    /// The keys that it reads after CLIENT CACHING YES.
    OptIn,
    /// All keys that it reads, except after CLIENT CACHING NO.
    OptOut,
    /// The keys with certain prefixes, whether it reads them or not.
    Broadcast,
}

/// The tracking state of a client.
pub struct Tracked {
    mode: Mode,
    /// It gets no invalidations for its own changes.
    pub no_loop: bool,
    /// CLIENT CACHING applies to its next command.
    caching: bool,
    /// The id of the client that gets its invalidations, or zero.
    redirect: u64,
    prefixes: BTreeSet<Arc<[u8]>>,
    /// Messages to write after the reply of its command.
    pushes: Vec<u8>,
}

/// The tracking state that the section of a client's command needs.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    tracker: Tracker,
    remembers: bool,
}

impl Reader {
    /// Tracks the keys that a command has read. Called in its section, after the command.
    pub fn note(self, tx: &mut Tx<'_>, row: &'static Row, args: Args<'_>) {
        tx.ascribe_changes(self.tracker.id);
        if self.remembers && row.only_reads {
            let places = row.command.key_places(args);
            self.remember(tx, places.map(|place| args.key(place)));
        }
    }

    /// As [`Reader::note`], for a script whose commands have read these keys.
    pub fn note_script<'k>(self, tx: &mut Tx<'_>, keys: impl Iterator<Item = Key<'k>>) {
        tx.ascribe_changes(self.tracker.id);
        self.remember(tx, keys);
    }

    fn remember<'k>(self, tx: &mut Tx<'_>, keys: impl Iterator<Item = Key<'k>>) {
        if self.remembers {
            keys.for_each(|key| tx.track(key, self.tracker));
        }
    }
}

impl Tracked {
    /// The state for the section of its next command.
    pub fn reader(&self, client: &Client) -> Reader {
        let remembers = match self.mode {
            Mode::All => true,
            Mode::OptIn => self.caching,
            Mode::OptOut => !self.caching,
            Mode::Broadcast => false,
        };
        Reader {
            tracker: client.tracker(),
            remembers,
        }
    }

    /// A copy that receives invalidations while the session itself runs a slow script.
    pub fn placeholder(&self) -> Self {
        Self {
            mode: self.mode,
            no_loop: self.no_loop,
            caching: false,
            redirect: self.redirect,
            prefixes: BTreeSet::new(),
            pushes: Vec::new(),
        }
    }

    /// False if it tracks prefixes now, and invalidations of keys that it read before no longer apply.
    pub fn tracks_reads(&self) -> bool {
        self.mode != Mode::Broadcast
    }
}

/// A client that redirects its invalidations to another client, as all threads see it.
pub struct Redirect {
    /// The client that tracks keys.
    pub from: Arc<Client>,
    /// The client that gets the invalidations.
    pub to: Arc<Client>,
}

impl Redirect {
    /// The redirect of the client with this id; `None` if it has none, or its target is gone.
    pub fn of(shared: &Shared, id: u64) -> Option<Self> {
        if !shared.tracking.has_redirects() {
            return None;
        }
        Self::of_client(shared, shared.clients.find(id)?)
    }

    /// The redirect of a client; `None` if it has none, or its target is gone.
    pub fn of_client(shared: &Shared, from: Arc<Client>) -> Option<Self> {
        let redirect = from.redirect.load(Relaxed);
        if redirect == 0 {
            return None;
        }
        let to = shared.clients.find(redirect)?;
        (!to.killed.load(Relaxed)).then_some(Self { from, to })
    }

    /// An invalidation as it is written to the client that gets it.
    pub fn text(&self, invalidation: &PendingInvalidation) -> Arc<[u8]> {
        invalidation.text(self.from.version())
    }
}

/// Where a client's invalidations go.
enum Destination {
    /// To the client itself.
    Itself,
    /// To this client.
    Redirected(Arc<Client>),
    /// To a client that is gone.
    Broken,
    /// Nowhere: with RESP2 the client could not distinguish them from replies.
    Nowhere,
}

fn destination(shared: &Shared, tracked: &Tracked, session: &Session) -> Destination {
    if tracked.redirect != 0 {
        let found = shared.clients.find(tracked.redirect);
        return match found.filter(|client| !client.killed.load(Relaxed)) {
            Some(client) => Destination::Redirected(client),
            None => Destination::Broken,
        };
    }
    match session.protocol {
        Version::Resp2 => Destination::Nowhere,
        Version::Resp3 => Destination::Itself,
    }
}

/// Delivers an invalidation: `write` gets a message for the client itself, and the target of a redirect is sent one.
pub fn deliver_invalidation(
    shared: &Shared,
    session: &Session,
    invalidation: &PendingInvalidation,
    write: impl FnOnce(&[u8], &[u8]),
) {
    let Some(tracked) = &session.tracked else {
        return;
    };
    let text = || invalidation.text(session.protocol);
    match destination(shared, tracked, session) {
        Destination::Itself => write(HEAD, &text()),
        Destination::Redirected(client) => {
            send_redirected(shared, client, text());
        }
        Destination::Broken => {
            session.client.redirect_broken.store(true, Relaxed);
            if session.protocol == Version::Resp3 {
                let id = format!(":{}\r\n", tracked.redirect);
                write(b"2\r\n$21\r\ntracking-redir-broken\r\n", id.as_bytes());
            }
        }
        Destination::Nowhere => {}
    }
}

/// Sends a client the keys that another client redirects to it, through the thread that serves it. If too many bytes are in
/// transit to that thread, the client is disconnected instead.
pub fn send_redirected(shared: &Shared, client: Arc<Client>, text: Arc<[u8]>) {
    match shared.pubsub.admit(client.thread, text.len()) {
        Some(bytes) => shared.threads[client.thread].send(Message::Redirected {
            client,
            text,
            bytes,
        }),
        None => shared.clients.cut_off(&client, &shared.threads),
    }
}

/// The part before the keys in a message that another client redirects to this one; `None` if this one can't receive any.
pub fn redirected_head(session: &Session) -> Option<&'static [u8]> {
    match session.protocol {
        Version::Resp3 => Some(HEAD),
        Version::Resp2 if session.subscriptions.is_some() => Some(HEAD_FOR_SUBSCRIBER),
        Version::Resp2 => None,
    }
}

/// Takes the invalidations that a client caused itself and wants to get.
pub fn take_own_invalidations(session: &Session) -> Vec<PendingInvalidation> {
    let mut own = std::mem::take(&mut *session.client.pending_invalidations());
    let wants_keys = |tracked: &Tracked| tracked.tracks_reads() && !tracked.no_loop;
    if !session.tracked.as_deref().is_some_and(wants_keys) {
        own.retain(|invalidation| matches!(invalidation, PendingInvalidation::Everything));
    }
    own
}

/// Prepares the invalidations that a client's own command caused. They are written after its reply.
#[cold]
pub fn take_pending_invalidations(shared: &Shared, session: &mut Session) {
    if session.tracked.is_none() {
        return;
    }
    let mut pushes = Vec::new();
    for invalidation in &take_own_invalidations(session) {
        deliver_invalidation(shared, session, invalidation, |head, text| {
            pushes.push(b'>');
            pushes.extend_from_slice(head);
            pushes.extend_from_slice(text);
        });
    }
    if let Some(tracked) = &mut session.tracked
        && !pushes.is_empty()
    {
        tracked.pushes.append(&mut pushes);
        session.follow_up = true;
    }
}

/// Called after each command of a tracking client, once its reply is complete: writes the client's own invalidations and ends the
/// effect of CLIENT CACHING.
pub fn follow_up(session: &mut Session, row: Option<&Row>, reply: &mut Reply<'_>) {
    let within_multi = session.transaction.is_open();
    let Some(tracked) = &mut session.tracked else {
        return;
    };
    if session.rest.is_some() {
        session.follow_up = true;
        return;
    }
    reply.raw(&std::mem::take(&mut tracked.pushes));
    // A refused request may have the row of the container.
    let is_about_client =
        row.is_some_and(|row| row.name == "client" || row.name.starts_with("client|"));
    if !within_multi && !is_about_client {
        tracked.caching = false;
    }
    session.follow_up = tracked.caching;
}

/// Ends a client's tracking.
pub fn stop(shared: &Shared, session: &mut Session) {
    let Some(tracked) = session.tracked.take() else {
        return;
    };
    let (client, engine) = (&session.client, &shared.engine);
    let tracker = client.tracker();
    for prefix in &tracked.prefixes {
        shared.tracking.remove_prefix(prefix, tracker, engine);
    }
    shared.tracking.remove(tracker, engine);
    client.tracks.store(false, Relaxed);
    client.tracks_prefixes.store(false, Relaxed);
    client.redirect_broken.store(false, Relaxed);
    client.no_loop.store(false, Relaxed);
    set_redirect(shared, client, 0);
    client.pending_invalidations().clear();
}

/// Sets the client that gets a client's invalidations from now on.
fn set_redirect(shared: &Shared, client: &Client, redirect: u64) {
    if redirect != 0 {
        shared.tracking.count_redirect(true);
    }
    if client.redirect.swap(redirect, Relaxed) != 0 {
        shared.tracking.count_redirect(false);
    }
}

/// The options of CLIENT TRACKING ON.
#[derive(Default)]
struct TrackingOptions<'a> {
    redirect: u64,
    broadcast: bool,
    opt_in: bool,
    opt_out: bool,
    no_loop: bool,
    prefixes: Vec<&'a [u8]>,
}

impl<'a> TrackingOptions<'a> {
    fn parse(context: &Context<'_>, args: Args<'a>) -> Result<Self> {
        let (mut options, mut at) = (Self::default(), 3);
        while at < args.len() {
            let has_value = at + 1 < args.len();
            if args.is(at, "REDIRECT") && has_value {
                at += 1;
                if options.redirect != 0 {
                    let text = "A client can only redirect to a single other client";
                    return Err(CommandError::err(text).into());
                }
                let id = u64::try_from(args.integer(at)?).unwrap_or(0);
                if context.shared.clients.find(id).is_none() {
                    let text = "The client ID you want redirect to does not exist";
                    return Err(CommandError::err(text).into());
                }
                options.redirect = id;
            } else if args.is(at, "PREFIX") && has_value {
                at += 1;
                options.prefixes.push(args.at(at));
            } else if args.is(at, "BCAST") {
                options.broadcast = true;
            } else if args.is(at, "OPTIN") {
                options.opt_in = true;
            } else if args.is(at, "OPTOUT") {
                options.opt_out = true;
            } else if args.is(at, "NOLOOP") {
                options.no_loop = true;
            } else {
                return Err(CommandError::Syntax.into());
            }
            at += 1;
        }
        Ok(options)
    }

    /// The mode, if the options are compatible with each other and with the current mode.
    fn mode(&self, tracked: Option<&Tracked>) -> Result<Mode> {
        let now = tracked.map(|tracked| tracked.mode);
        let refuse = |text: &str| Err(CommandError::err(text).into());
        if !self.broadcast && !self.prefixes.is_empty() {
            return refuse("PREFIX option requires BCAST mode to be enabled");
        }
        if now.is_some_and(|now| (now == Mode::Broadcast) != self.broadcast) {
            return refuse(
                "You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode.",
            );
        }
        if self.broadcast && (self.opt_in || self.opt_out) {
            return refuse("OPTIN and OPTOUT are not compatible with BCAST");
        }
        if self.opt_in && self.opt_out {
            return refuse("You can't specify both OPTIN mode and OPTOUT mode");
        }
        if self.opt_in && now == Some(Mode::OptOut) || self.opt_out && now == Some(Mode::OptIn) {
            return refuse(
                "You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a different mode.",
            );
        }
        self.check_prefixes(tracked)?;
        Ok(match (self.broadcast, self.opt_in, self.opt_out) {
            (true, _, _) => Mode::Broadcast,
            (false, true, _) => Mode::OptIn,
            (false, false, true) => Mode::OptOut,
            (false, false, false) => Mode::All,
        })
    }

    /// Refuses prefixes if one of them, new or existing, starts with another.
    fn check_prefixes(&self, tracked: Option<&Tracked>) -> Result {
        let existing = tracked.into_iter().flat_map(|tracked| &tracked.prefixes);
        let mut all: Vec<&[u8]> = existing.map(|existing| &**existing).collect();
        all.extend(&self.prefixes);
        all.sort_unstable();
        // There may be very many. Only a prefix that overlaps is compared with each of them, to find the other for the error.
        let first = self
            .prefixes
            .iter()
            .position(|prefix| overlaps_another(prefix, &all));
        for (place, prefix) in self
            .prefixes
            .iter()
            .enumerate()
            .skip(first.unwrap_or(usize::MAX))
        {
            let existing = tracked.into_iter().flat_map(|tracked| &tracked.prefixes);
            let mut existing = existing.map(|existing| ("an existing", &**existing));
            let mut others = self.prefixes[place + 1..]
                .iter()
                .map(|other| ("another provided", *other));
            let overlap =
                |(_, other): &(&str, &[u8])| other.starts_with(prefix) || prefix.starts_with(other);
            if let Some((which, other)) = existing.find(overlap).or_else(|| others.find(overlap)) {
                let text = [
                    b"Prefix '",
                    *prefix,
                    b"' overlaps with ",
                    which.as_bytes(),
                    b" prefix '",
                    other,
                ];
                let after = "'. Prefixes for a single client must not overlap.";
                return Err(CommandError::quoting("", &text.concat(), after).into());
            }
        }
        Ok(())
    }
}

/// True if a prefix starts with another prefix in `all`, or the other way round. `all` is sorted and contains the prefix itself.
fn overlaps_another(prefix: &[u8], all: &[&[u8]]) -> bool {
    let before = all.partition_point(|other| *other < prefix);
    let next = all.get(before + 1);
    let last = |start: &[u8]| {
        let end = all[..before].partition_point(|other| *other <= start);
        all[..end].last().copied()
    };
    next.is_some_and(|next| next.starts_with(prefix)) || begins_with_any(prefix, last)
}

/// CLIENT TRACKING.
pub fn tracking(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let options = TrackingOptions::parse(context, args)?;
    if args.is(2, "ON") {
        let mode = options.mode(context.session.tracked.as_deref())?;
        start(context.shared, context.session, &options, mode);
        users::recheck(context.shared, context.session);
    } else if args.is(2, "OFF") {
        stop(context.shared, context.session);
    } else {
        return Err(CommandError::Syntax.into());
    }
    reply.ok();
    Ok(())
}

fn start(shared: &Shared, session: &mut Session, options: &TrackingOptions<'_>, mode: Mode) {
    let client = &session.client;
    let tracker = client.tracker();
    let tracked = session.tracked.get_or_insert_with(|| {
        shared.tracking.add(tracker);
        Box::new(Tracked {
            mode,
            no_loop: false,
            caching: false,
            redirect: 0,
            prefixes: BTreeSet::new(),
            pushes: Vec::new(),
        })
    });
    tracked.mode = mode;
    tracked.no_loop = options.no_loop;
    tracked.redirect = options.redirect;
    client.tracks.store(true, Relaxed);
    client.tracks_prefixes.store(options.broadcast, Relaxed);
    client.no_loop.store(options.no_loop, Relaxed);
    set_redirect(shared, client, options.redirect);
    client.redirect_broken.store(false, Relaxed);
    if mode == Mode::Broadcast {
        let all: &[&[u8]] = match &options.prefixes[..] {
            [] => &[b""],
            prefixes => prefixes,
        };
        for prefix in all {
            let engine = &shared.engine;
            let added = shared.tracking.add_prefix(prefix, tracker, engine);
            tracked.prefixes.extend(added);
        }
    }
}

/// CLIENT CACHING.
pub fn caching(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let session = &mut *context.session;
    let refuse = |text: &str| Err(CommandError::err(text).into());
    let Some(tracked) = &mut session.tracked else {
        return refuse(
            "CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
        );
    };
    if args.is(2, "YES") {
        if tracked.mode != Mode::OptIn {
            return refuse(
                "CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.",
            );
        }
    } else if args.is(2, "NO") {
        if tracked.mode != Mode::OptOut {
            return refuse(
                "CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.",
            );
        }
    } else {
        return Err(CommandError::Syntax.into());
    }
    tracked.caching = true;
    session.follow_up = true;
    reply.ok();
    Ok(())
}

/// The id of the client that gets a client's invalidations: zero for the client itself, `-1` if it does not track.
pub fn redirection(client: &Client) -> i64 {
    match client.tracks.load(Relaxed) {
        true => client.redirect.load(Relaxed) as i64,
        false => -1,
    }
}

/// CLIENT GETREDIR.
pub fn get_redirection(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.integer(redirection(&context.session.client));
    Ok(())
}

/// CLIENT TRACKINGINFO.
pub fn info(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let session = &*context.session;
    let mut flags = Vec::new();
    match &session.tracked {
        None => flags.push("off"),
        Some(tracked) => {
            flags.push("on");
            flags.extend(match (tracked.mode, tracked.caching) {
                (Mode::All, _) => &[][..],
                (Mode::Broadcast, _) => &["bcast"],
                (Mode::OptIn, false) => &["optin"],
                (Mode::OptIn, true) => &["optin", "caching-yes"],
                (Mode::OptOut, false) => &["optout"],
                (Mode::OptOut, true) => &["optout", "caching-no"],
            });
            if tracked.no_loop {
                flags.push("noloop");
            }
            if session.client.redirect_broken.load(Relaxed) {
                flags.push("broken_redirect");
            }
        }
    }
    reply.map(3);
    reply.bulk(b"flags");
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.bulk(flag.as_bytes()));
    reply.bulk(b"redirect");
    reply.integer(redirection(&session.client));
    reply.bulk(b"prefixes");
    let prefixes = session.tracked.iter().flat_map(|tracked| &tracked.prefixes);
    reply.array(prefixes.clone().count());
    prefixes.for_each(|prefix| reply.bulk(prefix));
    Ok(())
}
