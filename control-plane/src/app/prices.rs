//! Prices: operators' rows over the catalogue, and what a look-up finds.

use std::sync::Arc;

use nullspend_core::{
    id::{OrgId, PriceId},
    money::{MAX_EVENT, Nanos},
    policy::Role,
    price::{
        Catalogue, CatalogueError, Change, Explanation, Lookup, PriceRow, Priced, Prices, RowError, Terms,
    },
};

use super::{
    App, AppError, Caller, Page,
    check::{Checks, page_size},
};
use crate::store::{Cursor, PriceRecord, StoredCatalogue};

/// Rows of one organisation, or of everybody; more are a mistake.
const MAX_ROWS: usize = 2_000;

/// Whose a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The caller's organisation's.
    Organisation,
    /// Everybody's.
    Global,
}

/// A price as asked for.
#[derive(Clone, Debug)]
pub struct NewPrice {
    /// Whose.
    pub scope: Scope,
    /// Since when; `None`: now.
    pub from_ms: Option<i64>,
    /// Until when; `None`: until it is ended.
    pub until_ms: Option<i64>,
    /// What it says.
    pub terms: Terms,
    /// Why.
    pub reason: String,
}

/// Where prices come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PriceSource {
    /// Rows of operators.
    #[default]
    Operator,
    /// The catalogue.
    Catalogue,
    /// Both.
    All,
}

/// A price in a list.
#[derive(Clone, Debug)]
pub enum ListedPrice {
    /// An operator's row.
    Row(Box<PriceRecord>),
    /// What the catalogue has of a model now.
    Catalogue(Priced),
}

impl ListedPrice {
    /// Newest first; what the catalogue has counts as older than every row.
    fn place(&self) -> Cursor {
        match self {
            Self::Row(record) => Cursor { at_ms: record.created_at_ms, id: record.row.id.bare() },
            Self::Catalogue(priced) => Cursor { at_ms: 0, id: priced.id().to_owned() },
        }
    }
}

/// Which prices to list. All given conditions hold at once.
#[derive(Clone, Debug, Default)]
pub struct PriceFilter {
    /// Where from.
    pub source: PriceSource,
    /// Equal provider.
    pub provider: Option<String>,
    /// Equal model.
    pub model: Option<String>,
    /// Equal scope.
    pub scope: Option<Scope>,
}

/// A catalogue that is not put in force.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It is not valid.
    #[error(transparent)]
    Invalid(#[from] CatalogueError),
    /// It says the version of the one in force and other prices.
    #[error(
        "the price catalogue has changed and still says version {0}; raise `version`, which events refer to"
    )]
    SameVersion(String),
    /// A rate moved further than prices do.
    #[error(
        "{model} would have {class} at {after} instead of {before} pico-dollars per token, more than three times the other; \
         if that is meant, write \"force\": true into the catalogue"
    )]
    Alarming {
        /// The model.
        model: String,
        /// The token class.
        class: &'static str,
        /// Before.
        before: u64,
        /// After.
        after: u64,
    },
    /// Operators' rows do not go with it.
    #[error("a price row does not go with the catalogue: {0}")]
    Rows(#[from] RowError),
    /// The database does not answer.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

impl App {
    /// The prices in force.
    pub(super) async fn prices(&self) -> Result<Prices, AppError> {
        Ok(self.policy().await?.prices().clone())
    }

    /// The prices as the database has them.
    pub(super) async fn read_prices(&self) -> Result<Prices, AppError> {
        let rows: Vec<PriceRow> = self.store.prices().await?.into_iter().map(|record| record.row).collect();
        let catalogue =
            match self.store.catalogue_since(0).await? {
                None => Catalogue::shipped(),
                Some(stored) if stored.text == Catalogue::shipped_text() => Catalogue::shipped(),
                Some(stored) => Arc::new(Catalogue::parse(&stored.text).map_err(|error| {
                    AppError::internal("The stored price catalogue cannot be read", error)
                })?),
            };
        Prices::new(catalogue, &rows)
            .map_err(|error| AppError::internal("The stored prices contradict each other", error))
    }

    /// Puts a catalogue file in force; the text of the program's own where there is no file. False when it already is.
    ///
    /// # Errors
    /// [`Unusable`] says what to change; the one in force stays.
    pub async fn put_catalogue(&self, text: &str) -> Result<bool, Unusable> {
        let stored = self.store.catalogue_since(0).await?;
        let current = stored.as_ref().map_or(Catalogue::shipped_text(), |stored| stored.text.as_str());
        if current == text {
            return Ok(false);
        }
        let next = Catalogue::parse(text)?;
        // The program's own was checked before it shipped, and an operator must be able to go back to it. What is in
        // force was read once and can be read again; should it not, nothing can be compared with it.
        if text != Catalogue::shipped_text()
            && let Ok(before) = Catalogue::parse(current)
        {
            self.check_change(&before, &next)?;
        }
        let rows: Vec<PriceRow> = self.store.prices().await?.into_iter().map(|record| record.row).collect();
        let version = next.version().to_owned();
        Prices::new(Arc::new(next), &rows)?;
        let catalogue = StoredCatalogue { version, text: text.to_owned() };
        let revision = self.store.put_catalogue(&catalogue, self.clock.now_ms()).await?;
        if let Some(revision) = revision {
            self.policy_changed(revision).await;
        }
        Ok(revision.is_some())
    }

    fn check_change(&self, before: &Catalogue, next: &Catalogue) -> Result<(), Unusable> {
        if before.version() == next.version() {
            return Err(Unusable::SameVersion(next.version().to_owned()));
        }
        let changes = next.changes_from(before, self.clock.now_ms());
        match changes.into_iter().find(Change::is_alarming).filter(|_| !next.is_forced()) {
            None => Ok(()),
            Some(Change { model, class, before, after }) => {
                Err(Unusable::Alarming { model, class: class.as_str(), before, after })
            }
        }
    }

    /// Adds a price row.
    ///
    /// # Errors
    /// `validation_error`, `forbidden`, `conflict` when another row says otherwise, `limit_exceeded`.
    pub async fn create_price(&self, caller: &Caller, new: NewPrice) -> Result<PriceRecord, AppError> {
        let org = self.writable(caller, new.scope).await?;
        let now_ms = self.clock.now_ms();
        let from_ms = new.from_ms.unwrap_or(now_ms);
        let mut checks = Checks::default();
        checks.text("reason", &new.reason, 0, 500);
        let ordered = new.until_ms.is_none_or(|until| until > from_ms);
        checks.require(ordered, "effectiveUntil", "must be after effectiveFrom");
        if let Err(error) = new.terms.check() {
            checks.field("tiers", error.what);
        }
        checks.finish()?;
        let id = PriceId(self.ids.v4());
        let row = PriceRow { id, version: 1, org, from_ms, until_ms: new.until_ms, terms: new.terms };
        let by = caller.by();
        let record = PriceRecord {
            row,
            reason: new.reason,
            created_by: by.clone(),
            created_at_ms: now_ms,
            updated_at_ms: now_ms,
        };
        self.change_prices(&by, move |rows, catalogue| {
            if rows.iter().filter(|known| known.row.org == record.row.org).count() >= MAX_ROWS {
                let message =
                    format!("There are {MAX_ROWS} prices already; withdraw some that have not begun");
                return Err(AppError::new(super::Kind::Conflict, "limit_exceeded", message));
            }
            with(rows, catalogue, record)
        })
        .await
    }

    /// Ends a price row, also in the past: ended where it began it never held, which is how a price that was wrong from
    /// its start makes place for the right one. Events keep what priced them.
    ///
    /// # Errors
    /// `not_found`, `forbidden`, `validation_error`, `conflict` when it has ended before.
    pub async fn end_price(
        &self,
        caller: &Caller,
        id: PriceId,
        until_ms: Option<i64>,
    ) -> Result<PriceRecord, AppError> {
        let record = self.writable_row(caller, id).await?;
        let until_ms = until_ms.unwrap_or_else(|| self.clock.now_ms());
        let mut checks = Checks::default();
        let rule = "must not be before effectiveFrom; DELETE withdraws a price that has not begun";
        checks.require(until_ms >= record.row.from_ms, "effectiveUntil", rule);
        checks.finish()?;
        self.change_end(caller, id, until_ms).await
    }

    /// Withdraws a price row that has not begun.
    ///
    /// # Errors
    /// `not_found`, `forbidden`, `conflict` when it has begun.
    pub async fn withdraw_price(&self, caller: &Caller, id: PriceId) -> Result<(), AppError> {
        let record = self.writable_row(caller, id).await?;
        if record.row.from_ms <= self.clock.now_ms() {
            let message = "This price is in force or was, and events refer to it; end it with POST /api/prices/{id}/end";
            return Err(AppError::conflict(message));
        }
        self.change_end(caller, id, record.row.from_ms).await.map(|_| ())
    }

    async fn change_end(&self, caller: &Caller, id: PriceId, until_ms: i64) -> Result<PriceRecord, AppError> {
        let now_ms = self.clock.now_ms();
        self.change_prices(&caller.by(), move |rows, catalogue| {
            let mut record = rows
                .iter()
                .find(|known| known.row.id == id)
                .cloned()
                .ok_or_else(|| AppError::not_found("Price"))?;
            if record.row.until_ms.is_some_and(|ended| ended <= now_ms) {
                return Err(AppError::conflict("This price has ended already"));
            }
            record.row.until_ms = Some(until_ms);
            record.row.version += 1;
            record.updated_at_ms = now_ms;
            with(rows, catalogue, record)
        })
        .await
    }

    /// Prices the caller's organisation can see, newest first, the catalogue's last. Rows that never held are left out.
    ///
    /// # Errors
    /// `validation_error`.
    pub async fn list_prices(
        &self,
        caller: &Caller,
        filter: &PriceFilter,
        limit: Option<i32>,
        cursor: Option<Cursor>,
    ) -> Result<Page<ListedPrice>, AppError> {
        let limit = page_size(limit, 50)?;
        let mut listed = Vec::new();
        if filter.source != PriceSource::Catalogue {
            let rows = self.visible(caller).await?.into_iter().filter(|record| filter.fits(&record.row));
            listed.extend(rows.map(|record| ListedPrice::Row(Box::new(record))));
        }
        if filter.source != PriceSource::Operator && filter.scope.is_none() {
            listed.extend(self.of_catalogue(filter).await?.into_iter().map(ListedPrice::Catalogue));
        }
        let after = |price: &ListedPrice| cursor.as_ref().is_none_or(|cursor| price.place() < *cursor);
        listed.retain(after);
        listed.sort_by_cached_key(|price| std::cmp::Reverse(price.place()));
        Ok(Page::cut(listed, limit, ListedPrice::place))
    }

    /// What the catalogue has of every model now.
    async fn of_catalogue(&self, filter: &PriceFilter) -> Result<Vec<Priced>, AppError> {
        let (prices, now_ms) = (self.prices().await?, self.clock.now_ms());
        let catalogue = prices.catalogue();
        let wanted = catalogue.models().filter(|model| filter.names(model.provider(), model.id()));
        let priced =
            wanted.filter_map(|model| match catalogue.lookup(model.provider(), model.id(), now_ms) {
                Lookup::Priced(priced) => Some(priced),
                Lookup::Unpriced => None,
            });
        Ok(priced.collect())
    }

    /// Every row the caller's organisation can see, also those that never held: events may name them.
    async fn visible(&self, caller: &Caller) -> Result<Vec<PriceRecord>, AppError> {
        caller.require(Role::Viewer)?;
        let mut records = self.store.prices().await?;
        records.retain(|record| record.row.org.is_none_or(|org| org == caller.org));
        Ok(records)
    }

    /// One row.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn price(&self, caller: &Caller, id: PriceId) -> Result<PriceRecord, AppError> {
        let mut records = self.visible(caller).await?.into_iter();
        records.find(|record| record.row.id == id).ok_or_else(|| AppError::not_found("Price"))
    }

    /// Which price a model has for the caller's organisation, and why.
    ///
    /// # Errors
    /// `validation_error`.
    pub async fn resolve_price(
        &self,
        caller: &Caller,
        (provider, model): (&str, &str),
        at_ms: Option<i64>,
    ) -> Result<Explanation, AppError> {
        caller.require(Role::Viewer)?;
        let mut checks = Checks::default();
        checks.text("provider", provider, 1, 256);
        checks.text("model", model, 1, 256);
        checks.finish()?;
        let at_ms = at_ms.unwrap_or_else(|| self.clock.now_ms());
        Ok(self.prices().await?.explain(Some(caller.org), provider, model, at_ms))
    }

    /// What is held for calls of models without a price; `None` refuses them.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unpriced_hold(&self, caller: &Caller) -> Result<Option<Nanos>, AppError> {
        caller.require(Role::Viewer)?;
        Ok(self.policy().await?.org(caller.org).unpriced_hold)
    }

    /// Sets what is held for calls of models without a price.
    ///
    /// # Errors
    /// `validation_error`, `forbidden`.
    pub async fn set_unpriced_hold(
        &self,
        caller: &Caller,
        microdollars: Option<i64>,
    ) -> Result<Option<Nanos>, AppError> {
        caller.require(Role::Admin)?;
        let most = MAX_EVENT.0 / 1000;
        let mut checks = Checks::default();
        let fits = microdollars.is_none_or(|amount| (1..=most).contains(&amount));
        checks.require(fits, "holdMicrodollars", format!("must be a whole number from 1 to {most}, or null"));
        checks.finish()?;
        let hold = microdollars.map(Nanos::from_microdollars);
        let revision = self.store.set_unpriced_hold(caller.org, hold.map(|hold| hold.0)).await?;
        self.policy_changed(revision).await;
        Ok(hold)
    }

    async fn change_prices(
        &self,
        by: &str,
        decide: impl FnOnce(Vec<PriceRecord>, Arc<Catalogue>) -> Result<PriceRecord, AppError> + Send,
    ) -> Result<PriceRecord, AppError> {
        let catalogue = Arc::clone(self.prices().await?.catalogue());
        let (record, revision) = self.store.change_prices(by, move |rows| decide(rows, catalogue)).await?;
        self.policy_changed(revision).await;
        Ok(record)
    }

    /// The organisation of a new row, `None` for everybody's, if the caller may write there.
    async fn writable(&self, caller: &Caller, scope: Scope) -> Result<Option<OrgId>, AppError> {
        caller.require(Role::Admin)?;
        if scope == Scope::Organisation {
            return Ok(Some(caller.org));
        }
        if caller.role == Role::Owner && self.store.operating_org().await? == Some(caller.org) {
            return Ok(None);
        }
        Err(AppError::forbidden(
            "Prices for every organisation are set by owners of the first organisation; set one for your own with \
             scope \"organization\"",
        ))
    }

    async fn writable_row(&self, caller: &Caller, id: PriceId) -> Result<PriceRecord, AppError> {
        let record = self.price(caller, id).await?;
        let scope = if record.row.org.is_some() { Scope::Organisation } else { Scope::Global };
        self.writable(caller, scope).await?;
        Ok(record)
    }
}

impl PriceFilter {
    fn names(&self, provider: &str, model: &str) -> bool {
        self.provider.as_deref().is_none_or(|wanted| wanted == provider)
            && self.model.as_deref().is_none_or(|wanted| wanted == model)
    }

    /// Whether a row is among those wanted, and ever held.
    fn fits(&self, row: &PriceRow) -> bool {
        let scope = if row.org.is_some() { Scope::Organisation } else { Scope::Global };
        row.until_ms.is_none_or(|until| until > row.from_ms)
            && self.scope.is_none_or(|wanted| wanted == scope)
            && self.names(&row.terms.provider, &row.terms.model)
    }
}

/// A record among the others, if all of them go together.
fn with(
    mut rows: Vec<PriceRecord>,
    catalogue: Arc<Catalogue>,
    record: PriceRecord,
) -> Result<PriceRecord, AppError> {
    rows.retain(|known| known.row.id != record.row.id);
    // Last, so that it is the one a contradiction is told of.
    let all: Vec<PriceRow> = rows.into_iter().map(|known| known.row).chain([record.row.clone()]).collect();
    Prices::new(catalogue, &all)
        .map_err(|error| AppError::conflict(format!("The price {}", sentence(&error))))?;
    Ok(record)
}

fn sentence(error: &RowError) -> String {
    format!("cannot be set: {error}")
}
