//! The stand-in for kubelets of the test kit: `causeway-pod-runner CONFIG.json`.

use adapters::testkit::pod_runner::{PodRunnerConfig, run};
use anyhow::Context as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let path = std::env::args_os().nth(1).context("expected the path of a configuration file")?;
    let config: PodRunnerConfig = serde_json::from_slice(&std::fs::read(&path)?).context("the configuration file")?;
    run(config).await
}
