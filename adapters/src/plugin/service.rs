//! The protocol's verbs, each handed to the adapter.

use super::{Backend, credentials};
use crate::contract::{Adapter, LogStream, RunKey, RunRequest, RunStatus};
use crate::runner::DeskTicket;
use crate::wire::proto::{self, adapter_server};
use crate::wire::{
    LOG_CHUNK_BYTES_MAX, PROTOCOL_MACHINES, TEXT_BYTES_MAX, WireError, agree, reason_to_wire, status_of,
};
use cpi::resource::PoolSpec;
use futures::stream::{BoxStream, StreamExt as _};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::{Mutex, broadcast};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

pub(super) struct Service<B> {
    backend: B,
    adapter: OnceLock<Arc<dyn Adapter>>,
    /// Held while the backend is being opened, so that two Configure calls do not open it twice.
    opening: Mutex<()>,
    protocol: AtomicU32,
    stop: CancellationToken,
}

type Answer<T> = Result<Response<T>, Status>;

impl<B: Backend> Service<B> {
    pub(super) fn new(backend: B, stop: CancellationToken) -> Self {
        let opening = Mutex::new(());
        Self { backend, adapter: OnceLock::new(), opening, protocol: AtomicU32::new(0), stop }
    }

    fn adapter(&self) -> Result<&Arc<dyn Adapter>, Status> {
        self.adapter.get().ok_or_else(|| Status::failed_precondition("Configure comes first"))
    }

    /// For verbs that the agreed protocol number may not have.
    fn machines(&self) -> Result<&Arc<dyn Adapter>, Status> {
        if self.protocol.load(Ordering::Acquire) < PROTOCOL_MACHINES {
            return Err(Status::unimplemented("this verb is not in the agreed protocol number"));
        }
        self.adapter()
    }

    /// A stream that also ends when the plugin does.
    fn until_stop<T: Send + 'static>(
        &self,
        stream: impl futures::Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> BoxStream<'static, Result<T, Status>> {
        stream.take_until(self.stop.clone().cancelled_owned()).boxed()
    }
}

fn wrong(error: WireError) -> Status {
    let refused = crate::contract::AdapterError::fatal(cpi::reason::ReasonCode::InvalidTask, error.to_string());
    status_of(&refused)
}

fn key(wire: Option<proto::RunKey>) -> Result<RunKey, Status> {
    wire.ok_or_else(|| Status::invalid_argument("key: expected a value"))?.try_into().map_err(wrong)
}

#[tonic::async_trait]
impl<B: Backend> adapter_server::Adapter for Service<B> {
    async fn handshake(&self, request: Request<proto::HandshakeRequest>) -> Answer<proto::HandshakeReply> {
        let asked = request.into_inner();
        let own = self.backend.protocols();
        let protocol = agree(own, (asked.protocol_min, asked.protocol_max)).unwrap_or(0);
        self.protocol.store(protocol, Ordering::Release);
        Ok(Response::new(proto::HandshakeReply {
            protocol,
            protocol_min: own.0,
            protocol_max: own.1,
            backend: self.backend.kind(),
            version: self.backend.version(),
            config_schema_json: self.backend.config_schema().to_string(),
            exclusive: self.backend.exclusive(),
        }))
    }

    async fn configure(&self, request: Request<proto::ConfigureRequest>) -> Answer<proto::ConfigureReply> {
        if self.protocol.load(Ordering::Acquire) == 0 {
            return Err(Status::failed_precondition("Handshake comes first, and has to find a common number"));
        }
        let (headers, _, asked) = request.into_parts();
        credentials::with(&headers, async {
            let _one_at_a_time = self.opening.lock().await;
            if self.adapter.get().is_some() {
                return Err(Status::already_exists("the backend is open"));
            }
            let config = serde_json::from_str(&asked.config_json)
                .map_err(|error| Status::invalid_argument(format!("config_json: {error}")))?;
            let pools: Result<Vec<PoolSpec>, _> = asked.pools.into_iter().map(TryInto::try_into).collect();
            let opened = self.backend.open(config, pools.map_err(wrong)?).await.map_err(|e| status_of(&e))?;
            let _ = self.adapter.set(opened);
            Ok(Response::new(proto::ConfigureReply {}))
        })
        .await
    }

    async fn describe(&self, _: Request<proto::DescribeRequest>) -> Answer<proto::Description> {
        let adapter = self.adapter()?;
        let (about, can) = (adapter.describe(), adapter.capabilities());
        Ok(Response::new(proto::Description {
            backend: about.backend,
            version: about.version,
            runs_commands: about.runs_commands,
            runs_images: about.runs_images,
            stops_on_lapse: about.stops_on_lapse,
            firmness: proto::Firmness::from(about.firmness).into(),
            reserves: can.reserves,
            provisions: can.provisions,
            streams_inventory: can.streams_inventory,
            by_runner: can.by_runner,
        }))
    }

    async fn health(&self, request: Request<proto::HealthRequest>) -> Answer<proto::HealthReply> {
        let adapter = self.adapter()?;
        credentials::with(request.metadata(), async { Ok(Response::new(adapter.health().await.into())) }).await
    }

    async fn list_pools(&self, request: Request<proto::ListPoolsRequest>) -> Answer<proto::ListPoolsReply> {
        let adapter = self.adapter()?;
        credentials::with(request.metadata(), async {
            let pools = adapter.inventory().await.map_err(|e| status_of(&e))?;
            Ok(Response::new(proto::ListPoolsReply { pools: pools.into_iter().map(Into::into).collect() }))
        })
        .await
    }

    async fn submit(&self, request: Request<proto::SubmitRequest>) -> Answer<proto::RunStatus> {
        let adapter = self.adapter()?;
        let (headers, _, run) = request.into_parts();
        let desk = run.desk.clone().map(DeskTicket::try_from).transpose().map_err(wrong)?;
        let run = RunRequest::try_from(run).map_err(wrong)?;
        if run.env.values().map(String::len).sum::<usize>() > 16 * TEXT_BYTES_MAX {
            return Err(wrong(WireError { field: "env", expected: "at most 1 MiB in all" }));
        }
        credentials::with(&headers, async {
            let submitted = match desk {
                Some(desk) if adapter.capabilities().by_runner => adapter.submit_by_runner(run, desk).await,
                _ => adapter.submit(run).await,
            };
            Ok(Response::new(submitted.map_err(|e| status_of(&e))?.into()))
        })
        .await
    }

    async fn get_run(&self, request: Request<proto::RunKey>) -> Answer<proto::GetRunReply> {
        let adapter = self.adapter()?;
        let (headers, _, asked) = request.into_parts();
        let key = key(Some(asked))?;
        credentials::with(&headers, async {
            let run = adapter.status(key).await.map_err(|e| status_of(&e))?.map(Into::into);
            Ok(Response::new(proto::GetRunReply { run }))
        })
        .await
    }

    async fn get_waiting(&self, request: Request<proto::RunKey>) -> Answer<proto::GetWaitingReply> {
        let adapter = self.machines()?;
        let (headers, _, asked) = request.into_parts();
        let key = key(Some(asked))?;
        credentials::with(&headers, async {
            let reason = adapter.waiting(key).await.map_err(|e| status_of(&e))?;
            Ok(Response::new(proto::GetWaitingReply { reason: reason.as_ref().map(reason_to_wire) }))
        })
        .await
    }

    type ListRunsStream = BoxStream<'static, Result<proto::RunStatus, Status>>;

    async fn list_runs(&self, request: Request<proto::ListRunsRequest>) -> Answer<Self::ListRunsStream> {
        let adapter = self.adapter()?;
        credentials::with(request.metadata(), async {
            let runs = adapter.list().await.map_err(|e| status_of(&e))?;
            let runs = futures::stream::iter(runs.into_iter().map(|run| Ok(run.into())));
            Ok(Response::new(self.until_stop(runs)))
        })
        .await
    }

    type WatchRunsStream = BoxStream<'static, Result<proto::RunStatus, Status>>;

    async fn watch_runs(&self, _: Request<proto::WatchRunsRequest>) -> Answer<Self::WatchRunsStream> {
        let events = self.adapter()?.watch();
        let changes = futures::stream::unfold(Some(events), |events| async move {
            let mut events = events?;
            match events.recv().await {
                Ok(event) => {
                    let change = RunStatus { key: event.key, state: event.state };
                    Some((Ok(change.into()), Some(events)))
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    Some((Err(Status::data_loss("changes were missed: list the runs and watch again")), None))
                }
                Err(broadcast::error::RecvError::Closed) => None,
            }
        });
        // says that the subscription stands
        let stands = futures::stream::once(async { Ok(proto::RunStatus::default()) });
        Ok(Response::new(self.until_stop(stands.chain(changes))))
    }

    async fn read_log(&self, request: Request<proto::ReadLogRequest>) -> Answer<proto::LogChunk> {
        let adapter = self.adapter()?;
        let (headers, _, asked) = request.into_parts();
        let stream = LogStream::try_from(asked.stream()).map_err(wrong)?;
        let key = key(asked.key)?;
        let bytes_max = usize::try_from(asked.bytes_max).unwrap_or(usize::MAX).min(LOG_CHUNK_BYTES_MAX);
        credentials::with(&headers, async {
            let chunk = adapter.logs(key, stream, asked.offset, bytes_max).await.map_err(|e| status_of(&e))?;
            Ok(Response::new(chunk.into()))
        })
        .await
    }

    async fn renew(&self, request: Request<proto::RenewRequest>) -> Answer<proto::Done> {
        let adapter = self.adapter()?;
        let (headers, _, asked) = request.into_parts();
        let key = key(asked.key)?;
        credentials::with(&headers, async {
            adapter.renew(key, asked.ttl_ms).await.map_err(|e| status_of(&e))?;
            Ok(Response::new(proto::Done {}))
        })
        .await
    }

    async fn cancel(&self, request: Request<proto::CancelRequest>) -> Answer<proto::Done> {
        let adapter = self.adapter()?;
        let (headers, _, asked) = request.into_parts();
        let key = key(asked.key)?;
        credentials::with(&headers, async {
            adapter.cancel(key, asked.grace_ms).await.map_err(|e| status_of(&e))?;
            Ok(Response::new(proto::Done {}))
        })
        .await
    }

    async fn remove(&self, request: Request<proto::RunKey>) -> Answer<proto::Done> {
        let adapter = self.adapter()?;
        let (headers, _, asked) = request.into_parts();
        let key = key(Some(asked))?;
        credentials::with(&headers, async {
            adapter.remove(key).await.map_err(|e| status_of(&e))?;
            Ok(Response::new(proto::Done {}))
        })
        .await
    }

    type InventoryStream = BoxStream<'static, Result<proto::InventoryEvent, Status>>;

    async fn inventory(&self, request: Request<proto::InventoryRequest>) -> Answer<Self::InventoryStream> {
        let adapter = self.machines()?;
        let (headers, _, asked) = request.into_parts();
        credentials::with(&headers, async {
            let events = adapter.servers(asked.follow).await.map_err(|e| status_of(&e))?;
            let events = futures::stream::unfold(events, |mut events| async move {
                events.recv().await.map(|event| (Ok(event.into()), events))
            });
            Ok(Response::new(self.until_stop(events)))
        })
        .await
    }

    async fn reserve(&self, request: Request<proto::ReserveRequest>) -> Answer<proto::Reservation> {
        let adapter = self.machines()?;
        let (headers, _, asked) = request.into_parts();
        let asked = asked.try_into().map_err(wrong)?;
        credentials::with(&headers, async {
            Ok(Response::new(adapter.reserve(asked).await.map_err(|e| status_of(&e))?.into()))
        })
        .await
    }

    async fn unreserve(&self, request: Request<proto::RunKey>) -> Answer<proto::Done> {
        let adapter = self.machines()?;
        let (headers, _, asked) = request.into_parts();
        let key = key(Some(asked))?;
        credentials::with(&headers, async {
            adapter.unreserve(key).await.map_err(|e| status_of(&e))?;
            Ok(Response::new(proto::Done {}))
        })
        .await
    }

    async fn provision(&self, request: Request<proto::ProvisionRequest>) -> Answer<proto::Resource> {
        let adapter = self.machines()?;
        let (headers, _, asked) = request.into_parts();
        let asked = asked.try_into().map_err(wrong)?;
        credentials::with(&headers, async {
            Ok(Response::new(adapter.provision(asked).await.map_err(|e| status_of(&e))?.into()))
        })
        .await
    }

    async fn modify(&self, request: Request<proto::ModifyRequest>) -> Answer<proto::Resource> {
        let adapter = self.machines()?;
        let (headers, _, asked) = request.into_parts();
        let tag = asked.tag.unwrap_or_default().try_into().map_err(wrong)?;
        let need = asked.need.ok_or_else(|| wrong(WireError { field: "need", expected: "a value" }))?.into();
        credentials::with(&headers, async {
            Ok(Response::new(adapter.modify(tag, need).await.map_err(|e| status_of(&e))?.into()))
        })
        .await
    }

    async fn power(&self, request: Request<proto::PowerRequest>) -> Answer<proto::Resource> {
        let adapter = self.machines()?;
        let (headers, _, asked) = request.into_parts();
        let action = asked.action().try_into().map_err(wrong)?;
        let tag = asked.tag.unwrap_or_default().try_into().map_err(wrong)?;
        credentials::with(&headers, async {
            Ok(Response::new(adapter.power(tag, action).await.map_err(|e| status_of(&e))?.into()))
        })
        .await
    }

    async fn release(&self, request: Request<proto::ResourceTag>) -> Answer<proto::Resource> {
        let adapter = self.machines()?;
        let (headers, _, asked) = request.into_parts();
        let tag = asked.try_into().map_err(wrong)?;
        credentials::with(&headers, async {
            Ok(Response::new(adapter.release(tag).await.map_err(|e| status_of(&e))?.into()))
        })
        .await
    }

    async fn get_resource(&self, request: Request<proto::ResourceTag>) -> Answer<proto::GetResourceReply> {
        let adapter = self.machines()?;
        let (headers, _, asked) = request.into_parts();
        let tag = asked.try_into().map_err(wrong)?;
        credentials::with(&headers, async {
            let resource = adapter.resource(tag).await.map_err(|e| status_of(&e))?.map(Into::into);
            Ok(Response::new(proto::GetResourceReply { resource }))
        })
        .await
    }
}
