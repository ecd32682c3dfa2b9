//! Path templates of `google.api.http`: plain segments and `{field}` segments, nothing more.

/// One segment of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// This text.
    Literal(String),
    /// Any one segment, bound to the request field of this name.
    Field(String),
}

/// A path with places for request fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The segments between slashes.
    pub segments: Vec<Segment>,
}

impl Template {
    /// Reads `/api/budgets/{id}`.
    ///
    /// # Errors
    /// A sentence naming the part that is not supported.
    pub fn parse(path: &str) -> Result<Self, String> {
        let rest =
            path.strip_prefix('/').ok_or_else(|| format!("the path `{path}` must begin with a slash"))?;
        let mut segments = Vec::new();
        for text in rest.split('/') {
            let field = text.strip_prefix('{').and_then(|inner| inner.strip_suffix('}'));
            segments.push(match field {
                Some(name)
                    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') =>
                {
                    Segment::Field(name.to_owned())
                }
                None if !text.is_empty() && !text.contains(['{', '}', '*', ':']) => {
                    Segment::Literal(text.to_owned())
                }
                _ => {
                    return Err(format!(
                        "the path segment `{text}` is not supported: use plain text or {{field}}"
                    ));
                }
            });
        }
        Ok(Self { segments })
    }

    /// Names of the request fields in the path.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Field(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// The values of the path's fields when these segments (still percent-encoded) match.
    #[must_use]
    pub fn matches<'a>(&'a self, path: &[&'a str]) -> Option<Vec<(&'a str, &'a str)>> {
        if path.len() != self.segments.len() {
            return None;
        }
        let mut values = Vec::new();
        for (segment, text) in self.segments.iter().zip(path) {
            match segment {
                Segment::Literal(literal) if literal == text => {}
                Segment::Field(name) if !text.is_empty() => values.push((name.as_str(), *text)),
                _ => return None,
            }
        }
        Some(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_match_whole_paths() {
        let template = Template::parse("/api/budgets/{id}").unwrap();
        assert_eq!(template.matches(&["api", "budgets", "b1"]), Some(vec![("id", "b1")]));
        assert_eq!(template.matches(&["api", "budgets", ""]), None);
        assert_eq!(template.matches(&["api", "budgets"]), None);
        assert_eq!(template.matches(&["api", "keys", "b1"]), None);
    }

    #[test]
    fn unsupported_templates_are_refused() {
        for path in ["api", "/a/{name=x/*}", "/a/{id}:verb", "/a//b", "/a/*", "/"] {
            assert!(Template::parse(path).is_err(), "{path}");
        }
    }
}
