//! Compiles the published plugin protocol. The compiler is Rust too, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILE: &str = "causeway/adapter/v1/adapter.proto";
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile([FILE], ["proto"])?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
