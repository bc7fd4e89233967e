//! The one suite that every backend passes: what the node relies on, told as cases against the contract alone.
//!
//! A backend's tests say how a wanted behaviour is written as a command for it ([`Options::program`]); everything else is
//! the same for all.

mod chips;
mod disturbed;
mod machines;
pub mod programs;
pub mod results;
mod runs;

use crate::contract::{Adapter, LogStream, RunEnd, RunKey, RunOutput, RunRequest, RunState};
use cpi::ids::{ContentDigest, Epoch, Fence, MemberId, TaskId};
use cpi::reason::ReasonCode;
use cpi::resource::{ChipKind, Quantity};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a program of a case is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// End with this code.
    Exit(i32),
    /// Write this to standard output and end.
    Print(String),
    /// Run for this long, in ms.
    Sleep(u64),
    /// Write a file and end.
    Write {
        /// Its path.
        path: String,
        /// Its content.
        content: String,
    },
}

/// A command and its environment.
pub type Program = (Vec<String>, BTreeMap<String, String>);

/// What the suite has to know of a backend.
pub struct Options {
    /// The pool and the server class to run in.
    pub pool: String,
    /// Likewise.
    pub class: String,
    /// Kinds of accelerators that the backend's pools have; each gets cases of its own.
    pub chips: Vec<ChipKind>,
    /// How a behaviour is written for this backend.
    pub program: Box<dyn Fn(&Behaviour) -> Program + Send + Sync>,
    /// The longest that a run may take to show a change that it makes at once.
    pub patience: Duration,
}

/// A case and what went wrong in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseResult {
    /// The case.
    pub case: &'static str,
    /// The kind of accelerator, for cases about one.
    pub chip: Option<ChipKind>,
    /// `None` where it held.
    pub failure: Option<String>,
    /// Whether the backend offers what the case is about; where it does not, it was checked that it says so.
    pub offered: bool,
}

/// What a test does to a backend from outside.
#[derive(Default)]
pub struct Disturbances {
    /// Kills the backend's process without a word; another one takes its place.
    pub kill: Option<Box<dyn Fn() + Send + Sync>>,
}

type Outcome = Result<(), String>;

struct Suite<'a> {
    adapter: &'a dyn Adapter,
    options: &'a Options,
    next: std::sync::atomic::AtomicU32,
    salt: u64,
    disturbances: &'a Disturbances,
    /// Cleared by a case that is about something which the backend does not offer.
    offered: std::sync::atomic::AtomicBool,
}

/// Runs all cases. Runs that it starts are removed again where they ended.
pub async fn run(adapter: &dyn Adapter, options: &Options) -> Vec<CaseResult> {
    run_disturbed(adapter, options, &Disturbances::default()).await
}

/// Likewise, with what the test can do to the backend.
pub async fn run_disturbed(adapter: &dyn Adapter, options: &Options, disturbances: &Disturbances) -> Vec<CaseResult> {
    let suite = Suite {
        adapter,
        options,
        next: std::sync::atomic::AtomicU32::new(1),
        salt: rand::random(),
        disturbances,
        offered: std::sync::atomic::AtomicBool::new(true),
    };
    let mut results = Vec::new();
    macro_rules! cases {
        ($($case:ident),* $(,)?) => { $(
            let failure = suite.$case().await.err();
            results.push(CaseResult { case: stringify!($case), chip: None, failure, offered: suite.was_offered() });
        )* };
    }
    cases!(
        describes_itself,
        a_run_ends_and_says_so,
        the_same_key_is_the_same_run,
        an_exit_code_is_kept,
        logs_are_read_in_pieces,
        a_cancel_ends_a_run_and_may_be_repeated,
        a_run_over_its_time_is_ended,
        a_lapsed_lease_freezes_and_a_renewal_thaws,
        without_freezing_a_run_outlives_its_lease,
        outputs_are_found_with_their_digests,
        a_missing_output_is_a_failure,
        an_optional_output_may_be_missing,
        an_ended_run_is_listed_until_removed,
        nothing_is_known_of_an_unknown_run,
        a_request_without_a_program_is_refused,
        a_cancel_races_with_the_submit,
        a_cancel_races_with_the_end,
        many_runs_at_once_keep_their_own_ends,
        another_attempt_is_another_run,
        a_running_run_cannot_be_removed,
        a_long_log_is_whole,
        a_log_without_a_newline_and_an_empty_one,
        odd_characters_in_a_log,
        an_empty_output_is_an_output,
        an_ended_run_is_not_renewed_into_life,
        a_removed_key_may_be_used_again,
        every_subscriber_hears_of_the_end,
        usage_is_told,
        work_is_found_again_after_a_kill,
        changes_in_any_order_converge,
        more_than_any_server_has_is_refused,
        a_wrong_key_in_a_log_request_changes_nothing,
        what_it_cannot_is_refused_as_unsupported,
        every_server_of_the_pool_is_told_once,
        a_followed_inventory_tells_changes,
        a_reservation_takes_capacity_once_and_gives_it_back,
        a_reservation_lapses_by_itself,
        more_than_there_is_is_refused,
        the_same_tag_is_the_same_machine,
        a_machine_is_changed_and_switched,
        a_released_machine_gives_its_capacity_back,
        nothing_is_known_of_an_unknown_machine,
    );
    macro_rules! chip_cases {
        ($kind:expr, $($case:ident),* $(,)?) => { $(
            let failure = suite.$case($kind).await.err();
            results.push(CaseResult {
                case: stringify!($case),
                chip: Some($kind),
                failure,
                offered: suite.was_offered(),
            });
        )* };
    }
    for kind in &options.chips {
        chip_cases!(
            *kind,
            chips_are_in_the_inventory,
            one_chip_runs,
            a_part_of_a_chip_runs_or_is_refused,
            all_chips_of_a_server_run,
            a_run_on_chips_is_submitted_once,
            a_run_on_chips_is_cancelled,
        );
    }
    results
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Suite<'_> {
    /// The backend does not offer what the case is about.
    #[expect(clippy::unnecessary_wraps, reason = "cases end with it")]
    fn not_offered(&self) -> Outcome {
        self.offered.store(false, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    fn was_offered(&self) -> bool {
        self.offered.swap(true, std::sync::atomic::Ordering::Relaxed)
    }

    /// A key that no run has.
    fn key(&self) -> RunKey {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.salt.to_be_bytes());
        id[0] &= 0x7f;
        id[12..].copy_from_slice(&self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_be_bytes());
        let fence = Fence { epoch: Epoch { counter: 1, member: MemberId(1) }, attempt: 1 };
        RunKey { task: TaskId(id), fence }
    }

    fn request(&self, behaviour: &Behaviour) -> RunRequest {
        let (command, env) = (self.options.program)(behaviour);
        RunRequest {
            key: self.key(),
            pool: self.options.pool.clone(),
            class: self.options.class.clone(),
            need: Quantity { cpu_milli: 1000, memory_bytes: 256 << 20, storage_bytes: 1 << 30, chip_milli: 0 },
            command,
            image: None,
            env,
            inputs: Vec::new(),
            outputs: Vec::new(),
            max_runtime_ms: 60_000,
            lease_ttl_ms: 60_000,
            freeze_on_lapse: true,
        }
    }

    async fn submit(&self, request: RunRequest) -> Result<RunKey, String> {
        let key = request.key;
        self.adapter.submit(request).await.map(|_| key).map_err(text)
    }

    /// Waits until the run's state is as wanted.
    async fn until<T>(&self, key: RunKey, wanted: impl Fn(&RunState) -> Option<T>) -> Result<T, String> {
        let deadline = tokio::time::Instant::now() + self.options.patience;
        loop {
            let status = self.adapter.status(key).await.map_err(text)?;
            let state = status.ok_or("the run is not known")?.state;
            if let Some(found) = wanted(&state) {
                return Ok(found);
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(format!("still {state:?} after {:?}", self.options.patience));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn end(&self, key: RunKey) -> Result<RunEnd, String> {
        let ended = |state: &RunState| match state {
            RunState::Ended(end) => Some(end.clone()),
            _ => None,
        };
        self.until(key, ended).await
    }

    async fn end_of(&self, request: RunRequest) -> Result<RunEnd, String> {
        let key = self.submit(request).await?;
        let end = self.end(key).await?;
        self.adapter.remove(key).await.map_err(text)?;
        Ok(end)
    }

    async fn is(&self, key: RunKey, wanted: RunState) -> Outcome {
        self.until(key, |state| (*state == wanted).then_some(())).await
    }

    async fn describes_itself(&self) -> Outcome {
        let description = self.adapter.describe();
        let pools = self.adapter.inventory().await.map_err(text)?;
        ensure(self.adapter.health().await.ready, || "it is not ready".to_owned())?;
        ensure(pools.iter().any(|pool| pool.name == self.options.pool), || {
            "the pool is not in the inventory".to_owned()
        })?;
        ensure(pools.iter().all(|pool| pool.backend == description.backend), || {
            "a pool of another backend is in the inventory".to_owned()
        })
    }

    async fn a_run_ends_and_says_so(&self) -> Outcome {
        let mut events = self.adapter.watch();
        let key = self.submit(self.request(&Behaviour::Exit(0))).await?;
        let end = self.end(key).await?;
        ensure(end.exit_code == Some(0) && end.reason.is_none(), || format!("{end:?}"))?;
        let heard = tokio::time::timeout(self.options.patience, async {
            loop {
                match events.recv().await {
                    Ok(event) if event.key == key && event.state == RunState::Ended(end.clone()) => return true,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        });
        ensure(heard.await == Ok(true), || "no event told of the end".to_owned())?;
        self.adapter.remove(key).await.map_err(text)
    }

    async fn the_same_key_is_the_same_run(&self) -> Outcome {
        let request = self.request(&Behaviour::Sleep(300));
        let (one, two) = tokio::join!(self.adapter.submit(request.clone()), self.adapter.submit(request.clone()));
        one.map_err(text)?;
        two.map_err(text)?;
        let end = self.end(request.key).await?;
        ensure(end.reason.is_none(), || format!("{end:?}"))?;
        let again = self.adapter.submit(request.clone()).await.map_err(text)?;
        ensure(again.state == RunState::Ended(end), || format!("submitted again it is {:?}", again.state))?;
        let count = self.adapter.list().await.map_err(text)?.iter().filter(|run| run.key == request.key).count();
        ensure(count == 1, || format!("{count} runs have the key"))?;
        self.adapter.remove(request.key).await.map_err(text)
    }

    async fn an_exit_code_is_kept(&self) -> Outcome {
        let end = self.end_of(self.request(&Behaviour::Exit(7))).await?;
        let code = end.reason.as_ref().map(|reason| reason.code);
        ensure(end.exit_code == Some(7) && code == Some(ReasonCode::ExitNonzero), || format!("{end:?}"))
    }

    async fn logs_are_read_in_pieces(&self) -> Outcome {
        let said = "一二三 four five\n".to_owned();
        let key = self.submit(self.request(&Behaviour::Print(said.clone()))).await?;
        self.end(key).await?;
        let mut read = Vec::new();
        loop {
            let chunk = self.adapter.logs(key, LogStream::Stdout, read.len() as u64, 5).await.map_err(text)?;
            ensure(chunk.bytes.len() <= 5, || "more than was asked for".to_owned())?;
            ensure(!chunk.bytes.is_empty() || chunk.end, || "nothing, and yet not the end".to_owned())?;
            read.extend_from_slice(&chunk.bytes);
            if chunk.end {
                break;
            }
        }
        ensure(read == said.as_bytes(), || format!("read {:?}", String::from_utf8_lossy(&read)))?;
        let other = self.adapter.logs(key, LogStream::Stderr, 0, 100).await.map_err(text)?;
        ensure(other.bytes.is_empty() && other.end, || format!("standard error: {other:?}"))?;
        let beyond = self.adapter.logs(key, LogStream::Stdout, 10_000, 100).await.map_err(text)?;
        ensure(beyond.bytes.is_empty() && beyond.end, || format!("beyond the end: {beyond:?}"))?;
        self.adapter.remove(key).await.map_err(text)
    }

    async fn a_cancel_ends_a_run_and_may_be_repeated(&self) -> Outcome {
        let key = self.submit(self.request(&Behaviour::Sleep(60_000))).await?;
        self.is(key, RunState::Running).await?;
        self.adapter.cancel(key, 200).await.map_err(text)?;
        self.adapter.cancel(key, 200).await.map_err(text)?;
        let end = self.end(key).await?;
        let code = end.reason.as_ref().map(|reason| reason.code);
        ensure(code == Some(ReasonCode::Cancelled), || format!("{end:?}"))?;
        self.adapter.cancel(key, 200).await.map_err(text)?;
        // one that has just been submitted
        let early = self.submit(self.request(&Behaviour::Sleep(60_000))).await?;
        self.adapter.cancel(early, 0).await.map_err(text)?;
        let end = self.end(early).await?;
        let code = end.reason.as_ref().map(|reason| reason.code);
        ensure(code == Some(ReasonCode::Cancelled), || format!("cancelled early: {end:?}"))?;
        self.adapter.remove(early).await.map_err(text)?;
        self.adapter.remove(key).await.map_err(text)
    }

    async fn a_run_over_its_time_is_ended(&self) -> Outcome {
        let mut request = self.request(&Behaviour::Sleep(60_000));
        request.max_runtime_ms = 200;
        let end = self.end_of(request).await?;
        let code = end.reason.as_ref().map(|reason| reason.code);
        ensure(code == Some(ReasonCode::TimeLimit), || format!("{end:?}"))
    }

    async fn a_lapsed_lease_freezes_and_a_renewal_thaws(&self) -> Outcome {
        if !self.adapter.describe().stops_on_lapse {
            return self.not_offered();
        }
        let mut request = self.request(&Behaviour::Sleep(700));
        request.lease_ttl_ms = 250;
        let key = self.submit(request).await?;
        self.is(key, RunState::Frozen).await?;
        self.adapter.renew(key, 60_000).await.map_err(text)?;
        self.until(key, |state| (*state != RunState::Frozen).then_some(())).await?;
        let end = self.end(key).await?;
        ensure(end.reason.is_none(), || format!("{end:?}"))?;
        self.adapter.renew(key, 60_000).await.map_err(text)?;
        self.adapter.remove(key).await.map_err(text)?;
        // a frozen run can be ended
        let mut request = self.request(&Behaviour::Sleep(60_000));
        request.lease_ttl_ms = 1;
        let key = self.submit(request).await?;
        self.is(key, RunState::Frozen).await?;
        self.adapter.cancel(key, 100).await.map_err(text)?;
        let end = self.end(key).await?;
        let code = end.reason.as_ref().map(|reason| reason.code);
        ensure(code == Some(ReasonCode::Cancelled), || format!("cancelled while frozen: {end:?}"))?;
        self.adapter.remove(key).await.map_err(text)
    }

    async fn without_freezing_a_run_outlives_its_lease(&self) -> Outcome {
        let mut request = self.request(&Behaviour::Sleep(300));
        request.lease_ttl_ms = 50;
        request.freeze_on_lapse = false;
        let end = self.end_of(request).await?;
        ensure(end.reason.is_none(), || format!("{end:?}"))
    }

    async fn outputs_are_found_with_their_digests(&self) -> Outcome {
        let (path, content) = ("结果/out.txt".to_owned(), "forty-two".to_owned());
        let mut request = self.request(&Behaviour::Write { path: path.clone(), content: content.clone() });
        request.outputs = vec![RunOutput { path: path.clone(), optional: false }];
        let key = self.submit(request).await?;
        let end = self.end(key).await?;
        ensure(end.reason.is_none() && end.outputs.len() == 1, || format!("{end:?}"))?;
        let found = &end.outputs[0];
        ensure(
            found.path == path
                && found.digest == ContentDigest::of(content.as_bytes())
                && found.size_bytes == content.len() as u64,
            || format!("{found:?}"),
        )?;
        let there = std::fs::read(&found.source).map_err(text)?;
        ensure(there == content.as_bytes(), || "another content lies there".to_owned())?;
        self.adapter.remove(key).await.map_err(text)
    }

    async fn a_missing_output_is_a_failure(&self) -> Outcome {
        let mut request = self.request(&Behaviour::Exit(0));
        request.outputs = vec![RunOutput { path: "never".to_owned(), optional: false }];
        let end = self.end_of(request).await?;
        let code = end.reason.as_ref().map(|reason| reason.code);
        ensure(code == Some(ReasonCode::OutputMissing) && end.exit_code == Some(0), || format!("{end:?}"))
    }

    async fn an_optional_output_may_be_missing(&self) -> Outcome {
        let mut request = self.request(&Behaviour::Exit(0));
        request.outputs = vec![RunOutput { path: "never".to_owned(), optional: true }];
        let end = self.end_of(request).await?;
        ensure(end.reason.is_none() && end.outputs.is_empty(), || format!("{end:?}"))
    }

    async fn an_ended_run_is_listed_until_removed(&self) -> Outcome {
        let key = self.submit(self.request(&Behaviour::Exit(0))).await?;
        let end = self.end(key).await?;
        let listed = self.adapter.list().await.map_err(text)?;
        ensure(listed.iter().any(|run| run.key == key && run.state == RunState::Ended(end.clone())), || {
            "it is not listed".to_owned()
        })?;
        self.adapter.remove(key).await.map_err(text)?;
        self.adapter.remove(key).await.map_err(text)?;
        let status = self.adapter.status(key).await.map_err(text)?;
        ensure(status.is_none(), || format!("removed, and yet {status:?}"))
    }

    async fn nothing_is_known_of_an_unknown_run(&self) -> Outcome {
        let key = self.request(&Behaviour::Exit(0)).key;
        ensure(self.adapter.status(key).await.map_err(text)?.is_none(), || "a status was given".to_owned())?;
        ensure(self.adapter.logs(key, LogStream::Stdout, 0, 10).await.is_err(), || "a log was given".to_owned())?;
        ensure(self.adapter.renew(key, 1000).await.is_err(), || "a renewal was accepted".to_owned())?;
        self.adapter.cancel(key, 0).await.map_err(text)?;
        self.adapter.remove(key).await.map_err(text)
    }

    async fn a_request_without_a_program_is_refused(&self) -> Outcome {
        let mut request = self.request(&Behaviour::Exit(0));
        request.command.clear();
        let refused = self.adapter.submit(request.clone()).await;
        let code = refused.as_ref().err().map(|error| error.reason.code);
        ensure(code == Some(ReasonCode::InvalidTask), || format!("{refused:?}"))?;
        ensure(self.adapter.status(request.key).await.map_err(text)?.is_none(), || "and yet it is known".to_owned())
    }
}
