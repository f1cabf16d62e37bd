//! Reads commands from an append-only file, and says where it is broken.

use std::io::{self, BufReader, Read};

/// The longest argument, and the most arguments: no fewer than any command that was logged can have. Memory is taken only for what is there.
const ARG_BYTES_MAX: u64 = u32::MAX as u64;
const ARGS_MAX: u64 = i32::MAX as u64;
/// The longest line of an annotation.
const ANNOTATION_BYTES_MAX: usize = 1024;

/// What comes next in a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// A command.
    Command(Vec<Vec<u8>>),
    /// `#TS:`, in seconds since the epoch.
    Time(i64),
    /// The end, after a whole command.
    End,
}

/// Why reading stopped.
#[derive(Debug)]
pub enum Fault {
    /// The file ends within a command.
    Truncated,
    /// These bytes can't be part of such a file.
    Broken(String),
    /// The file can't be read.
    Unreadable(io::Error),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Truncated => f.write_str("the file ends within a command"),
            Self::Broken(why) => f.write_str(why),
            Self::Unreadable(error) => write!(f, "{error}"),
        }
    }
}

/// Reads commands one by one.
pub struct Reader<R> {
    source: BufReader<R>,
    /// How many bytes were read.
    position: u64,
}

impl<R: Read> Reader<R> {
    /// Reads from `source`, which is at this offset of its file.
    pub fn new(source: BufReader<R>, position: u64) -> Self {
        Self { source, position }
    }

    /// The offset behind what was read.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn byte(&mut self) -> Result<Option<u8>, Fault> {
        let mut byte = [0];
        match self.source.read_exact(&mut byte) {
            Ok(()) => {
                self.position += 1;
                Ok(Some(byte[0]))
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(Fault::Unreadable(error)),
        }
    }

    /// The rest of a line, without its end.
    fn line(&mut self, bytes_max: usize) -> Result<Vec<u8>, Fault> {
        let mut line = Vec::new();
        loop {
            match self.byte()?.ok_or(Fault::Truncated)? {
                b'\n' => break,
                byte => line.push(byte),
            }
            if line.len() > bytes_max {
                return Err(Fault::Broken(String::from("a line is too long")));
            }
        }
        if line.pop() != Some(b'\r') {
            return Err(Fault::Broken(String::from(
                "a line does not end with CR LF",
            )));
        }
        Ok(line)
    }

    fn number(&mut self, what: &str, max: u64) -> Result<u64, Fault> {
        let line = self.line(20)?;
        let number = std::str::from_utf8(&line)
            .ok()
            .and_then(|text| text.parse().ok());
        match number {
            Some(number) if number <= max => Ok(number),
            _ => Err(Fault::Broken(format!(
                "{what} is '{}'",
                line.escape_ascii()
            ))),
        }
    }

    /// The next item.
    ///
    /// # Errors
    /// The file is broken or ends too early; the reader's position is then within the broken item.
    pub fn next_item(&mut self) -> Result<Item, Fault> {
        loop {
            match self.byte()? {
                None => return Ok(Item::End),
                Some(b'#') => {
                    let line = self.line(ANNOTATION_BYTES_MAX)?;
                    let time = line.strip_prefix(b"TS:");
                    let time = time.and_then(damselfly_base::number::parse_integer);
                    if let Some(seconds) = time {
                        return Ok(Item::Time(seconds));
                    }
                }
                Some(b'*') => return self.command(),
                Some(other) => {
                    let text = format!("expected '*', found '{}'", other.escape_ascii());
                    return Err(Fault::Broken(text));
                }
            }
        }
    }

    fn command(&mut self) -> Result<Item, Fault> {
        let count = self.number("the number of arguments", ARGS_MAX)?;
        if count == 0 {
            return Err(Fault::Broken(String::from("a command without a name")));
        }
        let mut args = Vec::with_capacity(count.min(64) as usize);
        for _ in 0..count {
            match self.byte()?.ok_or(Fault::Truncated)? {
                b'$' => {}
                other => {
                    let text = format!("expected '$', found '{}'", other.escape_ascii());
                    return Err(Fault::Broken(text));
                }
            }
            let bytes = self.number("the length of an argument", ARG_BYTES_MAX)?;
            let mut arg = Vec::new();
            let read = (&mut self.source)
                .take(bytes)
                .read_to_end(&mut arg)
                .map_err(Fault::Unreadable)?;
            self.position += read as u64;
            if (read as u64) < bytes {
                return Err(Fault::Truncated);
            }
            for wanted in *b"\r\n" {
                if self.byte()?.ok_or(Fault::Truncated)? != wanted {
                    let text = String::from("an argument does not end with CR LF");
                    return Err(Fault::Broken(text));
                }
            }
            args.push(arg);
        }
        Ok(Item::Command(args))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> (Vec<Item>, Option<Fault>, u64) {
        let (mut reader, mut items) = (Reader::new(BufReader::new(bytes), 0), Vec::new());
        loop {
            match reader.next_item() {
                Ok(Item::End) => return (items, None, reader.position()),
                Ok(item) => items.push(item),
                Err(fault) => return (items, Some(fault), reader.position()),
            }
        }
    }

    #[test]
    fn commands_and_times_are_read_and_other_annotations_passed_over() {
        let text = b"#TS:17\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n#other\r\n*1\r\n$4\r\nPING\r\n";
        let (items, fault, end) = all(text);
        assert!(fault.is_none());
        assert_eq!(end, text.len() as u64);
        let words = |words: &[&str]| {
            Item::Command(words.iter().map(|word| word.as_bytes().to_vec()).collect())
        };
        assert_eq!(
            items,
            [Item::Time(17), words(&["GET", "k"]), words(&["PING"])]
        );
    }

    #[test]
    fn every_cut_within_a_command_is_a_truncation_and_nothing_else() {
        let text = b"*2\r\n$3\r\nGET\r\n$12\r\nabcdefghijkl\r\n";
        for cut in 1..text.len() {
            let (items, fault, _) = all(&text[..cut]);
            assert!(items.is_empty());
            assert!(matches!(fault, Some(Fault::Truncated)), "cut at {cut}");
        }
    }

    /// Bug: a command with more than a million arguments, which the server had accepted and logged, kept it from starting again.
    #[test]
    fn commands_are_as_long_as_they_were_logged() {
        const COUNT: usize = (1 << 20) + 100;
        let mut text = format!("*{COUNT}\r\n").into_bytes();
        text.extend(b"$1\r\nx\r\n".repeat(COUNT));
        let (items, fault, _) = all(&text);
        assert!(fault.is_none());
        let [Item::Command(words)] = &items[..] else {
            panic!("not one command")
        };
        assert_eq!(words.len(), COUNT);
        // Of an argument that is announced, no memory is taken for what is not there.
        assert!(matches!(
            all(b"*1\r\n$4294967295\r\nx").1,
            Some(Fault::Truncated)
        ));
    }

    #[test]
    fn what_can_not_be_is_refused() {
        for text in [
            &b"GET k\r\n"[..],
            b"*0\r\n",
            b"*x\r\n",
            b"*1\r\n+OK\r\n",
            b"*1\r\n$99999999999\r\n",
            b"*1\r\n$1\r\nab\r\n",
            b"*1\n",
        ] {
            assert!(
                matches!(all(text).1, Some(Fault::Broken(_))),
                "{}",
                text.escape_ascii()
            );
        }
    }
}
