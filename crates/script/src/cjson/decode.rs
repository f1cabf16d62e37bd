//! `cjson.decode`. It is more tolerant than JSON: it accepts `inf`, `nan`, hexadecimal numbers and leading zeros unless
//! that is switched off, and a zero byte ends the text.

use super::{DEPTH_MAX, Setting};
use crate::lua::{Outcome, Raise, Stack};

/// A token of the text.
#[derive(Clone, Debug, PartialEq)]
enum Token {
    ObjectBegin,
    ObjectEnd,
    ArrayBegin,
    ArrayEnd,
    String(Vec<u8>),
    Number(f64),
    Boolean(bool),
    Null,
    Colon,
    Comma,
    End,
    Error(&'static str),
}

impl Token {
    /// The token's name in error messages.
    fn name(&self) -> &'static str {
        match self {
            Token::ObjectBegin => "T_OBJ_BEGIN",
            Token::ObjectEnd => "T_OBJ_END",
            Token::ArrayBegin => "T_ARR_BEGIN",
            Token::ArrayEnd => "T_ARR_END",
            Token::String(_) => "T_STRING",
            Token::Number(_) => "T_NUMBER",
            Token::Boolean(_) => "T_BOOLEAN",
            Token::Null => "T_NULL",
            Token::Colon => "T_COLON",
            Token::Comma => "T_COMMA",
            Token::End => "T_END",
            Token::Error(problem) => problem,
        }
    }
}

pub(super) fn decode(stack: &mut Stack<'_>) -> Outcome {
    if stack.top() != 1 {
        return Err(Raise::Argument(1, "expected 1 argument".into()));
    }
    let text = stack.check_text(1)?.to_vec();
    if text.len() >= 2 && (text[0] == 0 || text[1] == 0) {
        return Err(Raise::here("JSON parser does not support UTF-16 or UTF-32"));
    }
    let mut decoder = Decoder {
        text: &text,
        position: 0,
        spent_at: 0,
        token_at: 0,
        depth: 0,
        depth_max: Setting::DecodeDepth.of(stack),
        accepts_invalid: Setting::DecodeInvalidAndKeep.of(stack) & 1 != 0,
    };
    let token = decoder.token();
    decoder.value(stack, token)?;
    match decoder.token() {
        Token::End => Ok(1),
        other => Err(decoder.unexpected("the end", &other)),
    }
}

struct Decoder<'t> {
    text: &'t [u8],
    position: usize,
    /// Up to this position, the work has been counted.
    spent_at: usize,
    /// Where the last token begins, or where its error is.
    token_at: usize,
    depth: i64,
    depth_max: i64,
    accepts_invalid: bool,
}

impl Decoder<'_> {
    fn unexpected(&self, expected: &str, found: &Token) -> Raise {
        let (found, at) = (found.name(), self.token_at + 1);
        Raise::here(format!(
            "Expected {expected} but found {found} at character {at}"
        ))
    }

    fn value(&mut self, stack: &mut Stack<'_>, token: Token) -> Result<(), Raise> {
        stack.check_memory()?;
        stack.context().spend_bytes(self.position - self.spent_at)?;
        self.spent_at = self.position;
        match token {
            Token::String(bytes) => stack.push_bytes(&bytes),
            Token::Number(number) => stack.push_number(number),
            Token::Boolean(value) => stack.push_boolean(value),
            Token::Null => stack.push_null_pointer(),
            Token::ObjectBegin => return self.object(stack),
            Token::ArrayBegin => return self.array(stack),
            Token::ObjectEnd
            | Token::ArrayEnd
            | Token::Colon
            | Token::Comma
            | Token::End
            | Token::Error(_) => return Err(self.unexpected("value", &token)),
        }
        Ok(())
    }

    fn descend(&mut self, stack: &mut Stack<'_>) -> Result<(), Raise> {
        self.depth += 1;
        if self.depth > self.depth_max.min(DEPTH_MAX) || !stack.reserve(4) {
            let (depth, at) = (self.depth, self.position);
            return Err(Raise::here(format!(
                "Found too many nested data structures ({depth}) at character {at}"
            )));
        }
        Ok(())
    }

    fn object(&mut self, stack: &mut Stack<'_>) -> Result<(), Raise> {
        self.descend(stack)?;
        stack.push_table(0, 0);
        let mut token = self.token();
        if token == Token::ObjectEnd {
            self.depth -= 1;
            return Ok(());
        }
        loop {
            let Token::String(key) = &token else {
                return Err(self.unexpected("object key string", &token));
            };
            stack.push_bytes(key);
            let colon = self.token();
            if colon != Token::Colon {
                return Err(self.unexpected("colon", &colon));
            }
            let value = self.token();
            self.value(stack, value)?;
            stack.set(-3);
            match self.token() {
                Token::ObjectEnd => break,
                Token::Comma => token = self.token(),
                other => return Err(self.unexpected("comma or object end", &other)),
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn array(&mut self, stack: &mut Stack<'_>) -> Result<(), Raise> {
        self.descend(stack)?;
        stack.push_table(0, 0);
        let mut token = self.token();
        if token == Token::ArrayEnd {
            self.depth -= 1;
            return Ok(());
        }
        for item in 1.. {
            self.value(stack, token)?;
            stack.set_index(-2, item);
            match self.token() {
                Token::ArrayEnd => break,
                Token::Comma => token = self.token(),
                other => return Err(self.unexpected("comma or array end", &other)),
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// The byte `ahead` bytes after the position; 0 past the end.
    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.position + ahead).copied().unwrap_or(0)
    }

    fn error(&mut self, problem: &'static str) -> Token {
        self.token_at = self.position;
        Token::Error(problem)
    }

    fn token(&mut self) -> Token {
        while matches!(self.peek(0), b' ' | b'\t' | b'\n' | b'\r') {
            self.position += 1;
        }
        self.token_at = self.position;
        let single = match self.peek(0) {
            b'{' => Token::ObjectBegin,
            b'}' => Token::ObjectEnd,
            b'[' => Token::ArrayBegin,
            b']' => Token::ArrayEnd,
            b',' => Token::Comma,
            b':' => Token::Colon,
            0 => return Token::End,
            b'"' => return self.string(),
            b'-' | b'0'..=b'9' => {
                if !self.accepts_invalid && self.is_invalid_number() {
                    return self.error("invalid number");
                }
                return self.number();
            }
            _ => return self.word(),
        };
        self.position += 1;
        single
    }

    fn word(&mut self) -> Token {
        for (word, token) in [
            (&b"true"[..], Token::Boolean(true)),
            (b"false", Token::Boolean(false)),
            (b"null", Token::Null),
        ] {
            if self.text[self.position..].starts_with(word) {
                self.position += word.len();
                return token;
            }
        }
        let may_begin = matches!(self.peek(0), b'+' | b'i' | b'I' | b'n' | b'N');
        if self.accepts_invalid && may_begin && self.is_invalid_number() {
            return self.number();
        }
        self.error("invalid token")
    }

    /// Whether the next token is a number that JSON does not allow.
    fn is_invalid_number(&self) -> bool {
        let sign = match self.peek(0) {
            b'+' => return true,
            b'-' => 1,
            _ => 0,
        };
        match self.peek(sign) {
            b'0' => matches!(self.peek(sign + 1), b'x' | b'X' | b'0'..=b'9'),
            b'1'..=b'9' => false,
            _ => {
                let word = [0, 1, 2].map(|at| self.peek(sign + at).to_ascii_lowercase());
                word == *b"inf" || word == *b"nan"
            }
        }
    }

    fn number(&mut self) -> Token {
        match c_double(&self.text[self.position..]) {
            Some((number, len)) => {
                self.position += len;
                Token::Number(number)
            }
            None => self.error("invalid number"),
        }
    }

    fn string(&mut self) -> Token {
        self.position += 1;
        let mut bytes = Vec::new();
        loop {
            match self.peek(0) {
                b'"' => break,
                0 => return self.error("unexpected end of string"),
                b'\\' => {
                    let plain = match self.peek(1) {
                        b'b' => 8,
                        b't' => b'\t',
                        b'n' => b'\n',
                        b'f' => 12,
                        b'r' => b'\r',
                        same @ (b'"' | b'\\' | b'/') => same,
                        b'u' => {
                            let Some((letter, len)) = self.unicode() else {
                                return self.error("invalid unicode escape code");
                            };
                            let mut utf8 = [0; 4];
                            bytes.extend_from_slice(letter.encode_utf8(&mut utf8).as_bytes());
                            self.position += len;
                            continue;
                        }
                        _ => return self.error("invalid escape code"),
                    };
                    bytes.push(plain);
                    self.position += 2;
                }
                byte => {
                    bytes.push(byte);
                    self.position += 1;
                }
            }
        }
        self.position += 1;
        Token::String(bytes)
    }

    /// The character of the `\u` escape at the position, or of a surrogate pair of two, and the length.
    fn unicode(&self) -> Option<(char, usize)> {
        let first = self.hex(2)?;
        if !(0xd800..0xe000).contains(&first) {
            return Some((char::from_u32(first)?, 6));
        }
        if first >= 0xdc00 || self.peek(6) != b'\\' || self.peek(7) != b'u' {
            return None;
        }
        let second = self.hex(8)?;
        if !(0xdc00..0xe000).contains(&second) {
            return None;
        }
        let code = 0x1_0000 + ((first & 0x3ff) << 10 | second & 0x3ff);
        Some((char::from_u32(code)?, 12))
    }

    fn hex(&self, ahead: usize) -> Option<u32> {
        (ahead..ahead + 4).try_fold(0, |value, at| {
            Some(value << 4 | char::from(self.peek(at)).to_digit(16)?)
        })
    }
}

/// The number at the start of `text`, as C's `strtod` reads it, and its length.
fn c_double(text: &[u8]) -> Option<(f64, usize)> {
    let sign_len = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let sign = if text.first() == Some(&b'-') {
        -1.0
    } else {
        1.0
    };
    let rest = &text[sign_len..];
    let starts_with = |word: &[u8]| {
        rest.get(..word.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(word))
    };
    if starts_with(b"infinity") {
        return Some((sign * f64::INFINITY, sign_len + 8));
    }
    if starts_with(b"inf") {
        return Some((sign * f64::INFINITY, sign_len + 3));
    }
    if starts_with(b"nan") {
        return Some((
            f64::NAN.copysign(sign),
            sign_len + 3 + nan_payload_len(&rest[3..]),
        ));
    }
    if starts_with(b"0x")
        && let Some((number, len)) = hex_double(&rest[2..])
    {
        return Some((sign * number, sign_len + 2 + len));
    }
    let digits = |from: usize| {
        rest.get(from..)
            .unwrap_or_default()
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count()
    };
    let whole = digits(0);
    let mut len = whole;
    let mut fraction = 0;
    if rest.get(len) == Some(&b'.') {
        fraction = digits(len + 1);
        if whole + fraction > 0 {
            len += 1 + fraction;
        }
    }
    if whole + fraction == 0 {
        return None;
    }
    if matches!(rest.get(len), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(rest.get(len + 1), Some(b'-' | b'+')));
        let exponent = digits(len + 1 + sign);
        if exponent > 0 {
            len += 1 + sign + exponent;
        }
    }
    let number: f64 = str::from_utf8(&rest[..len]).ok()?.parse().ok()?;
    Some((sign * number, sign_len + len))
}

/// The length of `(...)` after `nan`.
fn nan_payload_len(rest: &[u8]) -> usize {
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let Some(inner) = rest.strip_prefix(b"(") else {
        return 0;
    };
    let len = inner.iter().take_while(|byte| is_letter(byte)).count();
    if inner.get(len) == Some(&b')') {
        len + 2
    } else {
        0
    }
}

/// A hexadecimal number without its `0x`, and its length; `None` without a digit.
fn hex_double(text: &[u8]) -> Option<(f64, usize)> {
    let mut mantissa = 0_u64;
    // Digits beyond the capacity of the mantissa only scale it.
    let mut scale = 0_i32;
    let mut has_digit = false;
    let mut in_fraction = false;
    let mut len = 0;
    for &byte in text {
        if byte == b'.' && !in_fraction {
            in_fraction = true;
            len += 1;
            continue;
        }
        let Some(digit) = char::from(byte).to_digit(16) else {
            break;
        };
        has_digit = true;
        len += 1;
        if mantissa >> 60 == 0 {
            mantissa = mantissa << 4 | u64::from(digit);
            scale -= if in_fraction { 4 } else { 0 };
        } else {
            mantissa |= u64::from(digit != 0);
            scale += if in_fraction { 0 } else { 4 };
        }
    }
    if !has_digit {
        return None;
    }
    if matches!(text.get(len), Some(b'p' | b'P')) {
        let sign = usize::from(matches!(text.get(len + 1), Some(b'-' | b'+')));
        let digits = text
            .get(len + 1 + sign..)
            .unwrap_or_default()
            .iter()
            .take_while(|byte| byte.is_ascii_digit());
        let count = digits.clone().count();
        if count > 0 {
            let exponent = digits.fold(0_i32, |value, byte| {
                value
                    .saturating_mul(10)
                    .saturating_add(i32::from(byte - b'0'))
            });
            let is_negative = text.get(len + 1) == Some(&b'-');
            scale = scale.saturating_add(if is_negative { -exponent } else { exponent });
            len += 1 + sign + count;
        }
    }
    let half = scale.clamp(-4000, 4000) / 2;
    let rest = scale.clamp(-4000, 4000) - half;
    Some((mantissa as f64 * 2_f64.powi(half) * 2_f64.powi(rest), len))
}
