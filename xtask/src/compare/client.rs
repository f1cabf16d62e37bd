//! A client for questions to a server under test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};

/// A client that sends inline commands.
pub(super) struct Client(BufReader<TcpStream>);

impl Client {
    /// Connects to a server on this machine.
    pub fn connect(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The reply to a command: a line or a bulk string.
    pub fn run(&mut self, command: &str) -> std::io::Result<String> {
        self.0
            .get_mut()
            .write_all(format!("{command}\r\n").as_bytes())?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        if let Some(len) = line.strip_prefix('$') {
            let len: usize = len.trim().parse().map_err(std::io::Error::other)?;
            let mut bytes = vec![0; len + 2];
            self.0.read_exact(&mut bytes)?;
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
        match line.strip_prefix('-') {
            Some(error) => Err(std::io::Error::other(error.trim().to_owned())),
            None => Ok(line),
        }
    }

    /// Reads so many more lines of a reply.
    pub fn skip_lines(&mut self, count: &str) -> std::io::Result<()> {
        let count: usize = count.parse().map_err(std::io::Error::other)?;
        for _ in 0..count {
            self.0.read_line(&mut String::new())?;
        }
        Ok(())
    }

    /// One of memcached's statistics.
    pub fn statistic(&mut self, name: &str) -> std::io::Result<String> {
        self.0.get_mut().write_all(b"stats\r\n")?;
        let mut found = String::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line)?;
            let mut words = line.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some("STAT"), Some(other), Some(value)) if other == name => {
                    found = value.to_owned();
                }
                (Some("STAT"), ..) => {}
                _ => return Ok(found),
            }
        }
    }
}
