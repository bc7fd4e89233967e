//! Cases in which something goes wrong: the backend's process dies, changes come in any order, more is wanted than there is.

use super::{Behaviour, Outcome, Suite, ensure, text};
use crate::contract::{AdapterError, RunEvent, RunKey, RunState, RunStatus};
use cpi::reason::ReasonCode;
use std::collections::BTreeMap;
use std::time::Duration;

impl Suite<'_> {
    /// Asks until the backend answers again.
    async fn patiently<T, F>(&self, ask: impl Fn() -> F) -> Result<T, String>
    where
        F: Future<Output = Result<T, AdapterError>>,
    {
        let deadline = tokio::time::Instant::now() + self.options.patience;
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.retryable && tokio::time::Instant::now() < deadline => {}
                Err(error) => return Err(error.to_string()),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What ran goes on, is found by its tag, and is not started twice.
    pub(super) async fn work_is_found_again_after_a_kill(&self) -> Outcome {
        let Some(kill) = &self.disturbances.kill else { return self.not_offered() };
        let request = self.request(&Behaviour::Sleep(1500));
        let key = self.submit(request.clone()).await?;
        self.is(key, RunState::Running).await?;
        kill();
        let again = self.patiently(|| self.adapter.submit(request.clone())).await?;
        ensure(again.key == key, || format!("{again:?}"))?;
        let listed: Vec<RunStatus> = self.patiently(|| self.adapter.list()).await?;
        let count = listed.iter().filter(|run| run.key == key).count();
        ensure(count == 1, || format!("{count} runs have the key"))?;
        let end = self.end(key).await?;
        ensure(end.exit_code == Some(0) && end.reason.is_none(), || format!("{end:?}"))?;
        self.adapter.remove(key).await.map_err(text)
    }

    /// Whatever order, however often: who keeps an end once it was told, knows what `status` knows.
    pub(super) async fn changes_in_any_order_converge(&self) -> Outcome {
        let mut events = self.adapter.watch();
        let mut keys = Vec::new();
        for code in 0..6 {
            keys.push(self.submit(self.request(&Behaviour::Exit(code))).await?);
        }
        let mut told: BTreeMap<RunKey, RunState> = BTreeMap::new();
        let deadline = tokio::time::Instant::now() + self.options.patience;
        while keys.iter().any(|key| !matches!(told.get(key), Some(RunState::Ended(_)))) {
            match tokio::time::timeout_at(deadline, events.recv()).await {
                Ok(Ok(RunEvent { key, state })) => match told.get(&key) {
                    Some(RunState::Ended(end)) => {
                        let same = !matches!(&state, RunState::Ended(other) if other != end);
                        ensure(same, || format!("two ends were told: {end:?} and {state:?}"))?;
                    }
                    _ => drop(told.insert(key, state)),
                },
                other => return Err(format!("not every end was told: {other:?}")),
            }
        }
        for key in keys {
            let status = self.adapter.status(key).await.map_err(text)?;
            let state = status.map(|status| status.state);
            ensure(state.as_ref() == told.get(&key), || format!("told {:?}, and yet {state:?}", told.get(&key)))?;
            self.adapter.remove(key).await.map_err(text)?;
        }
        Ok(())
    }

    /// More than any server has is refused at once, with its reason, and is not known afterwards.
    pub(super) async fn more_than_any_server_has_is_refused(&self) -> Outcome {
        let mut request = self.request(&Behaviour::Exit(0));
        request.need.cpu_milli = 1_000_000_000_000;
        let refused = self.adapter.submit(request.clone()).await;
        let code = refused.as_ref().err().map(|error| error.reason.code);
        let good = matches!(code, Some(ReasonCode::ShapeTooLarge | ReasonCode::QuotaExceeded));
        ensure(good, || format!("{refused:?}"))?;
        ensure(self.adapter.status(request.key).await.map_err(text)?.is_none(), || "and yet it is known".to_owned())
    }
}
