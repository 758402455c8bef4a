//! Cuts a byte stream into JSON objects.
//!
//! JSON-RPC over a stream (RFC 7047 section 4) has no length field: a message ends where its outermost brace closes. The
//! framer counts braces and brackets outside of strings and looks at every byte once, however the stream is chopped up.
//! Whether what it cut out *is* JSON, the parser says.

use crate::DecodeError;

/// The longest message that is accepted unless the caller names another limit: room for the first answer to a monitor of
/// some hundred thousand rows. A longer one ends the connection.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Consumed bytes are dropped from the front once there are this many, so that dropping costs little per byte.
const COMPACT_BYTES_MIN: usize = 64 << 10;

/// An incremental splitter of a byte stream into JSON objects.
#[derive(Debug)]
pub struct Framer {
    buffer: Vec<u8>,
    /// Where the message being read starts.
    start: usize,
    /// How far the scan got.
    scanned: usize,
    depth: u32,
    place: Place,
    limit: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Outside,
    InString,
    AfterBackslash,
}

impl Default for Framer {
    fn default() -> Self {
        Framer::with_limit(MESSAGE_BYTES_MAX)
    }
}

impl Framer {
    /// A framer that refuses messages longer than `limit` bytes.
    pub fn with_limit(limit: usize) -> Self {
        Framer { buffer: Vec::new(), start: 0, scanned: 0, depth: 0, place: Place::Outside, limit }
    }

    /// Appends bytes as they came from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.compact();
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete message, or `None` until more bytes are pushed. After an error the stream is useless.
    pub fn next_message(&mut self) -> Result<Option<&[u8]>, DecodeError> {
        if self.depth == 0 && !self.found_start()? {
            return Ok(None);
        }
        let complete = self.found_end();
        if self.scanned - self.start > self.limit {
            return Err(DecodeError::TooLong { limit: self.limit });
        }
        if !complete {
            return Ok(None);
        }
        let message = self.start..self.scanned;
        self.start = self.scanned;
        Ok(Some(&self.buffer[message]))
    }

    /// Skips white space to the brace that opens a message; false when the bytes end before one.
    fn found_start(&mut self) -> Result<bool, DecodeError> {
        let rest = &self.buffer[self.scanned..];
        let blank = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.scanned += blank;
        self.start = self.scanned;
        match rest.get(blank) {
            None => Ok(false),
            Some(b'{') => {
                self.scanned += 1;
                self.depth = 1;
                self.place = Place::Outside;
                Ok(true)
            }
            Some(&byte) => Err(DecodeError::NotAnObject { byte }),
        }
    }

    /// Scans to the brace that closes the message; false when the bytes end before it.
    fn found_end(&mut self) -> bool {
        while self.depth > 0 {
            let Some(&byte) = self.buffer.get(self.scanned) else {
                return false;
            };
            self.scanned += 1;
            self.place = match (self.place, byte) {
                (Place::Outside, b'"') => Place::InString,
                (Place::Outside, b'{' | b'[') => {
                    self.depth += 1;
                    Place::Outside
                }
                (Place::Outside, b'}' | b']') => {
                    self.depth -= 1;
                    Place::Outside
                }
                (Place::InString, b'\\') => Place::AfterBackslash,
                (Place::InString, b'"') => Place::Outside,
                (Place::AfterBackslash, _) => Place::InString,
                (place, _) => place,
            };
        }
        true
    }

    fn compact(&mut self) {
        if self.start == self.buffer.len() || self.start >= COMPACT_BYTES_MIN {
            self.buffer.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&[u8]], limit: usize) -> Result<Vec<String>, DecodeError> {
        let mut framer = Framer::with_limit(limit);
        let mut cut = Vec::new();
        for chunk in chunks {
            framer.push(chunk);
            while let Some(message) = framer.next_message()? {
                cut.push(String::from_utf8_lossy(message).into_owned());
            }
        }
        Ok(cut)
    }

    #[test]
    fn messages_are_cut_the_same_however_the_stream_is_chopped() {
        let stream = br#" {"a":"}\"]{","b":[{},[]]}{"c":"\\"} {"d":1}"#;
        let whole = cut(&[stream], 100).unwrap();
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(whole, [r#"{"a":"}\"]{","b":[{},[]]}"#, r#"{"c":"\\"}"#, r#"{"d":1}"#]);
        assert_eq!(cut(&bytes, 100).unwrap(), whole);
    }

    #[test]
    fn without_another_limit_a_message_has_the_usual_one() {
        let (mut framer, chunk, mut pushed) = (Framer::default(), vec![b'x'; 1 << 20], 0);
        framer.push(br#"{"a":""#);
        let error = loop {
            framer.push(&chunk);
            pushed += chunk.len();
            match framer.next_message() {
                Ok(message) => assert!(message.is_none()),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, DecodeError::TooLong { limit: MESSAGE_BYTES_MAX }), "{error}");
        assert_eq!(pushed, MESSAGE_BYTES_MAX);
    }

    #[test]
    fn a_message_longer_than_the_limit_is_refused_before_it_is_complete() {
        assert!(matches!(cut(&[br#"{"a":"0123456789"#], 10), Err(DecodeError::TooLong { limit: 10 })));
        assert_eq!(cut(&[br#"{"a":12345}{"b":2}"#], 11).unwrap().len(), 2);
    }

    #[test]
    fn a_stream_that_is_no_object_is_refused() {
        assert!(matches!(cut(&[b" [1]"], 10), Err(DecodeError::NotAnObject { byte: b'[' })));
    }

    #[test]
    fn consumed_bytes_do_not_pile_up() {
        let mut framer = Framer::default();
        let chunk = vec![b"{\"a\":1}".as_slice(); 1000].concat();
        for _ in 0..100 {
            framer.push(&chunk);
            while framer.next_message().unwrap().is_some() {}
        }
        assert!(framer.buffer.capacity() < 4 * COMPACT_BYTES_MIN);
    }
}
