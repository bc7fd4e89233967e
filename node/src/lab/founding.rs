//! How the regions of a lab become a federation: by the same verbs that operators use, in the order of the ring's file.
//!
//! ```text
//! first          causeway init --config FILE ; causeway node
//! each other     at the first: causeway member invite --for REGION --enterprise CODE
//!                at its own:   causeway member join TOKEN --config FILE
//!                at the first: causeway member approve REGION
//!                at its own:   causeway node
//! ```

use super::process::{NodeProcess, Shell};
use super::ring::RegionSpec;
use anyhow::{Context as _, bail};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A region that asked to join is approved within this time.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Founds the federation with the first region, where that has not happened yet.
///
/// # Errors
/// What `causeway init` says.
pub fn found(node: &NodeProcess, enterprise: &str) -> anyhow::Result<bool> {
    if node.is_founded() {
        return Ok(false);
    }
    node.run(&["init", "--config", &node.config.display().to_string(), "--enterprise", enterprise])?;
    Ok(true)
}

/// Brings a region in by invitation and approval, where it is no member yet. `first` is a member's command line.
///
/// # Errors
/// What the verb that failed says.
pub async fn join(first: &Shell, node: &NodeProcess, region: &RegionSpec) -> anyhow::Result<bool> {
    if node.is_founded() {
        return Ok(false);
    }
    let name = region.name.as_str();
    let invite = ["member", "invite", "--for", name, "--enterprise", &region.enterprise];
    let invitation = first.json(&invite).await?;
    let token = invitation["token"].as_str().context("the invitation has no token")?;

    let config = node.config.display().to_string();
    let mut join = tokio::process::Command::from(node.command(&["member", "join", token, "--config", &config]));
    let joining = join.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn();
    let mut joining = Box::pin(joining.context("starting causeway member join")?.wait_with_output());

    let begin = Instant::now();
    let mut approved = false;
    loop {
        tokio::select! {
            ended = &mut joining => {
                let output = ended?;
                if !output.status.success() {
                    bail!("{name} could not join: {}", String::from_utf8_lossy(&output.stderr).trim());
                }
                break;
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if begin.elapsed() > JOIN_TIMEOUT {
            bail!("{name} could not join within {JOIN_TIMEOUT:?}");
        }
        if !approved {
            // refused as `not found` until the region's request has arrived
            approved = first.output(&["member", "approve", name]).await?.status.success();
        }
    }
    Ok(true)
}
