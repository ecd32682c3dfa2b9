//! Compiles the protos without protoc and keeps the descriptor set, custom options included.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let protos = [
        "google/api/httpbody.proto",
        "nullspend/v1/auth.proto",
        "nullspend/v1/budgets.proto",
        "nullspend/v1/cost_events.proto",
        "nullspend/v1/explain.proto",
        "nullspend/v1/freezes.proto",
        "nullspend/v1/keys.proto",
        "nullspend/v1/prices.proto",
        "nullspend/internal/v1/dataplane.proto",
    ];
    println!("cargo:rerun-if-changed=google");
    println!("cargo:rerun-if-changed=nullspend");
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true).open_files(protos)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // prost-types would drop the custom options, so the bytes are kept for run time and the types used for codegen only.
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .compile_well_known_types(false)
        .btree_map(".")
        // Passed on as they came, so kept as a view of what was received.
        .bytes(".nullspend.internal.v1.SequencedRecord.record")
        .bytes(".nullspend.internal.v1.AttemptStub.trail")
        .bytes(".nullspend.internal.v1.Denied.trail")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
