//! A provider to try the product against without an account: prints its URL and serves until it is ended.

use std::{error::Error, net::SocketAddr};

use clap::Parser;
use nullspend_e2e::provider::FakeProvider;

/// A pretend OpenAI and Anthropic.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Keep no record of the calls: for long loads.
    #[arg(long)]
    forget: bool,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let provider = FakeProvider::listen(arguments.listen, !arguments.forget).await?;
    println!("{}", provider.url());
    provider.serve_forever().await;
    Ok(())
}
