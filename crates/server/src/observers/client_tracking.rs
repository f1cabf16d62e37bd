//! CLIENT TRACKING and its relatives: what a connection keeps of keys that it has read.
//!
//! Invalidations that a client causes itself come behind the reply of the command, or of EXEC, that caused them.

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

/// What stands before the keys in a message to who tracks them, without its first byte.
const HEAD: &[u8] = b"2\r\n$10\r\ninvalidate\r\n";

/// The same, to a subscriber that speaks RESP2.
const HEAD_FOR_SUBSCRIBER: &[u8] = b"3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n";

/// Which of the keys that a client reads it wants to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All.
    All,
    /// Those that it reads behind CLIENT CACHING YES.
    OptIn,
    /// All but those that it reads behind CLIENT CACHING NO.
    OptOut,
    /// Those with certain prefixes, whether it reads them or not.
    Broadcast,
}

/// What a client that tracks has asked for.
pub struct Tracked {
    mode: Mode,
    /// Not to hear of its own changes.
    pub no_loop: bool,
    /// CLIENT CACHING is in force.
    caching: bool,
    /// The id of the client that gets its invalidations, or zero.
    redirect: u64,
    prefixes: BTreeSet<Arc<[u8]>>,
    /// Messages that follow the reply of its command.
    pushes: Vec<u8>,
}

/// What a section that runs a client's command needs to know of its tracking.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    tracker: Tracker,
    remembers: bool,
}

impl Reader {
    /// To be called when a command has run, in its section: the keys that it has read are tracked from now on.
    pub fn note(self, tx: &mut Tx<'_>, row: &'static Row, args: Args<'_>) {
        tx.ascribe_changes(self.tracker.id);
        if self.remembers && row.only_reads {
            let places = row.command.key_places(args);
            self.remember(tx, places.map(|place| args.key(place)));
        }
    }

    /// As [`Reader::note`], for a script: if any of its commands has read, all keys that it was given are tracked.
    pub fn note_script<'k>(
        self,
        tx: &mut Tx<'_>,
        has_read: bool,
        keys: impl Iterator<Item = Key<'k>>,
    ) {
        tx.ascribe_changes(self.tracker.id);
        if has_read {
            self.remember(tx, keys);
        }
    }

    fn remember<'k>(self, tx: &mut Tx<'_>, keys: impl Iterator<Item = Key<'k>>) {
        if self.remembers {
            keys.for_each(|key| tx.track(key, self.tracker));
        }
    }
}

impl Tracked {
    /// What its commands need to know now.
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

    /// What tells of changes while the session itself is aside.
    pub fn stand_in(&self) -> Self {
        Self {
            mode: self.mode,
            no_loop: self.no_loop,
            caching: false,
            redirect: self.redirect,
            prefixes: BTreeSet::new(),
            pushes: Vec::new(),
        }
    }

    /// False if news of keys that it has read do not concern it any more, since it tracks prefixes now.
    pub fn hears_of_reads(&self) -> bool {
        self.mode != Mode::Broadcast
    }
}

/// A client whose invalidations go to another one, as all threads see it.
pub struct Redirect {
    /// The one that tracks keys.
    pub from: Arc<Client>,
    /// The one that gets its invalidations.
    pub to: Arc<Client>,
}

impl Redirect {
    /// That of the client of this id; `None` if there is none, or the other client is gone.
    pub fn of(shared: &Shared, id: u64) -> Option<Self> {
        if !shared.tracking.has_redirects() {
            return None;
        }
        Self::of_client(shared, shared.clients.find(id)?)
    }

    /// That of a client, likewise.
    pub fn of_client(shared: &Shared, from: Arc<Client>) -> Option<Self> {
        let redirect = from.redirect.load(Relaxed);
        if redirect == 0 {
            return None;
        }
        let to = shared.clients.find(redirect)?;
        (!to.killed.load(Relaxed)).then_some(Self { from, to })
    }

    /// How an invalidation is written to the client that gets it.
    pub fn text(&self, news: &PendingInvalidation) -> Arc<[u8]> {
        news.text(self.from.version())
    }
}

/// Where a client's invalidations go.
enum Way {
    /// To itself.
    Own,
    /// To this client.
    Other(Arc<Client>),
    /// To a client that is gone.
    Broken,
    /// Nowhere: it could not tell them from replies.
    Nowhere,
}

fn way(shared: &Shared, tracked: &Tracked, session: &Session) -> Way {
    if tracked.redirect != 0 {
        let found = shared.clients.find(tracked.redirect);
        return match found.filter(|client| !client.killed.load(Relaxed)) {
            Some(client) => Way::Other(client),
            None => Way::Broken,
        };
    }
    match session.protocol {
        Version::Resp2 => Way::Nowhere,
        Version::Resp3 => Way::Own,
    }
}

/// Writes or sends what a client is told: `write` gets a message for the client itself.
pub fn tell(
    shared: &Shared,
    session: &Session,
    news: &PendingInvalidation,
    write: impl FnOnce(&[u8], &[u8]),
) {
    let Some(tracked) = &session.tracked else {
        return;
    };
    let text = || news.text(session.protocol);
    match way(shared, tracked, session) {
        Way::Own => write(HEAD, &text()),
        Way::Other(client) => {
            send_redirected(shared, client, text());
        }
        Way::Broken => {
            session.client.redirect_broken.store(true, Relaxed);
            if session.protocol == Version::Resp3 {
                let id = format!(":{}\r\n", tracked.redirect);
                write(b"2\r\n$21\r\ntracking-redir-broken\r\n", id.as_bytes());
            }
        }
        Way::Nowhere => {}
    }
}

/// Sends a client the keys that another one redirects to it, through the thread that serves it. Where that thread has too much to
/// deliver already, the client is disconnected instead.
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

/// What stands before the keys in a message that another client redirects to this one; `None` if it can't get any.
pub fn redirected_head(session: &Session) -> Option<&'static [u8]> {
    match session.protocol {
        Version::Resp3 => Some(HEAD),
        Version::Resp2 if session.subscriptions.is_some() => Some(HEAD_FOR_SUBSCRIBER),
        Version::Resp2 => None,
    }
}

/// Takes what a client has invalidated itself and wants to hear of.
pub fn take_own(session: &Session) -> Vec<PendingInvalidation> {
    let mut own = std::mem::take(&mut *session.client.pending_invalidations());
    let wants_keys = |tracked: &Tracked| tracked.hears_of_reads() && !tracked.no_loop;
    if !session.tracked.as_deref().is_some_and(wants_keys) {
        own.retain(|news| matches!(news, PendingInvalidation::Everything));
    }
    own
}

/// Prepares what a client is told behind the reply of its command of what that has invalidated.
#[cold]
pub fn take_pending_invalidations(shared: &Shared, session: &mut Session) {
    if session.tracked.is_none() {
        return;
    }
    let mut pushes = Vec::new();
    for news in &take_own(session) {
        tell(shared, session, news, |head, text| {
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

/// What follows a command of a client that tracks, once its reply is whole: its own messages, if there are any, and the end of
/// CLIENT CACHING.
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
    // The row of a request that was refused may be that of the container.
    let is_about_client =
        row.is_some_and(|row| row.name == "client" || row.name.starts_with("client|"));
    if !within_multi && !is_about_client {
        tracked.caching = false;
    }
    session.follow_up = tracked.caching;
}

/// Ends all tracking by a client.
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

/// Notes where a client's invalidations go from now on.
fn set_redirect(shared: &Shared, client: &Client, redirect: u64) {
    if redirect != 0 {
        shared.tracking.count_redirect(true);
    }
    if client.redirect.swap(redirect, Relaxed) != 0 {
        shared.tracking.count_redirect(false);
    }
}

/// What CLIENT TRACKING ON asks for.
#[derive(Default)]
struct Wish<'a> {
    redirect: u64,
    broadcast: bool,
    opt_in: bool,
    opt_out: bool,
    no_loop: bool,
    prefixes: Vec<&'a [u8]>,
}

impl<'a> Wish<'a> {
    fn parse(context: &Context<'_>, args: Args<'a>) -> Result<Self> {
        let (mut wish, mut at) = (Self::default(), 3);
        while at < args.len() {
            let has_value = at + 1 < args.len();
            if args.is(at, "REDIRECT") && has_value {
                at += 1;
                if wish.redirect != 0 {
                    let text = "A client can only redirect to a single other client";
                    return Err(CommandError::err(text).into());
                }
                let id = u64::try_from(args.integer(at)?).unwrap_or(0);
                if context.shared.clients.find(id).is_none() {
                    let text = "The client ID you want redirect to does not exist";
                    return Err(CommandError::err(text).into());
                }
                wish.redirect = id;
            } else if args.is(at, "PREFIX") && has_value {
                at += 1;
                wish.prefixes.push(args.at(at));
            } else if args.is(at, "BCAST") {
                wish.broadcast = true;
            } else if args.is(at, "OPTIN") {
                wish.opt_in = true;
            } else if args.is(at, "OPTOUT") {
                wish.opt_out = true;
            } else if args.is(at, "NOLOOP") {
                wish.no_loop = true;
            } else {
                return Err(CommandError::Syntax.into());
            }
            at += 1;
        }
        Ok(wish)
    }

    /// The mode, if the wishes go together, also with what is in force.
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

    /// Refuses prefixes of which one would begin with another.
    fn check_prefixes(&self, tracked: Option<&Tracked>) -> Result {
        let existing = tracked.into_iter().flat_map(|tracked| &tracked.prefixes);
        let mut all: Vec<&[u8]> = existing.map(|existing| &**existing).collect();
        all.extend(&self.prefixes);
        all.sort_unstable();
        // There may be very many: only one that overlaps is compared with each of them.
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

/// True if a prefix, which is one of `all` in their order, begins with another one of them or the other way round.
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
    let wish = Wish::parse(context, args)?;
    if args.is(2, "ON") {
        let mode = wish.mode(context.session.tracked.as_deref())?;
        start(context.shared, context.session, &wish, mode);
    } else if args.is(2, "OFF") {
        stop(context.shared, context.session);
    } else {
        return Err(CommandError::Syntax.into());
    }
    reply.ok();
    Ok(())
}

fn start(shared: &Shared, session: &mut Session, wish: &Wish<'_>, mode: Mode) {
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
    tracked.no_loop = wish.no_loop;
    tracked.redirect = wish.redirect;
    client.tracks.store(true, Relaxed);
    client.tracks_prefixes.store(wish.broadcast, Relaxed);
    client.no_loop.store(wish.no_loop, Relaxed);
    set_redirect(shared, client, wish.redirect);
    client.redirect_broken.store(false, Relaxed);
    if mode == Mode::Broadcast {
        let all: &[&[u8]] = match &wish.prefixes[..] {
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

/// The id of the client that gets a client's invalidations: zero for none, and `-1` without tracking.
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
