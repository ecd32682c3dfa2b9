//! The layers of prices: an organisation's own rows over everybody's, over the catalogue.

use std::{collections::HashMap, fmt, sync::Arc};

use super::{Catalogue, Match, PriceRow, Priced, RowError, resolve, row};
use crate::id::OrgId;

/// The answer to a look-up: never a number that could hide a zero (design law 4).
#[derive(Clone, Debug)]
pub enum Lookup {
    /// The model has a price at that instant.
    Priced(Priced),
    /// It has none, or is unknown.
    Unpriced,
}

/// Where a price comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layer {
    /// Rows of the organisation.
    Organisation,
    /// Rows for every organisation.
    Global,
    /// The catalogue.
    Catalogue,
}

impl Layer {
    /// The word in explanations.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Organisation => "organization",
            Self::Global => "global",
            Self::Catalogue => "catalogue",
        }
    }

    /// The layer of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Organisation, Self::Global, Self::Catalogue].into_iter().find(|layer| layer.as_str() == word)
    }
}

/// Why a price row answers a look-up, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the answer.
    Answers,
    /// It holds at another time.
    OtherTime,
    /// Another one above it answers.
    Hidden,
}

impl Verdict {
    /// The word in explanations.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answers => "answers",
            Self::OtherTime => "other_time",
            Self::Hidden => "hidden",
        }
    }
}

/// A row that a look-up came by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The row.
    pub price_id: String,
    /// Its version.
    pub version: String,
    /// Where it is.
    pub layer: Layer,
    /// How the name led to it.
    pub matched: Match,
    /// Since and until when it holds, in Unix milliseconds.
    pub span_ms: (Option<i64>, Option<i64>),
    /// Whether it answers.
    pub verdict: Verdict,
}

/// A look-up with everything it came by, in the order it was looked at.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The answer.
    pub answer: Option<Priced>,
    /// What was looked at.
    pub candidates: Vec<Candidate>,
}

/// All prices in force; cheap to clone.
#[derive(Clone)]
pub struct Prices(Arc<Layers>);

struct Layers {
    catalogue: Arc<Catalogue>,
    global: Catalogue,
    orgs: HashMap<OrgId, Catalogue>,
}

impl fmt::Debug for Prices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prices")
            .field("catalogue", &self.0.catalogue.version())
            .field("global", &self.0.global.models.len())
            .field("organisations", &self.0.orgs.len())
            .finish()
    }
}

impl Default for Prices {
    /// The shipped catalogue alone.
    fn default() -> Self {
        Self::from(Catalogue::shipped())
    }
}

impl From<Arc<Catalogue>> for Prices {
    fn from(catalogue: Arc<Catalogue>) -> Self {
        Self(Arc::new(Layers { catalogue, global: Catalogue::default(), orgs: HashMap::new() }))
    }
}

impl Prices {
    /// Lays rows over a catalogue.
    ///
    /// # Errors
    /// [`RowError`] names two rows that say different things of one model at one time, or claim one name.
    pub fn new(catalogue: Arc<Catalogue>, rows: &[PriceRow]) -> Result<Self, RowError> {
        let mut scopes: HashMap<Option<OrgId>, Vec<&PriceRow>> = HashMap::new();
        for row in rows {
            scopes.entry(row.org).or_default().push(row);
        }
        let global = row::layer(scopes.remove(&None).unwrap_or_default(), &[&catalogue])?;
        let mut orgs = HashMap::with_capacity(scopes.len());
        for (org, rows) in scopes {
            if let Some(org) = org {
                orgs.insert(org, row::layer(rows, &[&global, &catalogue])?);
            }
        }
        Ok(Self(Arc::new(Layers { catalogue, global, orgs })))
    }

    /// The lowest layer.
    #[must_use]
    pub fn catalogue(&self) -> &Arc<Catalogue> {
        &self.0.catalogue
    }

    /// From the top.
    pub(super) fn layers(
        &self,
        org: Option<OrgId>,
    ) -> impl DoubleEndedIterator<Item = (Layer, &Catalogue)> + Clone {
        let own = org.and_then(|org| self.0.orgs.get(&org));
        let layers = [
            own.map(|own| (Layer::Organisation, own)),
            Some((Layer::Global, &self.0.global)),
            Some((Layer::Catalogue, self.0.catalogue.as_ref())),
        ];
        layers.into_iter().flatten()
    }

    /// The price of `model` for an organisation at the instant a request started.
    ///
    /// The name is resolved first, in each layer from the top: ids and aliases, then anchored patterns, then a dated
    /// snapshot that nothing lists at its base model (design §9); at last a fine-tune at its base. A leading `provider/` is
    /// tolerated. Then the topmost layer that has a price of that model at that time answers, so that a row for
    /// `gpt-4o` also prices `gpt-4o-2024-08-06`.
    #[must_use]
    pub fn lookup(&self, org: Option<OrgId>, provider: &str, model: &str, at_ms: i64) -> Lookup {
        self.search(org, provider, model, at_ms, None).map_or(Lookup::Unpriced, Lookup::Priced)
    }

    /// The same look-up, with what it came by.
    #[must_use]
    pub fn explain(&self, org: Option<OrgId>, provider: &str, model: &str, at_ms: i64) -> Explanation {
        let mut candidates: Vec<Candidate> = Vec::new();
        let answer = self.search(org, provider, model, at_ms, Some(&mut candidates));
        let mut answered = false;
        for candidate in &mut candidates {
            if candidate.verdict == Verdict::Answers {
                candidate.verdict = if answered { Verdict::Hidden } else { Verdict::Answers };
                answered = true;
            }
        }
        Explanation { answer, candidates }
    }

    /// Every model of a provider that has a price for an organisation at `at_ms`.
    #[must_use]
    pub fn priced_at(&self, org: Option<OrgId>, provider: &str, at_ms: i64) -> Vec<Priced> {
        let mut ids: Vec<&str> = Vec::new();
        for (_, layer) in self.layers(org) {
            for model in layer.models().filter(|model| model.provider() == provider) {
                if !ids.contains(&model.id()) {
                    ids.push(model.id());
                }
            }
        }
        let priced = |id| match self.lookup(org, provider, id, at_ms) {
            Lookup::Priced(priced) => Some(priced),
            Lookup::Unpriced => None,
        };
        ids.into_iter().filter_map(priced).collect()
    }

    /// Providers that any layer of an organisation names.
    pub fn providers(&self, org: Option<OrgId>) -> impl Iterator<Item = &str> {
        self.layers(org).flat_map(|(_, layer)| layer.models().map(super::Model::provider))
    }

    fn search(
        &self,
        org: Option<OrgId>,
        provider: &str,
        model: &str,
        at_ms: i64,
        mut seen: Option<&mut Vec<Candidate>>,
    ) -> Option<Priced> {
        let bare = model.strip_prefix(provider).and_then(|rest| rest.strip_prefix('/')).unwrap_or(model);
        if let Some(priced) = self.search_name(org, provider, bare, at_ms, seen.as_deref_mut()) {
            return Some(priced);
        }
        let base = resolve::fine_tuned(bare)?;
        let priced = self.search_name(org, provider, base, at_ms, seen)?;
        Some(Priced { matched: Match::FineTune, ..priced })
    }

    fn search_name(
        &self,
        org: Option<OrgId>,
        provider: &str,
        name: &str,
        at_ms: i64,
        mut seen: Option<&mut Vec<Candidate>>,
    ) -> Option<Priced> {
        // What any layer lists comes before what only looks like a snapshot.
        for find in [Catalogue::find, Catalogue::find_undated] {
            for (_, names) in self.layers(org) {
                let Some((entry, matched)) = find(names, provider, name) else { continue };
                let Some(model) = names.models.get(entry).and_then(|of| of.first()) else { continue };
                let model = (provider, model.id());
                let found = self.search_model(org, model, matched, at_ms, seen.as_deref_mut());
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }

    /// The topmost price of a model.
    fn search_model(
        &self,
        org: Option<OrgId>,
        (provider, id): (&str, &str),
        matched: Match,
        at_ms: i64,
        mut seen: Option<&mut Vec<Candidate>>,
    ) -> Option<Priced> {
        let mut found = None;
        for (layer, prices) in self.layers(org) {
            let Some((entry, _)) = prices.find(provider, id).filter(|(_, how)| *how == Match::Exact) else {
                continue;
            };
            if found.is_none() {
                found = self.priced(org, (layer, prices), entry, at_ms, matched);
            }
            match &mut seen {
                Some(seen) => self.look_at(prices, entry, (layer, matched), at_ms, seen),
                None if found.is_some() => break,
                None => {}
            }
        }
        found
    }

    fn priced(
        &self,
        org: Option<OrgId>,
        (place, layer): (Layer, &Catalogue),
        entry: usize,
        at_ms: i64,
        matched: Match,
    ) -> Option<Priced> {
        let (model, _) = layer.at(entry, at_ms)?;
        let period = model.periods.iter().position(|period| period.holds(at_ms))?;
        let (prices, model) = (self.clone(), Arc::clone(model));
        Some(Priced { prices, org, model, period, at_ms, layer: place, matched })
    }

    fn look_at(
        &self,
        layer: &Catalogue,
        entry: usize,
        (place, matched): (Layer, Match),
        at_ms: i64,
        seen: &mut Vec<Candidate>,
    ) {
        for model in layer.models.get(entry).into_iter().flatten() {
            for period in &model.periods {
                let candidate = Candidate {
                    price_id: model.name().to_owned(),
                    version: model
                        .row_version
                        .clone()
                        .unwrap_or_else(|| self.0.catalogue.version().to_owned()),
                    layer: place,
                    matched,
                    span_ms: (period.from_ms, period.until_ms),
                    verdict: if period.holds(at_ms) { Verdict::Answers } else { Verdict::OtherTime },
                };
                let known = |known: &Candidate| {
                    known.price_id == candidate.price_id && known.span_ms == candidate.span_ms
                };
                if !seen.iter().any(known) {
                    seen.push(candidate);
                }
            }
        }
    }
}
