//! The product as a user meets it: a real Envoy and the real program, a provider that knows what it billed, and the
//! official SDKs. Each file under `tests/` keeps one promise.

pub mod bench;
#[allow(clippy::expect_used, reason = "a test's world fails by panicking")]
pub mod cluster;
#[allow(clippy::expect_used, reason = "a test's client fails by panicking")]
pub mod console;
#[allow(clippy::expect_used, reason = "a scenario fails by panicking")]
pub mod fault;
#[allow(clippy::expect_used, reason = "a test's client fails by panicking")]
pub mod http;
pub mod load;
#[allow(clippy::expect_used, reason = "a test's world fails by panicking")]
pub mod program;
pub mod provider;
#[allow(clippy::expect_used, reason = "a test's world fails by panicking")]
pub mod servers;
#[allow(clippy::expect_used, reason = "a test's world fails by panicking")]
pub mod stack;
pub mod tap;
#[allow(clippy::expect_used, reason = "a test's world fails by panicking")]
pub mod time;
