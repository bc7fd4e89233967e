//! `causeway-runner`: what a platform's job executes. Dials the desk, runs the order, reports, and leaves with the command's own
//! exit code.

mod job;
mod link;
mod spool;

use super::{CA_VARIABLE, DIR_VARIABLE, RUN_VARIABLE, TOKEN_VARIABLE, URL_VARIABLE};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use job::Job;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Between two calls of the desk.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(20);
/// How long a runner without an order tries to get one.
const ORDER_WITHIN: Duration = Duration::from_secs(600);

/// The ticket was refused or the desk never answered (`EX_TEMPFAIL`), or the environment is not a job's (`EX_USAGE`).
const EXIT_UNREPORTED: u8 = 75;
const EXIT_USAGE: u8 = 64;
/// The desk does not want this run from this runner.
const EXIT_NOT_WANTED: u8 = 0;

struct Setting {
    url: String,
    token: String,
    ca_pem: Option<String>,
    run: String,
    instance: String,
    folder: PathBuf,
}

/// The whole program.
pub fn main() -> ExitCode {
    super::choose_crypto();
    let setting = match setting() {
        Ok(setting) => setting,
        Err(why) => {
            eprintln!("causeway-runner: {why}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    // others of the same user cannot read the token from /proc, and what the command leaves behind comes to us
    let _ = nix::sys::prctl::set_dumpable(false);
    let _ = nix::sys::prctl::set_child_subreaper(true);
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("causeway-runner: {error}");
            return ExitCode::from(EXIT_UNREPORTED);
        }
    };
    let code = runtime.block_on(run(&setting));
    runtime.shutdown_background();
    let _ = std::fs::remove_dir_all(&setting.folder);
    ExitCode::from(code)
}

fn setting() -> Result<Setting, String> {
    let need = |name: &str| {
        std::env::var(name)
            .map_err(|_| format!("{name} is not set: this program is started by a job of a Causeway node"))
    };
    let run = need(RUN_VARIABLE)?;
    if super::key_of(&run).is_none() {
        return Err(format!("{RUN_VARIABLE}: expected TASK-FENCE"));
    }
    let instance = data_encoding::HEXLOWER.encode(&rand::random::<[u8; 16]>());
    let base = std::env::var_os(DIR_VARIABLE).map_or_else(std::env::temp_dir, PathBuf::from);
    Ok(Setting {
        url: need(URL_VARIABLE)?,
        token: need(TOKEN_VARIABLE)?,
        ca_pem: std::env::var(CA_VARIABLE).ok(),
        folder: base.join(format!("causeway-{run}-{}", &instance[..8])),
        run,
        instance,
    })
}

async fn run(setting: &Setting) -> u8 {
    let mut waits = waits();
    let mut job: Option<Job> = None;
    let born = Instant::now();
    loop {
        match link::attend(setting, &mut job).await {
            Ok(link::Parted::Reported) => return job.map_or(0, |job| job.exit_code()),
            Ok(link::Parted::NotWanted(why)) => {
                eprintln!("causeway-runner: the desk does not want this run from here: {why}");
                if let Some(job) = job {
                    job.abandon().await;
                }
                return EXIT_NOT_WANTED;
            }
            Ok(link::Parted::ByPlatform) => return job.map_or(EXIT_UNREPORTED, |job| job.exit_code()),
            Err(link::Lost { why, spoke }) => {
                eprintln!("causeway-runner: {why}");
                if spoke {
                    waits = self::waits();
                }
            }
        }
        let out_of_time = match &job {
            Some(job) => job.ended_for().is_some_and(|since| since > job.linger()),
            None => born.elapsed() > ORDER_WITHIN,
        };
        if out_of_time {
            eprintln!("causeway-runner: gave up to report after many tries");
            return EXIT_UNREPORTED;
        }
        tokio::time::sleep(waits.next().unwrap_or(RETRY_MAX)).await;
    }
}

fn waits() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(RETRY_MIN)
        .with_max_delay(RETRY_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}
