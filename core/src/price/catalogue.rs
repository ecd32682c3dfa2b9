//! One layer of prices: the catalogue, or an operator's rows.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use super::{Lookup, Match, Priced, Prices, file, model::Model, rates::Class, resolve};

/// A catalogue file that is refused.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// Not JSON, or not of the catalogue's shape: an unknown field, a rate that is negative or not whole.
    #[error("the price catalogue is not of the expected shape")]
    Shape(#[source] serde_json::Error),
    /// Another schema or unit.
    #[error(
        "the price catalogue says schema `{schema}` and unit `{unit}`; expected `nullspend.prices/1` and `pico_usd`"
    )]
    Schema {
        /// What it says.
        schema: String,
        /// What it says.
        unit: String,
    },
    /// One model's entry is wrong.
    #[error("price catalogue, {model}: {what}")]
    Model {
        /// Provider and id.
        model: String,
        /// What to change.
        what: String,
    },
}

/// All prices of one layer; immutable.
#[derive(Debug, Default)]
pub struct Catalogue {
    pub(super) version: String,
    pub(super) forced: bool,
    /// Entries of one (provider, id) each: one model in a catalogue, one for each row of an operator's.
    pub(super) models: Vec<Vec<Arc<Model>>>,
    /// Provider → id or alias → index of its entry.
    pub(super) names: HashMap<String, HashMap<String, usize>>,
    /// (provider, pattern, index of its entry).
    pub(super) patterns: Vec<(String, String, usize)>,
}

static SHIPPED: LazyLock<Arc<Catalogue>> = LazyLock::new(|| {
    // A test parses this very text, so the empty catalogue (everything unpriced, all refused) is never what ships.
    Arc::new(Catalogue::parse(include_str!("../../catalogue/prices.json")).unwrap_or_default())
});

/// A rate that another catalogue has differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `provider/id`.
    pub model: String,
    /// The class.
    pub class: Class,
    /// Standard rate before, in pico-dollars per token.
    pub before: u64,
    /// Standard rate now.
    pub after: u64,
}

impl Change {
    /// By more than a factor of three either way: more often a slip than a price.
    #[must_use]
    pub fn is_alarming(&self) -> bool {
        let (low, high) = (self.before.min(self.after), self.before.max(self.after));
        high > low.saturating_mul(3)
    }
}

impl Catalogue {
    /// The catalogue that comes with the program.
    #[must_use]
    pub fn shipped() -> Arc<Self> {
        Arc::clone(&SHIPPED)
    }

    /// The text of [`Self::shipped`].
    #[must_use]
    pub fn shipped_text() -> &'static str {
        include_str!("../../catalogue/prices.json")
    }

    /// Reads and checks a catalogue file.
    ///
    /// # Errors
    /// [`CatalogueError`] names the entry and what to change.
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        let parsed = file::parse(text)?;
        Ok(Self {
            version: parsed.version,
            forced: parsed.forced,
            models: parsed.models.into_iter().map(|model| vec![Arc::new(model)]).collect(),
            names: parsed.names,
            patterns: parsed.patterns,
        })
    }

    /// Its version, stored with every event it priced.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Its author says that large changes are meant.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.forced
    }

    /// Every model, priced or not.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.models.iter().flatten().map(Arc::as_ref)
    }

    /// Every model of a provider that has a price at `at_ms`.
    pub fn priced_at(self: &Arc<Self>, provider: &str, at_ms: i64) -> impl Iterator<Item = Priced> {
        Prices::from(Arc::clone(self)).priced_at(None, provider, at_ms).into_iter()
    }

    /// The price of `model` in this catalogue alone; [`Prices::lookup`] says how names resolve.
    #[must_use]
    pub fn lookup(self: &Arc<Self>, provider: &str, model: &str, at_ms: i64) -> Lookup {
        Prices::from(Arc::clone(self)).lookup(None, provider, model, at_ms)
    }

    /// The standard rates at `at_ms` that `before` had and this has otherwise.
    #[must_use]
    pub fn changes_from(&self, before: &Self, at_ms: i64) -> Vec<Change> {
        let rates = |catalogue: &Self, model: &Model| {
            let (entry, _) = catalogue.find(model.provider(), model.id())?;
            let (_, period) = catalogue.at(entry, at_ms)?;
            Some(period.standard().rates)
        };
        let mut changes = Vec::new();
        for model in self.models() {
            let (Some(old), Some(new)) = (rates(before, model), rates(self, model)) else { continue };
            for (class, after) in new.iter() {
                let before = old.own(class).unwrap_or(after);
                if before != after {
                    changes.push(Change { model: model.name().to_owned(), class, before, after });
                }
            }
        }
        changes
    }

    /// The entry that a name is listed for here.
    pub(super) fn find(&self, provider: &str, name: &str) -> Option<(usize, Match)> {
        if let Some(index) = self.names.get(provider).and_then(|names| names.get(name)) {
            return Some((*index, Match::Exact));
        }
        let fitting = |(owner, pattern, _): &&(String, String, usize)| {
            owner == provider && resolve::fits(pattern, name)
        };
        self.patterns.iter().find(fitting).map(|(_, _, index)| (*index, Match::Pattern))
    }

    /// The entry of the base model of a dated snapshot.
    pub(super) fn find_undated(&self, provider: &str, name: &str) -> Option<(usize, Match)> {
        let index = self.names.get(provider)?.get(resolve::undated(name)?)?;
        Some((*index, Match::Snapshot))
    }

    /// The model of an entry that has a price at an instant, and that price's place among its own.
    pub(super) fn at(&self, entry: usize, at_ms: i64) -> Option<(&Arc<Model>, &super::model::Period)> {
        self.models.get(entry)?.iter().find_map(|model| {
            let period = model.periods.iter().find(|period| period.holds(at_ms))?;
            Some((model, period))
        })
    }
}
