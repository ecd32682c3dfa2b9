//! Validation issues: where a request is wrong, and what to change (contract §5.1 `details.issues`).

use serde::Serialize;

/// One step of a path into the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum Step {
    /// A field or map key.
    Name(String),
    /// A position in an array.
    Index(u64),
}

/// One thing to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Issue {
    pub(super) path: Vec<Step>,
    pub(super) message: String,
}

/// Collects every issue of a request, knowing where the reader stands.
#[derive(Debug, Default)]
pub(super) struct Issues {
    found: Vec<Issue>,
    path: Vec<Step>,
}

/// A request of a thousand broken items needs no answer of a megabyte.
const MOST_ISSUES: usize = 100;

impl Issues {
    /// The reader goes down one step; every `enter` has its [`Issues::leave`].
    pub(super) fn enter(&mut self, step: Step) {
        self.path.push(step);
    }

    /// The reader comes back up.
    pub(super) fn leave(&mut self) {
        self.path.pop();
    }

    /// Something to change where the reader stands.
    pub(super) fn here(&mut self, message: impl Into<String>) {
        if self.found.len() < MOST_ISSUES {
            self.found.push(Issue { path: self.path.clone(), message: message.into() });
        }
    }

    /// Something to change about a field of the value where the reader stands.
    pub(super) fn at(&mut self, name: &str, message: impl Into<String>) {
        self.enter(Step::Name(name.to_owned()));
        self.here(message);
        self.leave();
    }

    /// All of them, when there are any.
    pub(super) fn into_result(self) -> Result<(), Vec<Issue>> {
        if self.found.is_empty() { Ok(()) } else { Err(self.found) }
    }
}

/// The path that a gRPC field violation names, e.g. `thresholds[0].percent`.
pub(super) fn path_of_violation(field: &str) -> Vec<Step> {
    let mut path = Vec::new();
    for part in field.split('.').filter(|part| !part.is_empty()) {
        let mut pieces = part.split('[');
        if let Some(name) = pieces.next().filter(|name| !name.is_empty()) {
            path.push(Step::Name(name.to_owned()));
        }
        for piece in pieces {
            let inner = piece.strip_suffix(']').unwrap_or(piece);
            path.push(inner.parse().map_or_else(|_| Step::Name(inner.to_owned()), Step::Index));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_become_paths() {
        let json = |field| serde_json::to_string(&path_of_violation(field)).unwrap();
        assert_eq!(json("name"), r#"["name"]"#);
        assert_eq!(json("thresholds[0].percent"), r#"["thresholds",0,"percent"]"#);
        assert_eq!(json("events[12].tags[team]"), r#"["events",12,"tags","team"]"#);
        assert_eq!(json(""), "[]");
    }
}
