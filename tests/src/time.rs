//! Another time of day for the processes under test, by libfaketime: windows end when a test wants it, and clocks step back.

use std::{fs, path::PathBuf};

/// Where Debian's packages `libtcmalloc-minimal4` and `faketime` have their libraries. The first one is for Redis, whose
/// own allocator asks for the time before there is any.
const LIBRARIES: &str =
    "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4:/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// A wall clock that runs so many seconds beside the real one. What is only waited for runs as ever.
#[derive(Debug)]
pub struct ShiftedClock {
    file: PathBuf,
}

impl ShiftedClock {
    /// A clock whose shift is kept in `file`.
    #[must_use]
    pub fn new(file: PathBuf, shift_s: i64) -> Self {
        let clock = Self { file };
        clock.shift(shift_s);
        clock
    }

    /// Sets the shift anew; processes notice within a second.
    pub fn shift(&self, shift_s: i64) {
        // Replaced whole, so that nobody reads half a number.
        let draft = self.file.with_extension("draft");
        fs::write(&draft, format!("{shift_s:+}\n")).expect("a file");
        fs::rename(&draft, &self.file).expect("a file");
    }

    /// What a process needs in its environment to go by it.
    #[must_use]
    pub fn env(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", LIBRARIES.to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}
