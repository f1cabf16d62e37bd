//! The matcher: backtracking over pattern items, as Lua 5.1 defines them.

use crate::c_format::up_to_zero;
use crate::lua::{Raise, Stack};

/// The maximum number of captures in a pattern.
const CAPTURES_MAX: usize = 32;
/// The maximum depth of recursion. Every repeated item and every capture that matches adds a level, which takes a
/// few hundred bytes.
const DEPTH_MAX: u32 = 2000;
/// How many steps are counted in one go.
const STEPS_AT_ONCE: usize = 256;
/// How many bytes of a pattern or text are read in one step.
const BYTES_PER_STEP: usize = 32;
const ESCAPE: u8 = b'%';

/// Why matching stopped without a result.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The pattern is invalid.
    Text(&'static str),
    /// The script must end.
    Interrupted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Capture {
    /// It starts here and is not closed yet.
    Open(usize),
    Text(usize, usize),
    Position(usize),
}

/// The captures of a match.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Captures {
    items: [Capture; CAPTURES_MAX],
    count: usize,
}

impl Captures {
    /// Pushes all captures of the text at `index`; if there are none, the range `whole` if given. Returns how many
    /// values were pushed.
    pub fn push(
        &self,
        stack: &mut Stack<'_>,
        index: i32,
        whole: Option<(usize, usize)>,
    ) -> Result<usize, Raise> {
        if self.count == 0 {
            let Some((from, to)) = whole else {
                return Ok(0);
            };
            push_range(stack, index, from, to);
            return Ok(1);
        }
        for number in 0..self.count {
            self.push_one(stack, index, number, (0, 0))?;
        }
        Ok(self.count)
    }

    /// Pushes capture `number`, counted from 0; if there are no captures, number 0 is `whole`.
    pub fn push_one(
        &self,
        stack: &mut Stack<'_>,
        index: i32,
        number: usize,
        whole: (usize, usize),
    ) -> Result<(), Raise> {
        match self.get(number, whole)? {
            Captured::Text(from, to) => push_range(stack, index, from, to),
            Captured::Position(position) => stack.push_number(position as f64),
        }
        Ok(())
    }

    /// Capture `number`, counted from 0; if there are no captures, number 0 is `whole`.
    pub fn get(&self, number: usize, whole: (usize, usize)) -> Result<Captured, Raise> {
        if number >= self.count {
            if number == 0 {
                return Ok(Captured::Text(whole.0, whole.1));
            }
            return Err(Raise::here("invalid capture index"));
        }
        match self.items[number] {
            Capture::Text(from, to) => Ok(Captured::Text(from, to)),
            Capture::Position(at) => Ok(Captured::Position(at + 1)),
            Capture::Open(_) => Err(Raise::here("unfinished capture")),
        }
    }
}

/// A finished capture.
pub(crate) enum Captured {
    /// A range of the text.
    Text(usize, usize),
    /// A position, counted from 1.
    Position(usize),
}

fn push_range(stack: &mut Stack<'_>, index: i32, from: usize, to: usize) {
    let text = stack.bytes(index).unwrap_or_default();
    let piece = text.get(from..to).unwrap_or_default().to_vec();
    stack.push_bytes(&piece);
}

/// A text and a pattern.
pub(crate) struct Matcher<'m> {
    text: &'m [u8],
    pattern: &'m [u8],
    captures: Captures,
    depth: u32,
    /// Steps that are not counted yet.
    steps: usize,
    /// Counts steps; returns false if the script must end.
    spend: &'m dyn Fn(usize) -> bool,
}

impl<'m> Matcher<'m> {
    pub fn new(text: &'m [u8], pattern: &'m [u8], spend: &'m dyn Fn(usize) -> bool) -> Self {
        Matcher {
            text,
            // Patterns end at a zero byte.
            pattern: up_to_zero(pattern),
            captures: Captures {
                items: [Capture::Position(0); CAPTURES_MAX],
                count: 0,
            },
            depth: 0,
            // The search for that zero byte counts, too.
            steps: 1 + pattern.len() / BYTES_PER_STEP,
            spend,
        }
    }

    /// The range and captures of the first match that begins at `start`, or later unless anchored.
    pub fn search(
        &mut self,
        start: usize,
        is_anchored: bool,
    ) -> Result<Option<(usize, usize, Captures)>, Problem> {
        let mut from = start;
        while from <= self.text.len() {
            self.captures.count = 0;
            if let Some(to) = self.match_at(from, 0)? {
                // Count now, since there may be many short searches.
                self.count_steps()?;
                return Ok(Some((from, to, self.captures)));
            }
            if is_anchored {
                break;
            }
            from += 1;
        }
        self.count_steps()?;
        Ok(None)
    }

    fn byte(&self, pattern_at: usize) -> u8 {
        // Past the end, C strings have a zero byte.
        self.pattern.get(pattern_at).copied().unwrap_or(0)
    }

    fn step(&mut self, steps: usize) -> Result<(), Problem> {
        self.steps += steps;
        if self.steps >= STEPS_AT_ONCE {
            return self.count_steps();
        }
        Ok(())
    }

    fn count_steps(&mut self) -> Result<(), Problem> {
        match (self.spend)(std::mem::take(&mut self.steps)) {
            true => Ok(()),
            false => Err(Problem::Interrupted),
        }
    }

    /// Matches the pattern from `p` on against the text at `s`. Returns the end of the match.
    fn match_at(&mut self, s: usize, p: usize) -> Result<Option<usize>, Problem> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Problem::Text("pattern too complex"));
        }
        let result = self.match_items(s, p);
        self.depth -= 1;
        result
    }

    fn match_items(&mut self, mut s: usize, mut p: usize) -> Result<Option<usize>, Problem> {
        loop {
            self.step(1)?;
            let next = self.byte(p + 1);
            match self.byte(p) {
                0 => return Ok(Some(s)),
                b'(' if next == b')' => return self.open(s, p + 2, Capture::Position(s)),
                b'(' => return self.open(s, p + 1, Capture::Open(s)),
                b')' => return self.close(s, p + 1),
                ESCAPE if next == b'b' => {
                    let Some(end) = self.balanced(s, p + 2)? else {
                        return Ok(None);
                    };
                    s = end;
                    p += 4;
                    continue;
                }
                ESCAPE if next == b'f' => {
                    p += 2;
                    if self.byte(p) != b'[' {
                        return Err(Problem::Text("missing '[' after '%f' in pattern"));
                    }
                    let end = self.item_end(p)?;
                    self.step((end - p) / BYTES_PER_STEP)?;
                    let before = s.checked_sub(1).map_or(0, |at| self.text[at]);
                    let after = self.text.get(s).copied().unwrap_or(0);
                    if self.in_set(before, p, end - 1) || !self.in_set(after, p, end - 1) {
                        return Ok(None);
                    }
                    p = end;
                    continue;
                }
                ESCAPE if next.is_ascii_digit() => {
                    let Some(end) = self.match_same(s, next)? else {
                        return Ok(None);
                    };
                    s = end;
                    p += 2;
                    continue;
                }
                b'$' if next == 0 => return Ok((s == self.text.len()).then_some(s)),
                _ => {}
            }
            let end = self.item_end(p)?;
            self.step((end - p) / BYTES_PER_STEP)?;
            let is_match = self.is_single_match(s, p, end);
            match self.byte(end) {
                b'?' => {
                    if is_match && let Some(found) = self.match_at(s + 1, end + 1)? {
                        return Ok(Some(found));
                    }
                    p = end + 1;
                }
                b'*' => return self.match_greedy(s, 0, p, end),
                b'+' if is_match => return self.match_greedy(s + 1, 0, p, end),
                b'+' => return Ok(None),
                b'-' => return self.match_lazy(s, p, end),
                _ if !is_match => return Ok(None),
                _ => {
                    s += 1;
                    p = end;
                }
            }
        }
    }

    /// Matches as many repetitions as possible, then fewer until the rest matches.
    fn match_greedy(
        &mut self,
        s: usize,
        count_min: usize,
        p: usize,
        end: usize,
    ) -> Result<Option<usize>, Problem> {
        let mut count = count_min;
        while self.is_single_match(s + count, p, end) {
            self.step(1 + (end - p) / BYTES_PER_STEP)?;
            count += 1;
        }
        loop {
            if let Some(found) = self.match_at(s + count, end + 1)? {
                return Ok(Some(found));
            }
            if count == count_min {
                return Ok(None);
            }
            count -= 1;
        }
    }

    /// Matches as few repetitions as possible, then more until the rest matches.
    fn match_lazy(&mut self, mut s: usize, p: usize, end: usize) -> Result<Option<usize>, Problem> {
        loop {
            if let Some(found) = self.match_at(s, end + 1)? {
                return Ok(Some(found));
            }
            self.step((end - p) / BYTES_PER_STEP)?;
            if !self.is_single_match(s, p, end) {
                return Ok(None);
            }
            s += 1;
        }
    }

    fn open(&mut self, s: usize, p: usize, capture: Capture) -> Result<Option<usize>, Problem> {
        let number = self.captures.count;
        if number >= CAPTURES_MAX {
            return Err(Problem::Text("too many captures"));
        }
        self.captures.items[number] = capture;
        self.captures.count = number + 1;
        let found = self.match_at(s, p)?;
        if found.is_none() {
            self.captures.count -= 1;
        }
        Ok(found)
    }

    fn close(&mut self, s: usize, p: usize) -> Result<Option<usize>, Problem> {
        let count = self.captures.count;
        let open = self.captures.items[..count]
            .iter()
            .rposition(|capture| matches!(capture, Capture::Open(_)));
        let Some(number) = open else {
            return Err(Problem::Text("invalid pattern capture"));
        };
        let was = self.captures.items[number];
        if let Capture::Open(from) = was {
            self.captures.items[number] = Capture::Text(from, s);
        }
        let found = self.match_at(s, p)?;
        if found.is_none() {
            self.captures.items[number] = was;
        }
        Ok(found)
    }

    /// `%1`: matches the text of a capture again.
    fn match_same(&mut self, s: usize, digit: u8) -> Result<Option<usize>, Problem> {
        let number = usize::from(digit).wrapping_sub(usize::from(b'1'));
        let captures = &self.captures.items[..self.captures.count];
        let range = match captures.get(number) {
            Some(Capture::Text(from, to)) => *from..*to,
            // In C, a position capture compares like a text of impossible length.
            Some(Capture::Position(_)) => return Ok(None),
            Some(Capture::Open(_)) | None => return Err(Problem::Text("invalid capture index")),
        };
        let len = range.len();
        self.step(len / BYTES_PER_STEP)?;
        let is_same = self.text[s..].starts_with(&self.text[range]);
        Ok(is_same.then_some(s + len))
    }

    /// `%bxy`: matches from an x to the y that closes it.
    fn balanced(&mut self, s: usize, p: usize) -> Result<Option<usize>, Problem> {
        let (open, close) = (self.byte(p), self.byte(p + 1));
        if open == 0 || close == 0 {
            return Err(Problem::Text("unbalanced pattern"));
        }
        if self.text.get(s) != Some(&open) {
            return Ok(None);
        }
        let mut depth = 1_usize;
        for at in s + 1..self.text.len() {
            self.step(1)?;
            let byte = self.text[at];
            if byte == close {
                depth -= 1;
                if depth == 0 {
                    return Ok(Some(at + 1));
                }
            } else if byte == open {
                depth += 1;
            }
        }
        Ok(None)
    }

    /// Where the item that begins at `p` ends.
    fn item_end(&self, mut p: usize) -> Result<usize, Problem> {
        let first = self.byte(p);
        p += 1;
        if first == ESCAPE {
            if self.byte(p) == 0 {
                return Err(Problem::Text("malformed pattern (ends with '%')"));
            }
            return Ok(p + 1);
        }
        if first != b'[' {
            return Ok(p);
        }
        if self.byte(p) == b'^' {
            p += 1;
        }
        loop {
            // The first byte belongs to the set even if it is the bracket.
            if self.byte(p) == 0 {
                return Err(Problem::Text("malformed pattern (missing ']')"));
            }
            let byte = self.byte(p);
            p += 1;
            if byte == ESCAPE && self.byte(p) != 0 {
                p += 1;
            }
            if self.byte(p) == b']' {
                return Ok(p + 1);
            }
        }
    }

    fn is_single_match(&self, s: usize, p: usize, end: usize) -> bool {
        let Some(&byte) = self.text.get(s) else {
            return false;
        };
        match self.byte(p) {
            b'.' => true,
            ESCAPE => is_in_class(byte, self.byte(p + 1)),
            b'[' => self.in_set(byte, p, end - 1),
            literal => literal == byte,
        }
    }

    /// Whether `byte` is in the set between the brackets at `p` and `end`.
    fn in_set(&self, byte: u8, mut p: usize, end: usize) -> bool {
        let mut is_member = true;
        if self.byte(p + 1) == b'^' {
            is_member = false;
            p += 1;
        }
        loop {
            p += 1;
            if p >= end {
                return !is_member;
            }
            let first = self.byte(p);
            if first == ESCAPE {
                p += 1;
                if is_in_class(byte, self.byte(p)) {
                    return is_member;
                }
            } else if self.byte(p + 1) == b'-' && p + 2 < end {
                if (first..=self.byte(p + 2)).contains(&byte) {
                    return is_member;
                }
                p += 2;
            } else if first == byte {
                return is_member;
            }
        }
    }
}

/// Whether `byte` is in the class of a letter; an upper-case letter means the complement.
fn is_in_class(byte: u8, class: u8) -> bool {
    let is_in = match class.to_ascii_lowercase() {
        b'a' => byte.is_ascii_alphabetic(),
        b'c' => byte.is_ascii_control(),
        b'd' => byte.is_ascii_digit(),
        b'l' => byte.is_ascii_lowercase(),
        b'p' => byte.is_ascii_punctuation(),
        b's' => matches!(byte, b' ' | 9..=13),
        b'u' => byte.is_ascii_uppercase(),
        b'w' => byte.is_ascii_alphanumeric(),
        b'x' => byte.is_ascii_hexdigit(),
        b'z' => byte == 0,
        _ => return class == byte,
    };
    is_in != class.is_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn find(text: &str, pattern: &str) -> Result<Option<(usize, usize)>, Problem> {
        Matcher::new(text.as_bytes(), pattern.as_bytes(), &|_| true)
            .search(0, false)
            .map(|found| found.map(|(from, to, _)| (from, to)))
    }

    #[test]
    fn items_match_as_documented() {
        for (text, pattern, expected) in [
            ("hello world", "o w", Some((4, 7))),
            ("hello", "l+", Some((2, 4))),
            ("hello", "l-o", Some((2, 5))),
            ("hello", "xl?", None),
            ("a1b2", "%d%a", Some((1, 3))),
            ("f(a(b)c)d", "%b()", Some((1, 8))),
            ("THE (quick) fox", "%f[%a]%a+%f[%A]", Some((0, 3))),
            ("abcabc", "(abc)%1", Some((0, 6))),
            ("a]b", "[]]", Some((1, 2))),
            ("a-b", "[a%-]+", Some((0, 2))),
            ("xyz", "[^x]+", Some((1, 3))),
            ("abc", "c$", Some((2, 3))),
            ("", "", Some((0, 0))),
        ] {
            assert_eq!(find(text, pattern), Ok(expected), "{text} {pattern}");
        }
    }

    #[test]
    fn invalid_patterns_have_an_error_message() {
        for (pattern, error) in [
            ("%", "malformed pattern (ends with '%')"),
            ("[a", "malformed pattern (missing ']')"),
            ("%b", "unbalanced pattern"),
            ("%f", "missing '[' after '%f' in pattern"),
            ("a)", "invalid pattern capture"),
            ("%1", "invalid capture index"),
        ] {
            assert_eq!(find("aaa", pattern), Err(Problem::Text(error)), "{pattern}");
        }
    }

    #[test]
    fn long_patterns_neither_overflow_the_stack_nor_run_forever() {
        let text = "x".repeat(100_000);
        let deep = find(&text, &"x?".repeat(100_000));
        assert_eq!(deep, Err(Problem::Text("pattern too complex")));

        let calls = Cell::new(0);
        let spend = |_| {
            calls.set(calls.get() + 1);
            calls.get() < 10
        };
        let pattern = "x-".repeat(50) + "y";
        let text = "x".repeat(1000);
        let mut matcher = Matcher::new(text.as_bytes(), pattern.as_bytes(), &spend);
        assert_eq!(
            matcher.search(0, false).map(|_| ()),
            Err(Problem::Interrupted)
        );
        assert_eq!(calls.get(), 10);
    }
}
