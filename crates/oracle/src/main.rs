//! `oracle`: compares Damselfly with `redis-server`, from the command line.

use damselfly_oracle::live;
use damselfly_oracle::rows::{FAMILIES, Family};
use damselfly_oracle::sequence::{Difference, Generator, Pair, Step};
use damselfly_oracle::server::{Kind, Program, Server};
use damselfly_oracle::shrink::shrink;
use damselfly_oracle::text::command_line;
use damselfly_oracle::transcript::Transcript;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{fs, io};

const USAGE: &str = "\
Usage:
  oracle run [--events yes] [--seed N] [--sequences N] [--length N] [--family NAME] [--without LIST] [--threads N] [--subject ADDRESS]
      Sends random commands to redis-server and to Damselfly; their replies must agree, and with --events yes their keyspace
      notifications, too.
  oracle live [--seed N] [--seconds N] [--threads N] [--folder PATH]
      Many connections send random commands to Damselfly, in random pieces: replies must stay in step, and nothing may leak.
      Without --threads, servers of 1, 2 and 4 threads take turns. The input that led to a fault is written to the folder.
  oracle transcript [--subject ADDRESS] [--threads N] FILE...
      Plays transcripts against Damselfly.
  oracle record FILE...
      Writes the replies of redis-server into transcripts.

  --subject ADDRESS   a server that is already running, such as 127.0.0.1:7000; ALL ITS KEYS ARE DELETED.
                      Without it, the oracle starts $DAMSELFLY_BIN, or the `damselfly` in its own folder.
  --seed N            first seed; sequence number n of a run has the seed N + n. Default: from the clock.
  --without LIST      commands to leave out, such as CLIENT,CONFIG.
  --family NAME       string, list, set, hash, sorted-set, stream, bitmap, hyperloglog, geo, generic, transactions, script,
                      connection or server. Default: all.
";

/// The most runs for shortening a sequence.
const SHRINK_TRIES: usize = 2000;
/// The number of differences after which a run stops: further ones mostly have the same causes.
const DIFFERENCES_MAX: usize = 5;
/// How often a difference must be reproduced to count; one that is not comes from a deadline that fell between two commands.
const CONFIRMATIONS: usize = 2;
/// Allows DEBUG, which makes servers keep expired keys until they are accessed.
const DEBUG: [&str; 2] = ["--enable-debug-command", "yes"];
/// The time between two progress lines.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

struct Options {
    seed: u64,
    sequences: usize,
    length: usize,
    family: Option<Family>,
    without: Vec<String>,
    /// The server's threads; the default depends on the subcommand.
    threads: Option<u16>,
    seconds: u64,
    folder: String,
    subject: Option<SocketAddr>,
    events: bool,
    files: Vec<String>,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let chore = words.next().unwrap_or_default();
    let outcome = parse(words).and_then(|options| match chore.as_str() {
        "run" => run(&options).map_err(|error| error.to_string()),
        "live" => fuzz_live(&options).map_err(|error| error.to_string()),
        "transcript" => play(&options),
        "record" => record(&options.files),
        _ => Err(USAGE.into()),
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs());
    let mut options = Options {
        seed: clock,
        sequences: 200,
        length: 200,
        family: None,
        without: Vec::new(),
        threads: None,
        seconds: 60,
        folder: "live-faults".into(),
        subject: None,
        events: false,
        files: Vec::new(),
    };
    while let Some(word) = words.next() {
        if !word.starts_with("--") {
            options.files.push(word);
            continue;
        }
        let value = words
            .next()
            .ok_or_else(|| format!("{word} needs a value\n\n{USAGE}"))?;
        let bad = || format!("{word} cannot be {value:?}\n\n{USAGE}");
        match word.as_str() {
            "--seed" => options.seed = value.parse().map_err(|_| bad())?,
            "--sequences" => options.sequences = value.parse().map_err(|_| bad())?,
            "--length" => options.length = value.parse().map_err(|_| bad())?,
            "--threads" => options.threads = Some(value.parse().map_err(|_| bad())?),
            "--seconds" => options.seconds = value.parse().map_err(|_| bad())?,
            "--folder" => options.folder = value,
            "--subject" => options.subject = Some(value.parse().map_err(|_| bad())?),
            "--events" => {
                options.events = value == "yes";
                // A failed CONFIG SET makes Redis drop the class `n`, and its SCAN removes expired keys.
                options
                    .without
                    .extend(["DEBUG", "CONFIG", "SCAN"].map(String::from));
            }
            "--without" => {
                let names = value.split(',').map(str::to_ascii_uppercase);
                options.without.extend(names);
            }
            "--family" => options.family = Some(Family::named(&value).ok_or_else(bad)?),
            _ => return Err(format!("unknown option {word}\n\n{USAGE}")),
        }
    }
    Ok(options)
}

/// The server under test: one that is already running, or one started here that stops when the value is dropped.
fn subject(options: &Options) -> io::Result<(Option<Server>, SocketAddr, Kind)> {
    if let Some(address) = options.subject {
        return Ok((None, address, Kind::Damselfly));
    }
    let program = Program::subject();
    let threads = options.threads.unwrap_or(2).to_string();
    let arguments: &[&str] = match program.kind() {
        Kind::Redis if options.events => &DEBUG,
        Kind::Redis => &[],
        Kind::Damselfly if options.events => &["--threads", &threads, DEBUG[0], DEBUG[1]],
        Kind::Damselfly => &["--threads", &threads],
    };
    let server = Server::start(&program, arguments)?;
    let address = server.address();
    Ok((Some(server), address, program.kind()))
}

fn run(options: &Options) -> io::Result<bool> {
    let debug = if options.events { &DEBUG[..] } else { &[] };
    let reference = Server::start(&Program::reference(), debug)?;
    let (_server, subject, _) = subject(options)?;
    let mut pair = Pair::new(reference.address(), subject)?;
    if options.events {
        pair = pair.with_events();
    }
    let generator = Generator::new(options.family, &options.without);
    let family = FAMILIES
        .iter()
        .find(|(family, _)| Some(*family) == options.family)
        .map_or("all", |(_, name)| name);
    println!(
        "oracle: seed {}, {} sequences of {} commands, family {family}",
        options.seed, options.sequences, options.length
    );

    let start = Instant::now();
    let mut progress = start;
    let (mut differences, mut unstable, mut done, mut replies) = (0, 0, 0, 0);
    for number in 0..options.sequences {
        let seed = options.seed.wrapping_add(number as u64);
        let steps = generator.sequence(seed, options.length);
        done += 1;
        let comparison = pair.run(&steps)?;
        replies += comparison.replies;
        if let Some(difference) = comparison.difference {
            if is_reproducible(&pair, &steps, &difference)? {
                differences += 1;
                report(&pair, seed, &steps[..=difference.index])?;
            } else {
                unstable += 1;
                println!(
                    "seed {seed}: a difference that could not be reproduced, at {}",
                    command_line(&steps[difference.index].arguments)
                );
            }
        }
        if differences >= DIFFERENCES_MAX {
            println!("stopped after {DIFFERENCES_MAX} differences");
            break;
        }
        if progress.elapsed() > PROGRESS_INTERVAL {
            progress = Instant::now();
            println!("oracle: {done} of {} sequences", options.sequences);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "oracle: {done} sequences, {replies} replies in {seconds:.1} s: {differences} differ, {unstable} unstable"
    );
    Ok(differences == 0)
}

fn fuzz_live(options: &Options) -> io::Result<bool> {
    live::run(&live::Options {
        seed: options.seed,
        time: Duration::from_secs(options.seconds),
        threads: options.threads.map(usize::from),
        folder: options.folder.clone().into(),
    })
}

fn is_reproducible(pair: &Pair, steps: &[Step], difference: &Difference) -> io::Result<bool> {
    for _ in 0..CONFIRMATIONS {
        if pair
            .run(steps)?
            .difference
            .is_none_or(|again| again.index != difference.index)
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Shortens the sequence and prints it as a transcript, with both replies at its end.
fn report(pair: &Pair, seed: u64, steps: &[Step]) -> io::Result<()> {
    let short = shrink(steps, SHRINK_TRIES, |rest| {
        pair.run(rest)
            .is_ok_and(|comparison| comparison.difference.is_some())
    });
    let Some(difference) = pair.run(&short)?.difference else {
        println!("seed {seed}: the replies differ, but not for the shortened sequence");
        return Ok(());
    };
    println!("\nseed {seed}: the replies differ");
    for step in &short[..=difference.index] {
        println!("> {}", command_line(&step.arguments));
    }
    println!(
        "# redis-server:\n{}\n# ours:\n{}\n",
        difference.reference, difference.subject
    );
    Ok(())
}

fn play(options: &Options) -> Result<bool, String> {
    let mut wrong = 0;
    for file in &options.files {
        let transcript = read(file)?;
        let (_server, address, kind) = subject(options).map_err(|error| error.to_string())?;
        let mismatches = transcript
            .play(address, kind)
            .map_err(|error| format!("{file}: {error}"))?;
        for mismatch in &mismatches {
            println!("{file}: {mismatch}");
        }
        wrong += mismatches.len();
    }
    println!("{} transcripts, {wrong} wrong replies", options.files.len());
    Ok(wrong == 0)
}

fn record(files: &[String]) -> Result<bool, String> {
    for file in files {
        let transcript = read(file)?;
        let server =
            Server::start(&Program::reference(), &[]).map_err(|error| error.to_string())?;
        let text = transcript
            .record(server.address())
            .map_err(|error| format!("{file}: {error}"))?;
        fs::write(file, text).map_err(|error| format!("{file}: {error}"))?;
        println!("recorded {file}");
    }
    Ok(true)
}

fn read(file: &str) -> Result<Transcript, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    Transcript::parse(&text).map_err(|error| format!("{file}: {error}"))
}
