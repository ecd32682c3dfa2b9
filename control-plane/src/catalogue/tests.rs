use std::fs;

use nullspend_core::{
    clock::{Clock, ManualClock},
    id::{Ids as _, RandomIds},
    price::{Catalogue, Class, Lookup},
};
use nullspend_ledger::MemoryLedger;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::store::Store;

/// 2026-11-23.
const NOW: i64 = 1_795_392_000_000;

struct World {
    app: App,
    file: CatalogueFile,
    dir: TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("db").display());
        let store = Store::open(&url.into(), &RandomIds.v4().to_string()).await.unwrap();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW));
        let ledger = Arc::new(MemoryLedger::new(Arc::clone(&clock)));
        let app = App::new(store, ledger, clock, Arc::new(RandomIds));
        let file = CatalogueFile::new(&dir.path().join("prices.json"));
        Self { app, file, dir }
    }

    fn write(&self, text: &str) {
        fs::write(self.dir.path().join("prices.json"), text).unwrap();
    }

    async fn look(&mut self) -> Option<Result<bool, String>> {
        let looked = self.file.look(&self.app).await?;
        Some(looked.map_err(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            format!("{error}: {source}")
        }))
    }

    async fn refusal(&mut self) -> String {
        self.look().await.expect("a changed file").expect_err("a refusal")
    }

    /// What the catalogue in force says, and its version.
    async fn in_force(&self) -> (u64, String) {
        let stored = self.app.store().catalogue_since(0).await.unwrap().expect("a stored catalogue");
        let catalogue = Arc::new(Catalogue::parse(&stored.text).unwrap());
        let Lookup::Priced(priced) = catalogue.lookup("openai", "gpt-4o", NOW) else { panic!("no price") };
        assert_eq!(stored.version, catalogue.version());
        (priced.standard().rates.billed(Class::Input).0, stored.version)
    }
}

fn catalogue(version: &str, input: u64) -> Value {
    json!({"schema": "nullspend.prices/1", "version": version, "unit": "pico_usd", "models": [{
        "provider": "openai", "id": "gpt-4o",
        "prices": [{"tiers": {"standard": {"rates": {"input": input, "output": 10_000_000}}}}]}]})
}

#[tokio::test]
async fn a_file_is_put_in_force_once_and_again_when_its_text_changes() {
    let mut world = World::new().await;
    world.write(&catalogue("a", 2_500_000).to_string());
    assert_eq!(world.look().await, Some(Ok(true)));
    assert_eq!(world.look().await, None, "nothing changed");
    let revision = world.app.store().policy_position().await.unwrap().revision;
    world.write(&catalogue("b", 3_000_000).to_string());
    assert_eq!(world.look().await, Some(Ok(true)));
    assert_eq!(world.in_force().await, (3_000_000, "b".to_owned()));
    assert!(world.app.store().policy_position().await.unwrap().revision > revision, "data planes hear of it");
    world.file = CatalogueFile::new(&world.dir.path().join("prices.json"));
    assert_eq!(world.look().await, Some(Ok(false)), "a restart finds it in force");
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_told_once_and_leaves_the_prices() {
    let mut world = World::new().await;
    world.write(&catalogue("a", 2_500_000).to_string());
    assert_eq!(world.look().await, Some(Ok(true)));
    for (text, wanted) in [
        ("{".to_owned(), "not of the expected shape"),
        (catalogue("a", 3_000_000).to_string(), "raise `version`"),
        (catalogue("b", 2_500_000 * 3 + 1).to_string(), "\"force\": true"),
        (catalogue("b", 2_500_000 / 4).to_string(), "\"force\": true"),
        (catalogue("b", 99_000_000_000).to_string(), "absurd"),
    ] {
        world.write(&text);
        let refusal = world.refusal().await;
        assert!(refusal.contains("prices.json") && refusal.contains(wanted), "{refusal}");
        assert_eq!(world.look().await, None, "told once");
        assert_eq!(world.in_force().await, (2_500_000, "a".to_owned()));
    }
    fs::remove_file(world.dir.path().join("prices.json")).unwrap();
    assert!(world.refusal().await.contains("cannot read"));
    assert_eq!(world.look().await, None, "told once");
    assert_eq!(world.in_force().await.0, 2_500_000);
    world.write(&catalogue("b", 2_600_000).to_string());
    assert_eq!(world.look().await, Some(Ok(true)), "a mended file is taken");
}

#[tokio::test]
async fn a_large_change_is_taken_when_the_file_says_that_it_is_meant() {
    let mut world = World::new().await;
    world.write(&catalogue("a", 2_500_000).to_string());
    assert_eq!(world.look().await, Some(Ok(true)));
    let mut meant = catalogue("b", 25_000_000);
    meant["force"] = true.into();
    world.write(&meant.to_string());
    assert_eq!(world.look().await, Some(Ok(true)));
    assert_eq!(world.in_force().await, (25_000_000, "b".to_owned()));
}

#[tokio::test]
async fn the_programs_own_catalogue_comes_back_whatever_the_last_file_said() {
    let mut world = World::new().await;
    assert!(
        !world.app.put_catalogue(Catalogue::shipped_text()).await.unwrap(),
        "it is in force from the start"
    );
    // Ten times the rates must not keep an operator from going back.
    let mut far = catalogue("far", 25_000_000);
    far["force"] = true.into();
    world.write(&far.to_string());
    assert_eq!(world.look().await, Some(Ok(true)));
    assert!(world.app.put_catalogue(Catalogue::shipped_text()).await.unwrap());
    assert_eq!(world.in_force().await, (2_500_000, Catalogue::shipped().version().to_owned()));
}
