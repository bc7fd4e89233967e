//! More of what runs do: races, many at once, long and odd texts, events.

use super::{Behaviour, Outcome, Suite, ensure, text};
use crate::contract::{LogStream, RunOutput, RunRequest, RunState};
use cpi::ids::ContentDigest;
use cpi::reason::ReasonCode;

impl Suite<'_> {
    pub(super) async fn a_cancel_races_with_the_submit(&self) -> Outcome {
        for _ in 0..5 {
            let request = self.request(&Behaviour::Sleep(60_000));
            let key = request.key;
            let (submitted, cancelled) = tokio::join!(self.adapter.submit(request), self.adapter.cancel(key, 0));
            submitted.map_err(text)?;
            cancelled.map_err(text)?;
            // whichever came first: after one more cancel it ends
            self.adapter.cancel(key, 0).await.map_err(text)?;
            let end = self.end(key).await?;
            let code = end.reason.as_ref().map(|reason| reason.code);
            ensure(code == Some(ReasonCode::Cancelled), || format!("{end:?}"))?;
            self.adapter.remove(key).await.map_err(text)?;
        }
        Ok(())
    }

    pub(super) async fn a_cancel_races_with_the_end(&self) -> Outcome {
        for ms in [1, 5, 20, 60] {
            let key = self.submit(self.request(&Behaviour::Sleep(ms))).await?;
            tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
            self.adapter.cancel(key, 0).await.map_err(text)?;
            let end = self.end(key).await?;
            let code = end.reason.as_ref().map(|reason| reason.code);
            ensure(matches!(code, None | Some(ReasonCode::Cancelled)), || format!("{end:?}"))?;
            // an end does not change any more
            self.adapter.cancel(key, 0).await.map_err(text)?;
            ensure(self.end(key).await? == end, || "the end changed".to_owned())?;
            self.adapter.remove(key).await.map_err(text)?;
        }
        Ok(())
    }

    pub(super) async fn many_runs_at_once_keep_their_own_ends(&self) -> Outcome {
        let requests: Vec<RunRequest> = (0..20).map(|code| self.request(&Behaviour::Exit(code))).collect();
        let submits = requests.iter().map(|request| self.adapter.submit(request.clone()));
        for submitted in futures::future::join_all(submits).await {
            submitted.map_err(text)?;
        }
        for (code, request) in (0..).zip(&requests) {
            let end = self.end(request.key).await?;
            ensure(end.exit_code == Some(code), || format!("run {code}: {end:?}"))?;
        }
        let listed = self.adapter.list().await.map_err(text)?;
        let all = requests.iter().all(|request| listed.iter().any(|run| run.key == request.key));
        ensure(all, || "not all are listed".to_owned())?;
        for request in requests {
            self.adapter.remove(request.key).await.map_err(text)?;
        }
        Ok(())
    }

    pub(super) async fn another_attempt_is_another_run(&self) -> Outcome {
        let first = self.request(&Behaviour::Exit(1));
        let mut second = self.request(&Behaviour::Exit(2));
        second.key.task = first.key.task;
        second.key.fence.attempt = 2;
        self.submit(first.clone()).await?;
        self.submit(second.clone()).await?;
        let (one, two) = (self.end(first.key).await?, self.end(second.key).await?);
        ensure((one.exit_code, two.exit_code) == (Some(1), Some(2)), || format!("{one:?} and {two:?}"))?;
        self.adapter.remove(first.key).await.map_err(text)?;
        ensure(self.adapter.status(second.key).await.map_err(text)?.is_some(), || "both are gone".to_owned())?;
        self.adapter.remove(second.key).await.map_err(text)
    }

    pub(super) async fn a_running_run_cannot_be_removed(&self) -> Outcome {
        let key = self.submit(self.request(&Behaviour::Sleep(60_000))).await?;
        self.is(key, RunState::Running).await?;
        ensure(self.adapter.remove(key).await.is_err(), || "it was removed".to_owned())?;
        self.adapter.cancel(key, 0).await.map_err(text)?;
        self.end(key).await?;
        self.adapter.remove(key).await.map_err(text)
    }

    pub(super) async fn a_long_log_is_whole(&self) -> Outcome {
        let said: String = (0..30_000).map(|line| format!("line {line} 数据\n")).collect();
        let key = self.submit(self.request(&Behaviour::Print(said.clone()))).await?;
        self.end(key).await?;
        let mut read = Vec::new();
        loop {
            let at = read.len() as u64;
            let chunk = self.adapter.logs(key, LogStream::Stdout, at, 100_000).await.map_err(text)?;
            ensure(chunk.offset == at && chunk.bytes.len() <= 100_000, || "another piece came".to_owned())?;
            let none = chunk.bytes.is_empty();
            read.extend(chunk.bytes);
            if chunk.end {
                break;
            }
            ensure(!none, || "nothing, and yet not the end".to_owned())?;
        }
        ensure(read == said.as_bytes(), || format!("{} of {} bytes", read.len(), said.len()))?;
        self.adapter.remove(key).await.map_err(text)
    }

    pub(super) async fn a_log_without_a_newline_and_an_empty_one(&self) -> Outcome {
        for said in ["no newline at the end", ""] {
            let key = self.submit(self.request(&Behaviour::Print(said.to_owned()))).await?;
            self.end(key).await?;
            let chunk = self.adapter.logs(key, LogStream::Stdout, 0, 1000).await.map_err(text)?;
            ensure(chunk.bytes == said.as_bytes() && chunk.end, || format!("{chunk:?}"))?;
            self.adapter.remove(key).await.map_err(text)?;
        }
        Ok(())
    }

    pub(super) async fn odd_characters_in_a_log(&self) -> Outcome {
        let said = "tab\t, quote ' and \", back\\slash, \u{1b}[31mred, e\u{301}, \u{1f680}, \u{202e}right\n";
        let key = self.submit(self.request(&Behaviour::Print(said.to_owned()))).await?;
        self.end(key).await?;
        let chunk = self.adapter.logs(key, LogStream::Stdout, 0, 1000).await.map_err(text)?;
        ensure(chunk.bytes == said.as_bytes(), || format!("{:?}", String::from_utf8_lossy(&chunk.bytes)))?;
        self.adapter.remove(key).await.map_err(text)
    }

    pub(super) async fn an_empty_output_is_an_output(&self) -> Outcome {
        let mut request = self.request(&Behaviour::Write { path: "empty".to_owned(), content: String::new() });
        request.outputs = vec![RunOutput { path: "empty".to_owned(), optional: false }];
        let key = request.key;
        self.submit(request).await?;
        let end = self.end(key).await?;
        let found = end.outputs.first().ok_or_else(|| format!("{end:?}"))?;
        ensure(found.size_bytes == 0 && found.digest == ContentDigest::of(b""), || format!("{found:?}"))?;
        self.adapter.remove(key).await.map_err(text)
    }

    pub(super) async fn an_ended_run_is_not_renewed_into_life(&self) -> Outcome {
        let key = self.submit(self.request(&Behaviour::Exit(5))).await?;
        let end = self.end(key).await?;
        self.adapter.renew(key, 60_000).await.map_err(text)?;
        ensure(self.end(key).await? == end, || "the end changed".to_owned())?;
        self.adapter.remove(key).await.map_err(text)
    }

    pub(super) async fn a_removed_key_may_be_used_again(&self) -> Outcome {
        let request = self.request(&Behaviour::Exit(0));
        self.end_of(request.clone()).await?;
        let end = self.end_of(request).await?;
        ensure(end.exit_code == Some(0), || format!("{end:?}"))
    }

    pub(super) async fn every_subscriber_hears_of_the_end(&self) -> Outcome {
        let mut subscribers = [self.adapter.watch(), self.adapter.watch(), self.adapter.watch()];
        let key = self.submit(self.request(&Behaviour::Sleep(50))).await?;
        self.end(key).await?;
        for events in &mut subscribers {
            let heard = tokio::time::timeout(self.options.patience, async {
                loop {
                    match events.recv().await {
                        Ok(event) if event.key == key && matches!(event.state, RunState::Ended(_)) => return true,
                        Ok(_) => {}
                        Err(_) => return false,
                    }
                }
            });
            ensure(heard.await == Ok(true), || "one did not hear".to_owned())?;
        }
        self.adapter.remove(key).await.map_err(text)
    }

    pub(super) async fn usage_is_told(&self) -> Outcome {
        let end = self.end_of(self.request(&Behaviour::Sleep(120))).await?;
        ensure(end.usage.wall_ms >= 100 && end.usage.wall_ms < 60_000, || format!("{:?}", end.usage))
    }

    pub(super) async fn a_wrong_key_in_a_log_request_changes_nothing(&self) -> Outcome {
        let known = self.submit(self.request(&Behaviour::Print("mine".to_owned()))).await?;
        self.end(known).await?;
        let mut other = known;
        other.fence.attempt = 77;
        ensure(self.adapter.logs(other, LogStream::Stdout, 0, 10).await.is_err(), || "a log was given".to_owned())?;
        ensure(self.adapter.status(other).await.map_err(text)?.is_none(), || "it is known".to_owned())?;
        self.adapter.remove(known).await.map_err(text)
    }
}
