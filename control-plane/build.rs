//! A new migration file must cause a new build: the macro that embeds them notices only edits.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
