//! The command line: what to send, to which server, how fast and for how long.

use crate::operations::{Choice, parse_mix};
use crate::requests::Shape;
use crate::tls;
use clap::builder::PossibleValuesParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use rustls::ClientConfig;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The protocol of requests and replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Redis's protocol, version 2.
    Resp,
    /// Memcached's text protocol.
    Memcached,
}

/// The characters that random values consist of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueText {
    /// Letters and digits.
    Alphanumeric,
    /// The sixteen hexadecimal digits.
    Hex,
    /// All bytes.
    Binary,
}

/// How keys are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Distribution {
    /// All equally often.
    Uniform,
    /// By Zipf's law with this exponent.
    Zipf(f64),
}

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Host and port.
    Tcp(String, u16),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// After this time; requests still in flight do not count.
    Time(Duration),
    /// After this many requests have been answered.
    Requests(u64),
}

/// The look-aside mode: a GET, and a SET if that was a miss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookAside {
    /// The trace that is replayed; otherwise keys are chosen at random.
    pub trace: Option<PathBuf>,
    /// Sizes are those of the options and not those of the trace.
    pub fixed_sizes: bool,
    /// Requests before the measured ones.
    pub warmup: u64,
}

/// All options of a run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the server listens.
    pub address: Address,
    /// How to encrypt, if at all.
    pub tls: Option<Arc<ClientConfig>>,
    /// The form of keys, values and requests.
    pub shape: Shape,
    /// Threads, each with its own event loop.
    pub threads: usize,
    /// Connections of each thread.
    pub connections: usize,
    /// The most requests in flight on a connection.
    pub depth: usize,
    /// Connections that subscribe to the channel of the operation `publish`.
    pub subscribers: usize,
    /// When to end.
    pub length: Length,
    /// How keys are chosen.
    pub distribution: Distribution,
    /// The operations and their weights.
    pub mix: Vec<(Choice, u64)>,
    /// Instead of the mix: requests whose effect depends on what the server has.
    pub look_aside: Option<LookAside>,
    /// An operation to run once for every key before measuring.
    pub fill: Option<Choice>,
    /// Requests per second over all threads, due by the clock whatever the server does.
    pub rate: Option<f64>,
    /// TLS handshakes per second beside the requests, on connections of their own.
    pub handshakes: Option<f64>,
    /// The process whose CPU time and memory to report.
    pub server_pid: Option<u32>,
    /// The seed of the random numbers.
    pub seed: u64,
    /// Print one line of JSON instead of a table.
    pub json: bool,
}

/// The most requests in flight on a connection.
const DEPTH_MAX: usize = 100_000;
/// The longest key: memcached refuses longer ones.
const KEY_BYTES_MAX: usize = 250;
/// The length of a key of a trace: 64 bits in hexadecimal.
const TRACE_KEY_BYTES: usize = 16;
/// The longest value.
const VALUE_BYTES_MAX: usize = 64 << 20;

/// The command line as clap knows it.
pub fn command() -> Command {
    let number = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("N")
            .default_value(default)
            .value_parser(value_parser!(u64))
            .help(help)
    };
    let file = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("FILE")
            .requires("tls")
            .help(help)
    };
    Command::new("damselfly-bench")
        .about("Measures a server that speaks RESP or memcached's text protocol")
        .version(env!("CARGO_PKG_VERSION"))
        .arg(Arg::new("host").long("host").default_value("127.0.0.1").help("Host of the server"))
        .arg(
            Arg::new("port")
                .long("port")
                .short('p')
                .value_parser(value_parser!(u16))
                .default_value("6379")
                .help("Port of the server"),
        )
        .arg(Arg::new("unix").long("unix").value_name("PATH").help("Unix socket of the server, instead of a port"))
        .arg(Arg::new("tls").long("tls").action(ArgAction::SetTrue).conflicts_with("unix").help("Encrypt with TLS"))
        .arg(file("cacert", "Certificates in PEM of the authorities that may sign the server's"))
        .arg(file("cert", "Own certificate in PEM, for servers that ask for one").requires("key"))
        .arg(file("key", "Private key of the own certificate").requires("cert"))
        .arg(
            Arg::new("insecure")
                .long("insecure")
                .action(ArgAction::SetTrue)
                .requires("tls")
                .help("Accept any certificate of the server"),
        )
        .arg(
            Arg::new("protocol")
                .long("protocol")
                .default_value("resp")
                .value_parser(PossibleValuesParser::new(["resp", "memcached"]))
                .help("Protocol to speak"),
        )
        .arg(number("threads", "1", "Threads of the load generator"))
        .arg(number("connections", "50", "Connections of each thread").short('c'))
        .arg(number("subscribers", "0", "Connections that subscribe to the channel of the operation publish"))
        .arg(number("depth", "1", "Pipeline depth: requests in flight per connection").short('P'))
        .arg(
            Arg::new("duration")
                .long("duration")
                .value_name("SECONDS")
                .value_parser(value_parser!(f64))
                .conflicts_with("requests")
                .help("Seconds to run [default: 10, without --requests]"),
        )
        .arg(
            Arg::new("requests")
                .long("requests")
                .short('n')
                .value_name("N")
                .value_parser(value_parser!(u64))
                .help("Requests to run; with 0, only fill"),
        )
        .arg(number("keys", "1000000", "Number of keys"))
        .arg(number("key-bytes", "16", "Length of a key in bytes"))
        .arg(
            Arg::new("value-bytes")
                .long("value-bytes")
                .value_name("N|MIN-MAX")
                .default_value("64")
                .help("Length of a value in bytes"),
        )
        .arg(
            Arg::new("value-text")
                .long("value-text")
                .default_value("alphanumeric")
                .value_parser(PossibleValuesParser::new(["alphanumeric", "hex", "binary"]))
                .help("Characters that values consist of"),
        )
        .arg(
            Arg::new("distribution")
                .long("distribution")
                .value_name("uniform|zipf[:THETA]")
                .default_value("uniform")
                .help("How keys are chosen; THETA defaults to 0.99"),
        )
        .arg(
            Arg::new("mix")
                .long("mix")
                .default_value("set:1,get:10")
                .help("Operations and weights; a number in a name is the number of keys per request: mget16:2"),
        )
        .arg(
            Arg::new("fill")
                .long("fill")
                .value_name("OPERATION")
                .num_args(0..=1)
                .default_missing_value("set")
                .help("Before measuring, run an operation once for every key [default operation: set]"),
        )
        .arg(
            Arg::new("rate")
                .long("rate")
                .value_name("PER-SECOND")
                .value_parser(value_parser!(f64))
                .help("Requests per second, due by the clock; latency counts from when a request was due, not from when it was sent"),
        )
        .arg(
            Arg::new("handshakes")
                .long("handshakes")
                .value_name("PER-SECOND")
                .value_parser(value_parser!(f64))
                .requires("tls")
                .help("Beside the requests, open so many connections per second, each with a full handshake and one request"),
        )
        .arg(
            Arg::new("server-pid")
                .long("server-pid")
                .value_name("PID")
                .value_parser(value_parser!(u32))
                .help("Process whose CPU time and memory to report"),
        )
        .arg(
            Arg::new("look-aside")
                .long("look-aside")
                .action(ArgAction::SetTrue)
                .conflicts_with_all(NOT_WITH_LOOK_ASIDE)
                .help("GET each key and SET it if that was a miss, in order; reports the hit ratio. Up to connections x depth requests for different keys run at a time [default: one connection]"),
        )
        .arg(
            Arg::new("trace")
                .long("trace")
                .value_name("FILE")
                .conflicts_with_all(NOT_WITH_LOOK_ASIDE)
                .help("Replay a trace in the look-aside mode: a zstd stream of keys (64 bits) and sizes (32 bits), little-endian. The sizes of values are those of the trace unless --value-bytes is given"),
        )
        .arg(number("warmup", "0", "With --look-aside or --trace: requests before the measured ones"))
        .arg(number("seed", "1", "Seed of the random numbers"))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print one line of JSON"))
}

/// What the look-aside mode does not have.
const NOT_WITH_LOOK_ASIDE: &[&str] = &["mix", "fill", "rate", "subscribers", "handshakes"];

impl Options {
    /// Reads the options from a parsed command line; the error is a sentence for the user.
    pub fn from_matches(matches: &ArgMatches) -> Result<Self, String> {
        let look_aside = look_aside(matches);
        let text = |name: &str| matches.get_one::<String>(name).map_or("", String::as_str);
        let options = Self {
            address: match matches.get_one::<String>("unix") {
                Some(path) => Address::Unix(path.into()),
                None => Address::Tcp(
                    text("host").to_owned(),
                    matches.get_one("port").copied().unwrap_or_default(),
                ),
            },
            tls: match matches.get_flag("tls") {
                true => Some(parse_tls(matches)?),
                false => None,
            },
            shape: Shape {
                protocol: if text("protocol") == "memcached" {
                    Protocol::Memcached
                } else {
                    Protocol::Resp
                },
                keys: number(matches, "keys", 1, 1_000_000_000_000)? as u64,
                key_bytes: number(matches, "key-bytes", 1, KEY_BYTES_MAX)?,
                value_bytes: parse_range(text("value-bytes"))?,
                value_text: match text("value-text") {
                    "hex" => ValueText::Hex,
                    "binary" => ValueText::Binary,
                    _ => ValueText::Alphanumeric,
                },
            },
            threads: number(matches, "threads", 1, 1024)?,
            connections: match &look_aside {
                Some(_) if !is_given(matches, "connections") => 1,
                _ => number(matches, "connections", 1, 100_000)?,
            },
            depth: number(matches, "depth", 1, DEPTH_MAX)?,
            subscribers: number(matches, "subscribers", 0, 100_000)?,
            length: match matches.get_one("requests") {
                Some(&requests) => Length::Requests(requests),
                // A trace ends by itself.
                None if replays(&look_aside) && !is_given(matches, "duration") => {
                    Length::Requests(u64::MAX)
                }
                None => Length::Time(seconds(
                    matches.get_one("duration").copied().unwrap_or(10.0),
                )?),
            },
            distribution: parse_distribution(text("distribution"))?,
            mix: parse_mix(text("mix"))?,
            look_aside,
            fill: matches
                .get_one::<String>("fill")
                .map(|name| Choice::parse(name))
                .transpose()?,
            rate: matches.get_one("rate").copied(),
            handshakes: matches.get_one("handshakes").copied(),
            server_pid: matches.get_one("server-pid").copied(),
            seed: matches.get_one("seed").copied().unwrap_or_default(),
            json: matches.get_flag("json"),
        };
        options.check()?;
        Ok(options)
    }

    fn check(&self) -> Result<(), String> {
        let key_bytes_min = self.shape.key_bytes_min();
        if self.shape.key_bytes < key_bytes_min {
            return Err(format!(
                "--key-bytes must be at least {key_bytes_min} for {} keys",
                self.shape.keys
            ));
        }
        if replays(&self.look_aside) && self.shape.key_bytes < TRACE_KEY_BYTES {
            return Err(format!(
                "--key-bytes must be at least {TRACE_KEY_BYTES} with --trace"
            ));
        }
        if self.look_aside.is_some() && self.threads > 1 {
            return Err(
                "--look-aside and --trace have one thread, which keeps the order of requests"
                    .to_owned(),
            );
        }
        for (name, rate) in [("rate", self.rate), ("handshakes", self.handshakes)] {
            if rate.is_some_and(|rate| !(0.001..=1e9).contains(&rate)) {
                return Err(format!("--{name} must be between 0.001 and 1e9 per second"));
            }
        }
        if self.shape.protocol == Protocol::Memcached && self.subscribers > 0 {
            return Err("--subscribers cannot be used with memcached".to_owned());
        }
        if self.shape.protocol == Protocol::Memcached {
            let choices = self.mix.iter().map(|(choice, _)| choice).chain(&self.fill);
            for choice in choices {
                if choice.operation.memcached.is_empty() {
                    return Err(format!(
                        "the operation '{}' does not exist in memcached",
                        choice.operation.name
                    ));
                }
            }
        }
        let mut replies = self.mix.iter().map(|(choice, _)| choice.replies());
        let first = replies.next();
        if replies.any(|other| Some(other) != first) {
            return Err("all operations of a mix must get the same number of replies".to_owned());
        }
        Ok(())
    }
}

fn look_aside(matches: &ArgMatches) -> Option<LookAside> {
    let trace: Option<&String> = matches.get_one("trace");
    (trace.is_some() || matches.get_flag("look-aside")).then(|| LookAside {
        trace: trace.map(PathBuf::from),
        fixed_sizes: is_given(matches, "value-bytes"),
        warmup: matches.get_one("warmup").copied().unwrap_or_default(),
    })
}

fn replays(look_aside: &Option<LookAside>) -> bool {
    look_aside.as_ref().is_some_and(|mode| mode.trace.is_some())
}

/// True if an option is on the command line.
fn is_given(matches: &ArgMatches, name: &str) -> bool {
    matches.value_source(name) == Some(ValueSource::CommandLine)
}

fn number(matches: &ArgMatches, name: &str, least: usize, most: usize) -> Result<usize, String> {
    let number: u64 = matches.get_one(name).copied().unwrap_or_default();
    match usize::try_from(number) {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        Ok(_) | Err(_) => Err(format!("--{name} must be between {least} and {most}")),
    }
}

fn seconds(seconds: f64) -> Result<Duration, String> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) | Err(_) => Err("--duration must be a positive number of seconds".to_owned()),
    }
}

/// Reads the files that the options name.
fn parse_tls(matches: &ArgMatches) -> Result<Arc<ClientConfig>, String> {
    let path = |name: &str| matches.get_one::<String>(name).map(Path::new);
    tls::client_config(tls::Files {
        authorities: path("cacert"),
        own: path("cert").zip(path("key")),
        is_insecure: matches.get_flag("insecure"),
    })
}

/// Parses `64` or `10-100`.
fn parse_range(text: &str) -> Result<(usize, usize), String> {
    let (least, most) = text.split_once('-').unwrap_or((text, text));
    match (least.parse(), most.parse()) {
        (Ok(least), Ok(most)) if least <= most && most <= VALUE_BYTES_MAX => Ok((least, most)),
        _ => Err(format!(
            "--value-bytes '{text}' must be a size or a range of sizes up to {VALUE_BYTES_MAX}"
        )),
    }
}

/// Parses `uniform`, `zipf` or `zipf:THETA`.
fn parse_distribution(text: &str) -> Result<Distribution, String> {
    let (name, theta) = text.split_once(':').unwrap_or((text, "0.99"));
    match (name, theta.parse()) {
        ("uniform", _) => Ok(Distribution::Uniform),
        ("zipf", Ok(theta)) if (0.01..=10.0).contains(&theta) => Ok(Distribution::Zipf(theta)),
        _ => Err(format!(
            "--distribution '{text}' must be uniform, or zipf:THETA with THETA from 0.01 to 10"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &str) -> Result<Options, String> {
        let matches = command()
            .try_get_matches_from(["bench"].into_iter().chain(arguments.split_whitespace()))
            .map_err(|error| error.to_string())?;
        Options::from_matches(&matches)
    }

    #[test]
    fn the_command_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn sizes_distributions_and_lengths_are_parsed() {
        let options =
            options("--value-bytes 10-20 --distribution zipf:1.2 -n 5 --fill --unix /tmp/s")
                .unwrap();
        assert_eq!(options.shape.value_bytes, (10, 20));
        assert_eq!(options.distribution, Distribution::Zipf(1.2));
        assert_eq!(options.length, Length::Requests(5));
        assert_eq!(options.fill.unwrap().operation.name, "set");
        assert_eq!(options.address, Address::Unix("/tmp/s".into()));
    }

    #[test]
    fn the_look_aside_mode_keeps_order_unless_told_otherwise() {
        let trace = options("--trace x").unwrap();
        assert_eq!((trace.connections, trace.depth), (1, 1));
        assert_eq!(trace.length, Length::Requests(u64::MAX));
        assert!(!trace.look_aside.unwrap().fixed_sizes);
        let generated = options("--look-aside -c 5 -P 8 --value-bytes 9 --warmup 3").unwrap();
        assert_eq!((generated.connections, generated.depth), (5, 8));
        assert_eq!(generated.length, Length::Time(Duration::from_secs(10)));
        assert_eq!(generated.look_aside.unwrap().warmup, 3);
    }

    #[test]
    fn invalid_and_contradictory_options_are_rejected() {
        for arguments in [
            "--key-bytes 8",
            "--keys 0",
            "--depth 0",
            "--value-bytes 20-10",
            "--distribution zipf:0",
            "--duration -1",
            "--duration 1 -n 1",
            "--protocol memcached --mix sadd",
            "--mix multi4,set",
            "--protocol memcached --subscribers 1",
            "--rate 0",
            "--handshakes 10",
            "--tls --insecure --handshakes 0",
            "--tls",
            "--cacert file",
            "--tls --insecure --cert file",
            "--tls --insecure --unix /tmp/s",
            "--tls --cacert /nowhere",
            "--look-aside --mix get",
            "--trace x --fill",
            "--trace x --key-bytes 15",
            "--look-aside --threads 2",
        ] {
            assert!(options(arguments).is_err(), "{arguments}");
        }
    }
}
