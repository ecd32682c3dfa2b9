//! Checking requests: every problem is collected, none hides another.

use std::collections::BTreeMap;

use super::error::{AppError, Issue, PathSegment};

/// Most tags of a key or an event (contract §2.3).
pub(super) const MAX_TAGS: usize = 10;
const MAX_TAG_NAME: usize = 64;
const MAX_TAG_VALUE: usize = 256;
/// Tags that only the product and its SDKs write.
pub(super) const SYSTEM_TAG_PREFIX: &str = "_ns_";

/// The problems found so far.
/// Problems told at once.
const MAX_ISSUES: usize = 32;
/// Tags of the clients' own (`_ns_…`) on one reported event.
const MAX_SYSTEM_TAGS: usize = 20;

#[derive(Debug, Default)]
pub(super) struct Checks {
    issues: Vec<Issue>,
    base: Vec<PathSegment>,
}

impl Checks {
    /// Problems of the `index`th element of the list `field` are named below it.
    pub(super) fn enter(&mut self, field: &str, index: usize) {
        self.base = vec![field.into(), index.into()];
    }

    /// Notes a problem. The message continues the sentence "`field` …".
    pub(super) fn add(&mut self, path: &[PathSegment], message: impl Into<String>) {
        // Issues travel in headers; whoever has this many problems needs no longer list to begin with.
        if self.issues.len() >= MAX_ISSUES {
            return;
        }
        let path = self.base.iter().chain(path).map(PathSegment::clipped).collect();
        self.issues.push(Issue { path, message: message.into() });
    }

    pub(super) fn field(&mut self, field: &str, message: impl Into<String>) {
        self.add(&[field.into()], message);
    }

    pub(super) fn require(&mut self, holds: bool, field: &str, message: impl Into<String>) {
        if !holds {
            self.field(field, message);
        }
    }

    /// A text of `least` to `most` characters without NUL.
    pub(super) fn text(&mut self, field: &str, text: &str, least: usize, most: usize) {
        let length = text.chars().count();
        let fits = (least..=most).contains(&length) && !text.contains('\0');
        self.require(fits, field, format!("must be text of {least} to {most} characters"));
    }

    pub(super) fn optional_text(&mut self, field: &str, text: Option<&str>, most: usize) {
        if let Some(text) = text {
            self.text(field, text, 0, most);
        }
    }

    /// Tags given by a caller. `system` allows names beginning `_ns_`, which do not count.
    pub(super) fn tags(&mut self, field: &str, tags: &BTreeMap<String, String>, system: bool) {
        let own = tags.keys().filter(|name| !name.starts_with(SYSTEM_TAG_PREFIX)).count();
        self.require(own <= MAX_TAGS, field, format!("must have at most {MAX_TAGS} tags; it has {own}"));
        let ours = tags.len() - own;
        let rule =
            format!("must have at most {MAX_SYSTEM_TAGS} tags beginning {SYSTEM_TAG_PREFIX}; it has {ours}");
        self.require(ours <= MAX_SYSTEM_TAGS, field, rule);
        for (name, value) in tags {
            if !is_tag_name(name, system) {
                self.add(&[field.into(), name.as_str().into()], TAG_NAME_RULE);
            }
            if value.chars().count() > MAX_TAG_VALUE || value.contains('\0') {
                let rule = format!("must be text of at most {MAX_TAG_VALUE} characters");
                self.add(&[field.into(), name.as_str().into()], rule);
            }
        }
    }

    /// A list of tag names.
    pub(super) fn tag_names(&mut self, field: &str, names: &[String]) {
        self.require(names.len() <= MAX_TAGS, field, format!("must have at most {MAX_TAGS} names"));
        for (index, name) in names.iter().enumerate() {
            if !is_tag_name(name, false) {
                self.add(&[field.into(), index.into()], TAG_NAME_RULE);
            }
        }
    }

    /// Whether nothing was found.
    ///
    /// # Errors
    /// All problems at once.
    pub(super) fn finish(self) -> Result<(), AppError> {
        if self.issues.is_empty() { Ok(()) } else { Err(AppError::validation(self.issues)) }
    }
}

const TAG_NAME_RULE: &str = "must be named with 1 to 64 of A-Z a-z 0-9 _ - and not begin with _ns_";

pub(super) fn is_tag_name(name: &str, system: bool) -> bool {
    (1..=MAX_TAG_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
        && (system || !name.starts_with(SYSTEM_TAG_PREFIX))
}

/// `key=value` of a tag budget (contract §1.1: at most 321 characters).
pub(super) fn is_tag_pair(pair: &str) -> bool {
    pair.split_once('=').is_some_and(|(name, value)| {
        is_tag_name(name, false) && value.chars().count() <= MAX_TAG_VALUE && !value.contains('\0')
    })
}

/// A customer id (contract §1.1).
pub(super) fn is_customer(id: &str) -> bool {
    (1..=256).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
}

/// A trace id: 32 lower-case hex digits.
pub(super) fn is_trace(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A page size: `given` within 1 and 100, or `default`.
pub(super) fn page_size(given: Option<i32>, default: i64) -> Result<i64, AppError> {
    let Some(limit) = given else { return Ok(default) };
    let mut checks = Checks::default();
    checks.require((1..=100).contains(&limit), "limit", "must be a whole number from 1 to 100");
    checks.finish()?;
    Ok(i64::from(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_told_with_its_place() {
        let mut checks = Checks::default();
        checks.enter("events", 2);
        checks.text("model", "", 1, 200);
        checks.tags("tags", &BTreeMap::from([("b d".to_owned(), "x".to_owned())]), true);
        let error = checks.finish().unwrap_err();
        let fields: Vec<String> = error.issues.iter().map(Issue::field).collect();
        assert_eq!(fields, ["events[2].model", "events[2].tags.b d"]);
        assert_eq!(error.code, "validation_error");
    }

    #[test]
    fn names_follow_the_contract() {
        for (name, system, good) in [
            ("team", false, true),
            ("a-b_C9", false, true),
            ("", false, false),
            ("a b", false, false),
            ("_ns_error", false, false),
            ("_ns_error", true, true),
        ] {
            assert_eq!(is_tag_name(name, system), good, "{name}");
        }
        assert!(
            is_tag_pair("team=a=b") && !is_tag_pair("team") && !is_tag_pair("=a") && !is_tag_pair("_ns_x=1")
        );
        assert!(is_customer("acme:eu-1.2_x") && !is_customer("") && !is_customer("a b"));
        assert!(is_trace(&"0a".repeat(16)) && !is_trace(&"0A".repeat(16)));
    }
}
