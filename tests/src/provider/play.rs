//! Sends an answer frame by frame, breaking it where the request asked for it.

use std::{collections::VecDeque, io, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use serde_json::Value;

use super::{Body, control::Control, encode::Encoder, log::Meter};

/// What one API says to one request.
pub(super) enum Answer {
    /// At once.
    Json(Value),
    /// As server-sent events.
    Sse(Vec<Frame>),
}

/// One piece of an answer.
pub(super) struct Frame {
    pub(super) bytes: Bytes,
    /// Output tokens that it carries.
    pub(super) tokens: u64,
    /// The number of the chunk, from 1, for frames that carry the model's output.
    pub(super) chunk: Option<u64>,
    /// What is sent in its place when the stream is to fail here.
    pub(super) error: Option<Bytes>,
}

impl Frame {
    /// A frame that carries no output.
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self { bytes, tokens: 0, chunk: None, error: None }
    }

    /// `data:` alone, as chat completions send it.
    pub(super) fn data(value: &Value) -> Self {
        Self::whole(Bytes::from(format!("data: {value}\n\n")))
    }

    /// `event:` and `data:`, as the other two APIs send it.
    pub(super) fn event(value: &Value) -> Self {
        let name = value["type"].as_str().unwrap_or_default();
        Self::whole(Bytes::from(format!("event: {name}\ndata: {value}\n\n")))
    }

    /// Makes it the given chunk of the output.
    pub(super) fn carrying(mut self, chunk: u64, tokens: u64, error: &Frame) -> Self {
        (self.chunk, self.tokens, self.error) = (Some(chunk), tokens, Some(error.bytes.clone()));
        self
    }
}

/// `tokens` words in `chunks` pieces: (number of the chunk from 1, its tokens, its text).
pub(super) fn pieces(tokens: u64, control: &Control) -> Vec<(u64, u64, String)> {
    let chunks = control.chunks.unwrap_or_else(|| tokens.min(8)).clamp(1, tokens.max(1));
    let mut word = 0;
    (1..=chunks)
        .map(|chunk| {
            let count = tokens * chunk / chunks - tokens * (chunk - 1) / chunks;
            let mut text = String::new();
            for _ in 0..count {
                text.push_str(if word == 0 { "word" } else { " word" });
                word += 1;
            }
            (chunk, count, text)
        })
        .collect()
}

/// An answer being sent.
pub(super) struct Play {
    frames: VecDeque<Frame>,
    control: Control,
    meter: Meter,
    encoder: Encoder,
}

impl Play {
    pub(super) fn new(frames: Vec<Frame>, control: Control, meter: Meter) -> Self {
        let encoder = Encoder::new(control.encoding.as_deref().unwrap_or_default());
        Self { frames: frames.into(), control, meter, encoder }
    }

    pub(super) fn into_body(self) -> Body {
        let frames = futures::stream::unfold(Some(self), |play| async move {
            let mut play = play?;
            match play.next().await {
                Ok(Some(bytes)) => Some((Ok(hyper::body::Frame::data(bytes)), Some(play))),
                Ok(None) => {
                    play.meter.finish();
                    None
                }
                Err(broken) => Some((Err(broken), None)),
            }
        });
        StreamBody::new(frames).boxed_unsync()
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some(frame) = self.frames.pop_front() else { return Ok(None) };
        let Some(chunk) = frame.chunk else { return self.sent(frame.bytes).map(Some) };
        if self.control.pace_ms > 0 {
            tokio::time::sleep(Duration::from_millis(self.control.pace_ms)).await;
        }
        if self.control.gate_at == chunk
            && let Some(gate) = &self.control.gate
        {
            self.meter.pass_gate(gate).await;
        }
        if self.control.stall_at == Some(chunk) {
            std::future::pending::<()>().await;
        }
        if self.control.reset_at == Some(chunk) {
            // Gives the connection a turn, so that what was sent before really leaves.
            tokio::task::yield_now().await;
            return Err(io::Error::from(io::ErrorKind::ConnectionReset));
        }
        if self.control.error_at == Some(chunk) {
            self.frames.clear();
            return frame.error.map(|error| self.encoder.frame(error, true)).transpose();
        }
        self.meter.generated(frame.tokens);
        self.sent(frame.bytes).map(Some)
    }

    /// Closes the books with the last frame: a JSON answer has its length, so nobody asks for what comes after it.
    fn sent(&mut self, bytes: Bytes) -> io::Result<Bytes> {
        let last = self.frames.is_empty();
        if last {
            self.meter.finish();
        }
        self.encoder.frame(bytes, last)
    }
}
