//! Where requests may be forwarded to: a configured table and nothing else (contract §2.4, design §9).

use crate::{attempt::Api, usage::Vendor};

/// Which provider family an upstream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI's paths: `/v1/chat/completions`, `/v1/responses`.
    OpenAi,
    /// Anthropic's path: `/v1/messages`.
    Anthropic,
}

/// One row of the upstream table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The row's name, which is also its Envoy cluster.
    pub name: String,
    /// Base URL without trailing slash or `/v1`, lower case, e.g. `https://api.groq.com/openai`.
    pub base_url: String,
    /// `host` or `host:port`, the `:authority` the provider sees.
    pub authority: String,
    /// Path before `/v1`, e.g. `/openai`; empty for most.
    pub path_prefix: String,
    /// Which paths it serves.
    pub dialect: Dialect,
    /// Provider id for prices, mandates and events.
    pub provider: String,
    /// Who answers: how usage is read, and whose own price is believed. Not whose prices apply.
    pub vendor: Vendor,
    /// Whether chat streams get `stream_options.include_usage` when the client did not ask.
    pub inject_usage: bool,
    /// Whether calls that name no `service_tier` may be served, and billed, at priority: a setting of the provider's
    /// project, which no request shows.
    pub assume_priority: bool,
}

/// A base URL that cannot be an upstream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBaseUrl {
    /// Neither `http://` nor `https://`.
    #[error("must begin with https:// (or http://)")]
    Scheme,
    /// No host.
    #[error("must name a host")]
    Host,
    /// User, query or fragment.
    #[error("must not contain user information, a query or a fragment")]
    Parts,
}

impl Upstream {
    /// Builds a row from its base URL; a trailing `/v1` and slashes are tolerated.
    ///
    /// # Errors
    /// The URL has no http(s) scheme or host, or has parts that an upstream cannot have.
    pub fn parse(
        name: &str,
        base_url: &str,
        dialect: Dialect,
        provider: &str,
        inject_usage: bool,
    ) -> Result<Self, InvalidBaseUrl> {
        let (base_url, written) = (normalise(base_url), trimmed(base_url));
        let rest = base_url
            .strip_prefix("https://")
            .or_else(|| base_url.strip_prefix("http://"))
            .ok_or(InvalidBaseUrl::Scheme)?;
        if rest.contains(['@', '?', '#', '\\', ' ']) {
            return Err(InvalidBaseUrl::Parts);
        }
        let (authority, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
        if authority.is_empty() || authority.starts_with(':') {
            return Err(InvalidBaseUrl::Host);
        }
        // Only the comparison ignores case: the path is sent as the operator wrote it.
        let path_prefix = if path.is_empty() {
            String::new()
        } else {
            format!("/{}", &written[written.len() - path.len()..])
        };
        Ok(Self {
            name: name.to_owned(),
            authority: authority.to_owned(),
            path_prefix,
            dialect,
            provider: provider.to_owned(),
            vendor: Vendor::from(provider),
            inject_usage,
            assume_priority: false,
            base_url,
        })
    }

    /// The same row, answered by another vendor than its provider.
    #[must_use]
    pub fn answered_by(mut self, vendor: Vendor) -> Self {
        self.vendor = vendor;
        self
    }

    /// The same row, where the provider's project serves calls at priority by default.
    #[must_use]
    pub fn assuming_priority(mut self, assume: bool) -> Self {
        self.assume_priority = assume;
        self
    }

    /// A regional host of OpenAI's (`eu.api.openai.com`), which bills some models at an uplift.
    #[must_use]
    pub fn is_regional_openai(&self) -> bool {
        self.authority.split(':').next().is_some_and(|host| host.ends_with(".api.openai.com"))
    }

    /// The path the provider sees.
    #[must_use]
    pub fn path(&self, api: Api) -> String {
        let tail = match api {
            Api::OpenAiChat => "/v1/chat/completions",
            Api::OpenAiResponses => "/v1/responses",
            Api::AnthropicMessages => "/v1/messages",
        };
        format!("{}{tail}", self.path_prefix)
    }
}

/// Lower case without trailing slashes and without a trailing `/v1`.
fn normalise(base_url: &str) -> String {
    trimmed(base_url).to_ascii_lowercase()
}

fn trimmed(base_url: &str) -> &str {
    let url = base_url.trim().trim_end_matches('/');
    let without_version = url.strip_suffix("/v1").or_else(|| url.strip_suffix("/V1")).unwrap_or(url);
    without_version.trim_end_matches('/')
}

/// The whole table.
#[derive(Clone, Debug, Default)]
pub struct Upstreams(pub Vec<Upstream>);

impl Upstreams {
    /// The upstream of a request: the one its `X-NullSpend-Upstream` names, else the first of the API's dialect.
    /// Anthropic's route ignores the header (contract §2.1).
    ///
    /// # Errors
    /// The header names none of the table; the allowed base URLs are returned.
    pub fn choose(&self, api: Api, asked: Option<&str>) -> Result<&Upstream, Vec<String>> {
        let dialect = match api {
            Api::OpenAiChat | Api::OpenAiResponses => Dialect::OpenAi,
            Api::AnthropicMessages => Dialect::Anthropic,
        };
        let mut rows = self.0.iter().filter(|row| row.dialect == dialect);
        let allowed =
            || self.0.iter().filter(|row| row.dialect == dialect).map(|row| row.base_url.clone()).collect();
        match asked.filter(|_| dialect == Dialect::OpenAi) {
            None => rows.next().ok_or_else(allowed),
            Some(url) => {
                let url = normalise(url);
                rows.find(|row| row.base_url == url).ok_or_else(allowed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Upstreams {
        let row = |name, url, dialect| Upstream::parse(name, url, dialect, name, true).unwrap();
        Upstreams(vec![
            row("openai", "https://api.openai.com/v1/", Dialect::OpenAi),
            row("groq", "https://api.groq.com/OpenAI", Dialect::OpenAi),
            row("anthropic", "http://127.0.0.1:9/v1", Dialect::Anthropic),
        ])
    }

    #[test]
    fn the_header_chooses_by_exact_normalised_base_url() {
        let table = table();
        let name = |api, asked| {
            table.choose(api, asked).map(|row| row.name.as_str()).map_err(|allowed| allowed.len())
        };
        assert_eq!(name(Api::OpenAiChat, None), Ok("openai"));
        assert_eq!(name(Api::OpenAiChat, Some("https://API.groq.com/openai/")), Ok("groq"));
        assert_eq!(name(Api::OpenAiChat, Some("https://api.groq.com/openai/v1")), Ok("groq"));
        assert_eq!(name(Api::OpenAiChat, Some("https://api.groq.com")), Err(2));
        assert_eq!(name(Api::OpenAiChat, Some("http://169.254.169.254")), Err(2));
        assert_eq!(name(Api::OpenAiChat, Some("http://127.0.0.1:9")), Err(2));
        assert_eq!(name(Api::AnthropicMessages, Some("https://evil.test")), Ok("anthropic"));
    }

    #[test]
    fn paths_keep_the_prefix_of_the_base_url() {
        let table = table();
        assert_eq!(table.0[0].path(Api::OpenAiChat), "/v1/chat/completions");
        assert_eq!(table.0[1].path(Api::OpenAiChat), "/OpenAI/v1/chat/completions");
        assert_eq!(table.0[2].path(Api::AnthropicMessages), "/v1/messages");
        assert_eq!(table.0[2].authority, "127.0.0.1:9");
    }

    #[test]
    fn what_is_no_base_url_is_refused() {
        for (url, error) in [
            ("ftp://x", InvalidBaseUrl::Scheme),
            ("api.openai.com", InvalidBaseUrl::Scheme),
            ("https://", InvalidBaseUrl::Scheme),
            ("https://:80", InvalidBaseUrl::Host),
            ("https://user:pw@host", InvalidBaseUrl::Parts),
            ("https://host/x?y", InvalidBaseUrl::Parts),
            ("https://host/x#y", InvalidBaseUrl::Parts),
        ] {
            assert_eq!(Upstream::parse("x", url, Dialect::OpenAi, "x", false), Err(error), "{url}");
        }
    }
}
