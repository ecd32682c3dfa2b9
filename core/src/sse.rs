//! Server-sent events out of arbitrary byte chunks.
//!
//! Lines end with LF, CRLF or CR; a byte order mark is dropped; comments and fields other than `data` are passed
//! over; several `data` lines join with LF. Unlike the specification, an event pending when the bytes end is
//! delivered: it may be the one that carries the usage.

/// The longest event that is kept; the rest of a longer one is dropped and counted.
pub const MAX_EVENT_BYTES: usize = 64 << 20;
/// What is kept in memory between events: a single huge one must not keep its memory for the rest of a long stream.
const IDLE_BYTES: usize = 64 << 10;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Push parser of an event stream.
#[derive(Debug, Default)]
pub struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    after_cr: bool,
    started: bool,
    too_large: bool,
    dropped: u64,
}

impl Events {
    /// Reads a chunk and calls `each` with the data of every event that is complete.
    pub fn push(&mut self, mut chunk: &[u8], mut each: impl FnMut(&[u8])) {
        while !chunk.is_empty() {
            if self.after_cr {
                self.after_cr = false;
                if let Some(rest) = chunk.strip_prefix(b"\n") {
                    chunk = rest;
                    continue;
                }
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', chunk) else {
                self.keep(chunk);
                return;
            };
            let (line, rest) = chunk.split_at(end);
            self.after_cr = rest.first() == Some(&b'\r');
            chunk = rest.get(1..).unwrap_or_default();
            if self.line.is_empty() {
                self.end_line(line, &mut each);
            } else {
                self.keep(line);
                self.end_kept_line(&mut each);
            }
        }
    }

    /// The bytes have ended: delivers what is pending.
    pub fn finish(&mut self, mut each: impl FnMut(&[u8])) {
        if !self.line.is_empty() {
            self.end_kept_line(&mut each);
        }
        self.dispatch(&mut each);
    }

    /// Reads bytes that are all there is.
    pub fn push_all(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        self.push(bytes, &mut each);
        self.finish(&mut each);
    }

    /// Events dropped for their size.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn keep(&mut self, part: &[u8]) {
        if self.line.len() + part.len() > MAX_EVENT_BYTES {
            self.too_large = true;
        } else {
            self.line.extend_from_slice(part);
        }
    }

    /// Ends a line that came in pieces. The usual event is one line of data: it becomes the data without being copied.
    fn end_kept_line(&mut self, each: &mut impl FnMut(&[u8])) {
        let mut line = std::mem::take(&mut self.line);
        if self.started && !self.has_data && line.starts_with(b"data:") && line.len() < MAX_EVENT_BYTES {
            let value = if line.get(5) == Some(&b' ') { 6 } else { 5 };
            line.drain(..value);
            self.line = std::mem::replace(&mut self.data, line);
            self.has_data = true;
        } else {
            self.end_line(&line, each);
            self.line = line;
        }
        self.line.clear();
        self.line.shrink_to(IDLE_BYTES);
    }

    fn end_line(&mut self, line: &[u8], each: &mut impl FnMut(&[u8])) {
        let line = if self.started { line } else { line.strip_prefix(BOM).unwrap_or(line) };
        self.started = true;
        if line.is_empty() {
            self.dispatch(each);
            return;
        }
        let Some(field) = line.strip_prefix(b"data") else { return };
        let value = match field.split_first() {
            None => field,
            Some((b':', value)) => value.strip_prefix(b" ").unwrap_or(value),
            Some(_) => return,
        };
        if self.data.len() + value.len() >= MAX_EVENT_BYTES {
            self.too_large = true;
            return;
        }
        if self.has_data {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
        self.has_data = true;
    }

    fn dispatch(&mut self, each: &mut impl FnMut(&[u8])) {
        if std::mem::take(&mut self.too_large) {
            self.dropped += 1;
        } else if self.has_data {
            each(&self.data);
        }
        self.has_data = false;
        self.data.clear();
        self.data.shrink_to(IDLE_BYTES);
    }
}

/// Cuts an event stream into whole events, every byte of them as it came.
#[derive(Debug, Default)]
pub struct Frames {
    held: Vec<u8>,
    /// Bytes of the present line.
    line: usize,
    after_cr: bool,
}

impl Frames {
    /// Reads a chunk and calls `each` with the bytes of every event that is complete.
    pub fn push(&mut self, mut chunk: &[u8], mut each: impl FnMut(Vec<u8>)) {
        while let Some(first) = chunk.first() {
            if std::mem::take(&mut self.after_cr) && *first == b'\n' {
                self.held.push(b'\n');
                chunk = &chunk[1..];
                continue;
            }
            let end = memchr::memchr2(b'\n', b'\r', chunk);
            let (now, rest) = chunk.split_at(end.map_or(chunk.len(), |end| end + 1));
            chunk = rest;
            self.held.extend_from_slice(now);
            self.line += now.len();
            if end.is_none() {
                return;
            }
            self.after_cr = now.last() == Some(&b'\r');
            if std::mem::take(&mut self.line) == 1 {
                each(std::mem::take(&mut self.held));
            }
        }
    }

    /// Bytes of the event that is not complete yet.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// The bytes have ended: what had no end of its own, if anything.
    pub fn take_rest(&mut self) -> Option<Vec<u8>> {
        Some(std::mem::take(&mut self.held)).filter(|rest| !rest.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_whole_events_and_lose_no_byte_at_any_cut() {
        let text = b": hi\r\n\r\ndata: a\ndata: b\n\ndata: c\r\rid: 1\n\r\ndata: end";
        for cut in 1..=text.len() {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            text.chunks(cut).for_each(|chunk| frames.push(chunk, |frame| found.push(frame)));
            assert_eq!(found.len(), 4, "chunks of {cut}");
            assert!(found.iter().all(|frame| frame.ends_with(b"\n") || frame.ends_with(b"\r")));
            found.extend(frames.take_rest());
            assert_eq!(found.concat(), text, "chunks of {cut}");
        }
    }

    fn events(text: &[u8], cut: usize) -> Vec<String> {
        let mut found = Vec::new();
        let mut parser = Events::default();
        for chunk in text.chunks(cut) {
            parser.push(chunk, |data| found.push(String::from_utf8_lossy(data).into_owned()));
        }
        parser.finish(|data| found.push(String::from_utf8_lossy(data).into_owned()));
        found
    }

    #[test]
    fn every_line_ending_comment_and_spacing_at_every_cut() {
        let text = b"\xef\xbb\xbf: hi\r\ndata: a\r\ndata:b\r\r\nevent: x\ndata\n\ndata:  c\rdata:\xc3\xa9\n\r\ndatax: no\n\nid: 1\n\ndata: end";
        let expected = vec!["a\nb", "", " c\n\u{e9}", "end"];
        for cut in 1..=text.len() {
            assert_eq!(events(text, cut), expected, "chunks of {cut}");
        }
    }

    #[test]
    fn a_line_of_ten_megabytes_is_read_in_little_more_memory_and_leaves_none_behind() {
        let long = [b"data: ".as_slice(), &vec![b'x'; 10 << 20], b"\n\n"].concat();
        let mut parser = Events::default();
        let held = |parser: &Events| parser.line.capacity() + parser.data.capacity();
        let (mut most, mut found) = (0, Vec::new());
        for _ in 0..2 {
            for chunk in long.chunks(16 << 10) {
                parser.push(chunk, |data| found.push(data.len()));
                most = most.max(held(&parser));
            }
            assert!(held(&parser) <= 2 * IDLE_BYTES, "{}", held(&parser));
        }
        parser.push_all(b"data: {\"usage\":{}}\n\n", |data| found.push(data.len()));
        assert_eq!(found, [10 << 20, 10 << 20, 12]);
        assert!(most <= 17 << 20, "{most}");
    }

    #[test]
    fn a_line_beyond_the_limit_is_dropped_and_what_follows_is_read() {
        let mut parser = Events::default();
        let mut found = Vec::new();
        let mut push =
            |parser: &mut Events, bytes: &[u8]| parser.push(bytes, |data| found.push(data.to_vec()));
        push(&mut parser, b"data: ");
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..65 {
            push(&mut parser, &chunk);
            assert!(parser.line.capacity() <= 2 * MAX_EVENT_BYTES);
        }
        push(&mut parser, b"\n\ndata: after\n\n");
        assert_eq!((found, parser.dropped()), (vec![b"after".to_vec()], 1));
        assert!(parser.line.capacity() + parser.data.capacity() <= 2 * IDLE_BYTES);
    }

    #[test]
    fn an_event_without_an_end_is_still_delivered() {
        assert_eq!(events(b"data: {\"usage\":1}\n", 5), vec!["{\"usage\":1}"]);
    }
}
