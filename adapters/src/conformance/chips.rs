//! Cases for each kind of accelerator that the backend's pools have.

use super::{Behaviour, Outcome, Suite, ensure, text};
use crate::contract::{RunRequest, RunState};
use cpi::reason::ReasonCode;
use cpi::resource::ChipKind;

impl Suite<'_> {
    /// Pool, class and thousandths of chips of one server with this kind of chip.
    async fn place(&self, kind: ChipKind) -> Result<(String, String, u64), String> {
        let pools = self.adapter.inventory().await.map_err(text)?;
        let classes = pools.iter().flat_map(|pool| pool.classes.iter().map(move |class| (pool, class)));
        classes
            .filter(|(_, class)| class.chip.as_ref().is_some_and(|chip| chip.kind == kind))
            .map(|(pool, class)| (pool.name.clone(), class.name.clone(), class.per_server.chip_milli))
            .next()
            .ok_or_else(|| format!("no class with a chip of kind {}", kind.code()))
    }

    async fn on_chips(&self, kind: ChipKind, chip_milli: u64, behaviour: &Behaviour) -> Result<RunRequest, String> {
        let (pool, class, _) = self.place(kind).await?;
        let mut request = self.request(behaviour);
        (request.pool, request.class, request.need.chip_milli) = (pool, class, chip_milli);
        Ok(request)
    }

    pub(super) async fn chips_are_in_the_inventory(&self, kind: ChipKind) -> Outcome {
        let (_, _, chips) = self.place(kind).await?;
        ensure(chips >= 1000, || format!("its servers have {chips} thousandths of a chip"))?;
        if !self.adapter.capabilities().streams_inventory {
            return Ok(());
        }
        let mut events = self.adapter.servers(false).await.map_err(text)?;
        let mut of_kind = 0;
        while let Some(event) = events.recv().await {
            if let crate::resources::InventoryEvent::Server(server) = event
                && server.chip.is_some_and(|chip| chip.kind == kind)
            {
                of_kind += 1;
            }
        }
        ensure(of_kind > 0, || "no server with it is told".to_owned())
    }

    pub(super) async fn one_chip_runs(&self, kind: ChipKind) -> Outcome {
        let end = self.end_of(self.on_chips(kind, 1000, &Behaviour::Exit(0)).await?).await?;
        ensure(end.reason.is_none(), || format!("{end:?}"))
    }

    /// Thousandths are accepted as asked; what a platform cannot divide it refuses, and never rounds to nothing.
    pub(super) async fn a_part_of_a_chip_runs_or_is_refused(&self, kind: ChipKind) -> Outcome {
        let request = self.on_chips(kind, 143, &Behaviour::Exit(0)).await?;
        match self.adapter.submit(request.clone()).await {
            Ok(_) => {
                let end = self.end(request.key).await?;
                self.adapter.remove(request.key).await.map_err(text)?;
                ensure(end.reason.is_none(), || format!("{end:?}"))
            }
            Err(error) => {
                let code = error.reason.code;
                ensure(matches!(code, ReasonCode::BackendUnsupported | ReasonCode::InvalidTask), || error.to_string())
            }
        }
    }

    pub(super) async fn all_chips_of_a_server_run(&self, kind: ChipKind) -> Outcome {
        let (_, _, chips) = self.place(kind).await?;
        let end = self.end_of(self.on_chips(kind, chips, &Behaviour::Exit(3)).await?).await?;
        ensure(end.exit_code == Some(3), || format!("{end:?}"))
    }

    pub(super) async fn a_run_on_chips_is_submitted_once(&self, kind: ChipKind) -> Outcome {
        let request = self.on_chips(kind, 1000, &Behaviour::Sleep(200)).await?;
        for _ in 0..3 {
            self.adapter.submit(request.clone()).await.map_err(text)?;
        }
        self.end(request.key).await?;
        let count = self.adapter.list().await.map_err(text)?.iter().filter(|run| run.key == request.key).count();
        ensure(count == 1, || format!("{count} runs have the key"))?;
        self.adapter.remove(request.key).await.map_err(text)
    }

    pub(super) async fn a_run_on_chips_is_cancelled(&self, kind: ChipKind) -> Outcome {
        let request = self.on_chips(kind, 1000, &Behaviour::Sleep(60_000)).await?;
        let key = self.submit(request).await?;
        self.is(key, RunState::Running).await?;
        self.adapter.cancel(key, 0).await.map_err(text)?;
        let end = self.end(key).await?;
        let code = end.reason.as_ref().map(|reason| reason.code);
        ensure(code == Some(ReasonCode::Cancelled), || format!("{end:?}"))?;
        self.adapter.remove(key).await.map_err(text)
    }
}
