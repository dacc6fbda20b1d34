//! Words, bytes literals and times of scenario files (FORMAT.md, "Literals").

/// One token of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// A bare word: a keyword, a number, a `key=value`.
    Word(String),
    /// A part of a bytes literal: `"text"` or `x"hex"`.
    Bytes(Vec<u8>),
    /// The `*` of a repetition.
    Star,
}

/// More bytes than any scenario needs: a misplaced digit must not eat the memory.
const MAX_LITERAL: usize = 256 << 20;

/// Gives the bytes of a part `recorded"NAME"`.
pub type Resolve<'r> = &'r dyn Fn(&str) -> Result<Vec<u8>, String>;

/// Splits one step into tokens.
///
/// # Errors
///
/// What is wrong with a literal, in words.
pub fn tokens(text: &str, resolve: Resolve<'_>) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (bytes, after) = text_part(quoted)?;
            tokens.push(Token::Bytes(bytes));
            rest = after;
        } else if let Some(quoted) = rest.strip_prefix("x\"") {
            let (digits, after) = quoted.split_once('"').ok_or("a hex literal has no closing quote")?;
            tokens.push(Token::Bytes(unhex(digits)?));
            rest = after;
        } else if let Some(quoted) = rest.strip_prefix("recorded\"") {
            let (name, after) = quoted.split_once('"').ok_or("the name of a recording has no closing quote")?;
            tokens.push(Token::Bytes(resolve(name)?));
            rest = after;
        } else if first == '*' {
            tokens.push(Token::Star);
            rest = &rest[1..];
        } else {
            let end = rest.find(|c: char| c.is_whitespace() || c == '"' || c == '*').unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    Ok(tokens)
}

/// Reads a text part up to its closing quote; returns its bytes and what follows.
fn text_part(text: &str) -> Result<(Vec<u8>, &str), String> {
    let mut bytes = Vec::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((bytes, &text[at + 1..])),
            '\\' => {
                let (at, escape) = chars.next().ok_or("a text ends in a backslash")?;
                bytes.push(match escape {
                    'r' => b'\r',
                    'n' => b'\n',
                    't' => b'\t',
                    '\\' => b'\\',
                    '"' => b'"',
                    'x' => {
                        let digits = text.get(at + 1..at + 3).ok_or("\\x needs two hex digits")?;
                        chars.next();
                        chars.next();
                        u8::from_str_radix(digits, 16).map_err(|_| format!("\\x{digits} is no byte"))?
                    }
                    other => return Err(format!("unknown escape \\{other}")),
                });
            }
            c => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Err("a text has no closing quote".into())
}

/// Bytes from hex digits; white space between them means nothing.
///
/// # Errors
///
/// An odd number of digits, or something that is none.
pub fn unhex(digits: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = digits.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    if !digits.len().is_multiple_of(2) {
        return Err("a hex literal has an odd number of digits".into());
    }
    let digit = |b: u8| char::from(b).to_digit(16).ok_or_else(|| format!("{:?} is no hex digit", char::from(b)));
    digits.chunks(2).map(|pair| Ok((digit(pair[0])? * 16 + digit(pair[1])?) as u8)).collect()
}

/// Lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |n: u8| char::from(DIGITS[usize::from(n)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

/// Bytes as a text part of a literal, shortened in the middle when they are many.
pub fn quote(bytes: &[u8]) -> String {
    const SHOWN: usize = 600;
    if bytes.len() > SHOWN {
        let (head, tail) = (&bytes[..SHOWN - 100], &bytes[bytes.len() - 100..]);
        return format!("{} ... {} ({} bytes)", quote_all(head), quote_all(tail), bytes.len());
    }
    quote_all(bytes)
}

/// Bytes as a text part of a literal, whole.
pub fn quote_all(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for byte in bytes {
        match byte {
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'\\' => text.push_str("\\\\"),
            b'"' => text.push_str("\\\""),
            0x20..=0x7e => text.push(char::from(*byte)),
            other => text.push_str(&format!("\\x{other:02x}")),
        }
    }
    text.push('"');
    text
}

/// A time or duration in microseconds: a number with `us`, `ms` or `s`, or 0.
///
/// # Errors
///
/// Anything else.
pub fn time(text: &str) -> Result<u64, String> {
    if text == "0" {
        return Ok(0);
    }
    let wrong = || format!("{text:?} is no time: a number with us, ms or s");
    let (number, scale) = [("us", 1), ("ms", 1_000), ("s", 1_000_000)]
        .into_iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))
        .ok_or_else(wrong)?;
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale)).ok_or_else(wrong)
}

/// A moment as scenario files write it.
pub fn show_time(micros: u64) -> String {
    match micros {
        0 => "0".into(),
        n if n % 1_000_000 == 0 => format!("{}s", n / 1_000_000),
        n if n % 1_000 == 0 => format!("{}ms", n / 1_000),
        n => format!("{n}us"),
    }
}

/// Reads tokens from the front.
#[derive(Debug)]
pub struct Cursor {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
}

impl Cursor {
    /// Over the tokens of one step.
    ///
    /// # Errors
    ///
    /// As [`tokens`].
    pub fn new(text: &str, resolve: Resolve<'_>) -> Result<Self, String> {
        Ok(Self { tokens: tokens(text, resolve)?.into_iter().peekable() })
    }

    /// Whether nothing is left.
    pub fn is_empty(&mut self) -> bool {
        self.tokens.peek().is_none()
    }

    /// The next word, if a word is next.
    pub fn word(&mut self) -> Option<String> {
        match self.tokens.next_if(|token| matches!(token, Token::Word(_)))? {
            Token::Word(word) => Some(word),
            _ => None,
        }
    }

    /// A word that must be there.
    ///
    /// # Errors
    ///
    /// Something else is there.
    pub fn need_word(&mut self, what: &str) -> Result<String, String> {
        self.word().ok_or_else(|| format!("{what} expected"))
    }

    /// A number that must be there.
    ///
    /// # Errors
    ///
    /// Something else is there, or it is out of range.
    pub fn number<N: std::str::FromStr>(&mut self, what: &str) -> Result<N, String> {
        let word = self.need_word(what)?;
        word.parse().map_err(|_| format!("{what} expected, not {word:?}"))
    }

    /// One text part that must be there.
    ///
    /// # Errors
    ///
    /// Something else is there.
    pub fn text(&mut self, what: &str) -> Result<Vec<u8>, String> {
        match self.tokens.next() {
            Some(Token::Bytes(bytes)) => Ok(bytes),
            _ => Err(format!("{what} in quotes expected")),
        }
    }

    /// A bytes literal: as many parts as follow, at least one.
    ///
    /// # Errors
    ///
    /// No part follows, or a repetition lacks its part.
    pub fn bytes(&mut self, what: &str) -> Result<Vec<u8>, String> {
        let mut bytes = None;
        while let Some(part) = self.part()? {
            let bytes = bytes.get_or_insert_with(Vec::new);
            bytes.extend_from_slice(&part);
            if bytes.len() > MAX_LITERAL {
                return Err("a literal is too long".into());
            }
        }
        bytes.ok_or_else(|| format!("{what} expected"))
    }

    fn part(&mut self) -> Result<Option<Vec<u8>>, String> {
        let is_count = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
        match self.tokens.peek() {
            Some(Token::Bytes(_)) => self.text("bytes").map(Some),
            Some(Token::Word(word)) if is_count(word) => {
                let count: usize = self.number("a number of repetitions")?;
                if self.tokens.next() != Some(Token::Star) {
                    return Err("`*` expected after the number".into());
                }
                let part = self.part()?.ok_or("a part expected after `*`")?;
                if part.len().saturating_mul(count) > MAX_LITERAL {
                    return Err("a literal is too long".into());
                }
                Ok(Some(part.repeat(count)))
            }
            _ => Ok(None),
        }
    }

    /// The end, which must have come.
    ///
    /// # Errors
    ///
    /// Something is left over.
    pub fn end(&mut self) -> Result<(), String> {
        match self.tokens.next() {
            None => Ok(()),
            Some(Token::Word(word)) => Err(format!("{word:?} was not expected here")),
            Some(Token::Bytes(bytes)) => Err(format!("{} was not expected here", quote(&bytes))),
            Some(Token::Star) => Err("`*` was not expected here".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Result<Vec<u8>, String> {
        let mut cursor = Cursor::new(text, &|name| Err(name.to_owned()))?;
        let bytes = cursor.bytes("bytes")?;
        cursor.end()?;
        Ok(bytes)
    }

    #[test]
    fn parts_are_joined() {
        assert_eq!(bytes(r#""a\r\n\t\\\"\x00" x"41 42" 3 * "z" 2*x"31""#).unwrap(), b"a\r\n\t\\\"\0ABzzz11");
        assert_eq!(bytes(r#""""#).unwrap(), b"");
        for wrong in [r#""a"#, r#"x"4""#, r#"x"4g""#, r#""\q""#, "3 \"a\"", "3 *", "word", "", r#""\x4"#] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_quoted_reads_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(bytes(&quote_all(&all)).unwrap(), all);
        assert_eq!(unhex(&hex(&all)).unwrap(), all);
    }

    #[test]
    fn times_have_units() {
        assert_eq!((time("0"), time("20us"), time("3ms"), time("2s")), (Ok(0), Ok(20), Ok(3_000), Ok(2_000_000)));
        for wrong in ["", "3", "s", "3m", "-1s", "1.5s"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
        assert_eq!([0, 1, 1_000, 3_000_000].map(show_time), ["0", "1us", "1ms", "3s"]);
    }
}
