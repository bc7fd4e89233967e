//! Compiles the published protocols. The compiler is Rust too, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 2] = ["causeway/adapter/v1/adapter.proto", "causeway/run/v1/run.proto"];
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
