//! Prices: operators' rows over the catalogue, and what a look-up finds.

use std::sync::Arc;

use nullspend_core::{
    id::{OrgId, PriceId},
    money::{MAX_EVENT, Nanos},
    policy::Role,
    price::{Catalogue, CatalogueError, Change, Explanation, PriceRow, Prices, RowError, Terms},
};

use super::{App, AppError, Caller, check::Checks};
use crate::store::{PriceRecord, StoredCatalogue};

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

/// Which rows to list. All given conditions hold at once.
#[derive(Clone, Debug, Default)]
pub struct PriceFilter {
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
        let by = maker(caller);
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

    /// Ends a price row.
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
        let now_ms = self.clock.now_ms();
        let until_ms = until_ms.unwrap_or(now_ms);
        let mut checks = Checks::default();
        // A little grace for clocks: what was priced by the row meanwhile keeps it.
        checks.require(until_ms >= now_ms - 60_000, "effectiveUntil", "must not be in the past");
        checks.require(until_ms > record.row.from_ms, "effectiveUntil", "must be after effectiveFrom");
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
        self.change_prices(&maker(caller), move |rows, catalogue| {
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

    /// Rows the caller's organisation can see, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_prices(
        &self,
        caller: &Caller,
        filter: &PriceFilter,
    ) -> Result<Vec<PriceRecord>, AppError> {
        caller.require(Role::Viewer)?;
        let mut records = self.store.prices().await?;
        records.retain(|record| {
            let row = &record.row;
            let scope = if row.org.is_some() { Scope::Organisation } else { Scope::Global };
            row.org.is_none_or(|org| org == caller.org)
                && filter.scope.is_none_or(|wanted| wanted == scope)
                && filter.provider.as_ref().is_none_or(|provider| *provider == row.terms.provider)
                && filter.model.as_ref().is_none_or(|model| *model == row.terms.model)
        });
        records.reverse();
        Ok(records)
    }

    /// One row.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn price(&self, caller: &Caller, id: PriceId) -> Result<PriceRecord, AppError> {
        let records = self.list_prices(caller, &PriceFilter::default()).await?;
        records.into_iter().find(|record| record.row.id == id).ok_or_else(|| AppError::not_found("Price"))
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

fn maker(caller: &Caller) -> String {
    caller.key_id().map_or_else(|| caller.user.to_string(), |key| key.to_string())
}
