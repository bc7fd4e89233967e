//! Runs, pools and logs: contract to wire and back.

use super::fault::{reason_from_wire, reason_to_wire};
use super::{LOG_CHUNK_BYTES_MAX, WireError, list, proto, text, there};
use crate::contract::{
    AdapterDescription, AdapterHealth, LogChunk, LogStream, OutputFound, RunEnd, RunInput, RunKey, RunOutput,
    RunRequest, RunState, RunStatus, Usage,
};
use crate::runner::DeskTicket;
use cpi::ids::{ContentDigest, Epoch, Fence, MemberId};
use cpi::resource::{ChipKind, ChipModel, ComputeClass, Firmness, PoolSpec, PriceList, Quantity, ServerClass};
use std::path::PathBuf;

impl From<RunKey> for proto::RunKey {
    fn from(key: RunKey) -> Self {
        let fence = proto::Fence {
            epoch_counter: key.fence.epoch.counter,
            epoch_member: key.fence.epoch.member.0,
            attempt: key.fence.attempt,
        };
        Self { task: key.task.to_string(), fence: Some(fence) }
    }
}

impl TryFrom<proto::RunKey> for RunKey {
    type Error = WireError;
    fn try_from(key: proto::RunKey) -> Result<Self, WireError> {
        let task = key.task.parse().map_err(|_| WireError::new("key.task", "26 characters of Crockford base32"))?;
        let fence = there("key.fence", key.fence)?;
        let epoch = Epoch { counter: fence.epoch_counter, member: MemberId(fence.epoch_member) };
        Ok(Self { task, fence: Fence { epoch, attempt: fence.attempt } })
    }
}

pub(super) fn digest(field: &'static str, bytes: &[u8]) -> Result<ContentDigest, WireError> {
    bytes.try_into().map(ContentDigest).map_err(|_| WireError::new(field, "32 bytes"))
}

/// A path of the node's disk; paths that are not UTF-8 cannot be told to a plugin and become empty, which no plugin can
/// open.
fn path_text(path: &std::path::Path) -> String {
    path.to_str().unwrap_or_default().to_owned()
}

impl From<RunRequest> for proto::SubmitRequest {
    fn from(run: RunRequest) -> Self {
        let input = |input: RunInput| proto::Input {
            path: input.path,
            source: path_text(&input.source),
            digest: input.digest.0.to_vec(),
            executable: input.executable,
        };
        let output = |output: RunOutput| proto::Output { path: output.path, optional: output.optional };
        Self {
            key: Some(run.key.into()),
            pool: run.pool,
            class: run.class,
            need: Some(run.need.into()),
            command: run.command,
            image: run.image,
            env: run.env.into_iter().collect(),
            inputs: run.inputs.into_iter().map(input).collect(),
            outputs: run.outputs.into_iter().map(output).collect(),
            max_runtime_ms: run.max_runtime_ms,
            lease_ttl_ms: run.lease_ttl_ms,
            freeze_on_lapse: run.freeze_on_lapse,
            desk: None,
        }
    }
}

impl From<DeskTicket> for proto::DeskTicket {
    fn from(ticket: DeskTicket) -> Self {
        let DeskTicket { run, url, token, ca_pem, linger_ms } = ticket;
        Self { run, url, token, ca_pem, linger_ms }
    }
}

impl TryFrom<proto::DeskTicket> for DeskTicket {
    type Error = WireError;
    fn try_from(ticket: proto::DeskTicket) -> Result<Self, WireError> {
        Ok(Self {
            run: text("desk.run", ticket.run)?,
            url: text("desk.url", ticket.url)?,
            token: text("desk.token", ticket.token)?,
            ca_pem: text("desk.ca_pem", ticket.ca_pem)?,
            linger_ms: ticket.linger_ms,
        })
    }
}

impl TryFrom<proto::SubmitRequest> for RunRequest {
    type Error = WireError;
    fn try_from(run: proto::SubmitRequest) -> Result<Self, WireError> {
        let input = |input: proto::Input| {
            Ok(RunInput {
                path: text("inputs.path", input.path)?,
                source: PathBuf::from(text("inputs.source", input.source)?),
                digest: digest("inputs.digest", &input.digest)?,
                executable: input.executable,
            })
        };
        let output = |output: proto::Output| {
            Ok(RunOutput { path: text("outputs.path", output.path)?, optional: output.optional })
        };
        Ok(Self {
            key: there("key", run.key)?.try_into()?,
            pool: text("pool", run.pool)?,
            class: text("class", run.class)?,
            need: there("need", run.need)?.into(),
            // one argument may be a whole script: the message's own bound holds it
            command: run.command,
            image: run.image.map(|image| text("image", image)).transpose()?,
            env: run.env.into_iter().collect(),
            inputs: list("inputs", run.inputs, input)?,
            outputs: list("outputs", run.outputs, output)?,
            max_runtime_ms: run.max_runtime_ms,
            lease_ttl_ms: run.lease_ttl_ms,
            freeze_on_lapse: run.freeze_on_lapse,
        })
    }
}

impl From<RunStatus> for proto::RunStatus {
    fn from(status: RunStatus) -> Self {
        let (state, end) = match status.state {
            RunState::Starting => (proto::RunState::Starting, None),
            RunState::Running => (proto::RunState::Running, None),
            RunState::Frozen => (proto::RunState::Frozen, None),
            RunState::Ended(end) => (proto::RunState::Ended, Some(end.into())),
        };
        Self { key: Some(status.key.into()), state: state.into(), end }
    }
}

impl TryFrom<proto::RunStatus> for RunStatus {
    type Error = WireError;
    fn try_from(status: proto::RunStatus) -> Result<Self, WireError> {
        let state = match status.state() {
            proto::RunState::Starting => RunState::Starting,
            proto::RunState::Running => RunState::Running,
            proto::RunState::Frozen => RunState::Frozen,
            proto::RunState::Ended => RunState::Ended(there("end", status.end)?.try_into()?),
            proto::RunState::Unspecified => return Err(WireError::new("state", "a state of this protocol")),
        };
        Ok(Self { key: there("key", status.key)?.try_into()?, state })
    }
}

impl From<RunEnd> for proto::RunEnd {
    fn from(end: RunEnd) -> Self {
        let output = |output: OutputFound| proto::OutputFound {
            source: path_text(&output.source),
            path: output.path,
            digest: output.digest.0.to_vec(),
            size_bytes: output.size_bytes,
        };
        Self {
            exit_code: end.exit_code,
            signal: end.signal,
            reason: end.reason.as_ref().map(reason_to_wire),
            wall_ms: end.usage.wall_ms,
            cpu_ms: end.usage.cpu_ms,
            memory_peak_bytes: end.usage.memory_peak_bytes,
            outputs: end.outputs.into_iter().map(output).collect(),
        }
    }
}

impl TryFrom<proto::RunEnd> for RunEnd {
    type Error = WireError;
    fn try_from(end: proto::RunEnd) -> Result<Self, WireError> {
        let output = |output: proto::OutputFound| {
            Ok(OutputFound {
                path: text("end.outputs.path", output.path)?,
                source: PathBuf::from(text("end.outputs.source", output.source)?),
                digest: digest("end.outputs.digest", &output.digest)?,
                size_bytes: output.size_bytes,
            })
        };
        if end.exit_code.is_none() && end.signal.is_none() && end.reason.is_none() {
            return Err(WireError::new("end", "an exit code, a signal or a reason"));
        }
        let usage = Usage { wall_ms: end.wall_ms, cpu_ms: end.cpu_ms, memory_peak_bytes: end.memory_peak_bytes };
        Ok(Self {
            exit_code: end.exit_code,
            signal: end.signal,
            reason: end.reason.map(reason_from_wire),
            usage,
            outputs: list("end.outputs", end.outputs, output)?,
        })
    }
}

impl From<LogStream> for proto::LogStream {
    fn from(stream: LogStream) -> Self {
        match stream {
            LogStream::Stdout => Self::Stdout,
            LogStream::Stderr => Self::Stderr,
        }
    }
}

impl TryFrom<proto::LogStream> for LogStream {
    type Error = WireError;
    fn try_from(stream: proto::LogStream) -> Result<Self, WireError> {
        match stream {
            proto::LogStream::Stdout => Ok(Self::Stdout),
            proto::LogStream::Stderr => Ok(Self::Stderr),
            proto::LogStream::Unspecified => Err(WireError::new("stream", "stdout or stderr")),
        }
    }
}

impl From<LogChunk> for proto::LogChunk {
    fn from(chunk: LogChunk) -> Self {
        Self { offset: chunk.offset, bytes: chunk.bytes, end: chunk.end }
    }
}

impl TryFrom<proto::LogChunk> for LogChunk {
    type Error = WireError;
    fn try_from(chunk: proto::LogChunk) -> Result<Self, WireError> {
        if chunk.bytes.len() > LOG_CHUNK_BYTES_MAX {
            return Err(WireError::new("bytes", "at most 1 MiB of a log"));
        }
        Ok(Self { offset: chunk.offset, bytes: chunk.bytes, end: chunk.end })
    }
}

impl From<Quantity> for proto::Quantity {
    fn from(quantity: Quantity) -> Self {
        let Quantity { cpu_milli, memory_bytes, storage_bytes, chip_milli } = quantity;
        Self { cpu_milli, memory_bytes, storage_bytes, chip_milli }
    }
}

impl From<proto::Quantity> for Quantity {
    fn from(quantity: proto::Quantity) -> Self {
        let proto::Quantity { cpu_milli, memory_bytes, storage_bytes, chip_milli } = quantity;
        Self { cpu_milli, memory_bytes, storage_bytes, chip_milli }
    }
}

impl From<Firmness> for proto::Firmness {
    fn from(firmness: Firmness) -> Self {
        match firmness {
            Firmness::Held => Self::Held,
            Firmness::Reserved => Self::Reserved,
            Firmness::Estimate => Self::Estimate,
        }
    }
}

impl TryFrom<proto::Firmness> for Firmness {
    type Error = WireError;
    fn try_from(firmness: proto::Firmness) -> Result<Self, WireError> {
        match firmness {
            proto::Firmness::Held => Ok(Self::Held),
            proto::Firmness::Reserved => Ok(Self::Reserved),
            proto::Firmness::Estimate => Ok(Self::Estimate),
            proto::Firmness::Unspecified => Err(WireError::new("firmness", "held, reserved or estimate")),
        }
    }
}

impl From<ChipModel> for proto::ChipModel {
    fn from(chip: ChipModel) -> Self {
        Self { model: chip.model, kind: chip.kind.code().to_owned() }
    }
}

impl TryFrom<proto::ChipModel> for ChipModel {
    type Error = WireError;
    fn try_from(chip: proto::ChipModel) -> Result<Self, WireError> {
        let kind = ChipKind::from_code(&chip.kind);
        Ok(Self {
            model: text("chip.model", chip.model)?,
            kind: kind.ok_or_else(|| WireError::new("chip.kind", "CPU, GPU, NPU, TPU, DCU, DPU, FPG, ASC or QPU"))?,
        })
    }
}

impl From<PoolSpec> for proto::Pool {
    fn from(pool: PoolSpec) -> Self {
        let class = |class: ServerClass| proto::ServerClass {
            name: class.name,
            cpu_model: class.cpu_model,
            chip: class.chip.map(Into::into),
            per_server: Some(class.per_server.into()),
            servers: class.servers,
        };
        let PriceList { currency, cpu_core_hour_micro, memory_gib_hour_micro, chip_hour_micro } = pool.price;
        Self {
            name: pool.name,
            backend: pool.backend,
            class: pool.class.code().to_owned(),
            identifiers: pool.identifiers,
            classes: pool.classes.into_iter().map(class).collect(),
            firmness: proto::Firmness::from(pool.firmness).into(),
            price: Some(proto::Price { currency, cpu_core_hour_micro, memory_gib_hour_micro, chip_hour_micro }),
            carbon_g_per_kwh: pool.carbon_g_per_kwh,
            cordoned: pool.cordoned,
        }
    }
}

impl TryFrom<proto::Pool> for PoolSpec {
    type Error = WireError;
    fn try_from(pool: proto::Pool) -> Result<Self, WireError> {
        const CLASSES: [ComputeClass; 5] = [
            ComputeClass::General,
            ComputeClass::Intelligent,
            ComputeClass::Super,
            ComputeClass::Edge,
            ComputeClass::Hybrid,
        ];
        let class = |class: proto::ServerClass| {
            Ok(ServerClass {
                name: text("pool.classes.name", class.name)?,
                cpu_model: text("pool.classes.cpu_model", class.cpu_model)?,
                chip: class.chip.map(TryInto::try_into).transpose()?,
                per_server: there("pool.classes.per_server", class.per_server)?.into(),
                servers: class.servers,
            })
        };
        let price = pool.price.clone().unwrap_or_default();
        Ok(Self {
            firmness: pool.firmness().try_into()?,
            name: text("pool.name", pool.name)?,
            backend: text("pool.backend", pool.backend)?,
            class: CLASSES
                .into_iter()
                .find(|class| class.code() == pool.class)
                .ok_or_else(|| WireError::new("pool.class", "GC, IC, SC, EC or HC"))?,
            identifiers: list("pool.identifiers", pool.identifiers, |id| text("pool.identifiers", id))?,
            classes: list("pool.classes", pool.classes, class)?,
            price: PriceList {
                currency: text("pool.price.currency", price.currency)?,
                cpu_core_hour_micro: price.cpu_core_hour_micro,
                memory_gib_hour_micro: price.memory_gib_hour_micro,
                chip_hour_micro: price.chip_hour_micro,
            },
            carbon_g_per_kwh: pool.carbon_g_per_kwh,
            cordoned: pool.cordoned,
        })
    }
}

impl From<AdapterHealth> for proto::HealthReply {
    fn from(health: AdapterHealth) -> Self {
        Self { ready: health.ready, notes: health.notes }
    }
}

impl TryFrom<proto::HealthReply> for AdapterHealth {
    type Error = WireError;
    fn try_from(health: proto::HealthReply) -> Result<Self, WireError> {
        Ok(Self { ready: health.ready, notes: list("notes", health.notes, |note| text("notes", note))? })
    }
}

impl TryFrom<&proto::Description> for AdapterDescription {
    type Error = WireError;
    fn try_from(about: &proto::Description) -> Result<Self, WireError> {
        Ok(Self {
            backend: text("backend", about.backend.clone())?,
            version: text("version", about.version.clone())?,
            runs_commands: about.runs_commands,
            runs_images: about.runs_images,
            stops_on_lapse: about.stops_on_lapse,
            firmness: about.firmness().try_into()?,
        })
    }
}
