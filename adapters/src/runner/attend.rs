//! One runner's connection at the desk, from Hello to the end of the stream.

use super::desk::Inner;
use super::record::{DeskRecord, append, length};
use super::{PIECE_BYTES_MAX, RUN_PROTOCOL, is_token, key_of, proto};
use crate::contract::{OutputFound, RunEnd, RunKey, RunState, Usage};
use crate::host::lock;
use cpi::ids::ContentDigest;
use cpi::reason::{Reason, ReasonCode};
use futures::stream::BoxStream;
use proto::desk_says::Says as ToRunner;
use proto::runner_says::Says as FromRunner;
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::io::{self, Read as _, Seek as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tonic::{Request, Response, Status, Streaming};

/// From the opening of a stream to its Hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Messages to a runner under way.
const QUEUE: usize = 8;
/// Room beyond the bound of a log for the line that says that it was cut.
const CUT_LINE_BYTES: u64 = 256;
/// The longest name of a runner's instance.
const INSTANCE_BYTES_MAX: usize = 64;

/// The gRPC service.
pub(super) struct Desk(pub Arc<Inner>);

/// What a connection gets when it may speak for its run.
pub(super) struct Attendance {
    pub control: watch::Receiver<u64>,
    /// What is left of the lease; 0 where nothing is known.
    pub lease_ttl_ms: u64,
}

/// Why a connection may not speak for its run.
pub(super) enum Refused {
    /// It never will.
    NotWanted(&'static str),
    /// It may try again.
    Disk(io::Error),
}

type Sender = mpsc::Sender<Result<proto::DeskSays, Status>>;

fn say(says: ToRunner) -> Result<proto::DeskSays, Status> {
    Ok(proto::DeskSays { says: Some(says) })
}

#[tonic::async_trait]
impl proto::run_desk_server::RunDesk for Desk {
    type AttendStream = BoxStream<'static, Result<proto::DeskSays, Status>>;

    async fn attend(
        &self,
        request: Request<Streaming<proto::RunnerSays>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        let given =
            request.metadata().get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let given = given.ok_or_else(|| Status::unauthenticated("expected a bearer token"))?.to_owned();
        let mut says = request.into_inner();
        let first = tokio::time::timeout(HELLO_WITHIN, says.message())
            .await
            .map_err(|_| Status::deadline_exceeded("expected Hello within 10 s"))??;
        let Some(FromRunner::Hello(hello)) = first.and_then(|first| first.says) else {
            return Err(Status::invalid_argument("expected Hello first"));
        };
        // the same answer for an unknown run and a wrong token
        if !is_token(&self.0.secret, &hello.run, &given) {
            return Err(Status::unauthenticated("the token is not for this run"));
        }
        if hello.protocol != RUN_PROTOCOL {
            return Err(Status::failed_precondition(format!("protocol {}: expected {RUN_PROTOCOL}", hello.protocol)));
        }
        let key = key_of(&hello.run).ok_or_else(|| Status::invalid_argument("run: expected TASK-FENCE"))?;
        if hello.instance.is_empty() || hello.instance.len() > INSTANCE_BYTES_MAX {
            return Err(Status::invalid_argument("instance: expected 1 to 64 bytes"));
        }
        static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
        let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel(QUEUE);
        match self.0.attach(&key, &hello.instance, number) {
            Ok(attendance) => {
                let connection = Connection { desk: Arc::clone(&self.0), key, number, sender };
                tokio::spawn(connection.serve(says, attendance));
            }
            Err(Refused::NotWanted(why)) => {
                let _ = sender.try_send(say(ToRunner::NotWanted(proto::NotWanted { why: why.to_owned() })));
            }
            Err(Refused::Disk(error)) => return Err(Status::unavailable(format!("the desk cannot write: {error}"))),
        }
        let answers = futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|answer| (answer, receiver))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

struct Connection {
    desk: Arc<Inner>,
    key: RunKey,
    number: u64,
    sender: Sender,
}

impl Connection {
    async fn serve(self, says: Streaming<proto::RunnerSays>, attendance: Attendance) {
        let stop = self.desk.stop.clone();
        let why = tokio::select! {
            ended = self.talk(says, attendance) => ended.err(),
            () = stop.cancelled() => Some(Status::unavailable("the node stops")),
            () = self.sender.closed() => None,
        };
        if let Some(status) = why {
            tracing::debug!(run = %self.key.task, status = status.message(), "a runner's connection ends");
            let _ = self.sender.try_send(Err(status));
        }
        self.desk.detach(&self.key, self.number);
    }

    async fn tell(&self, says: ToRunner) -> Result<(), Status> {
        self.sender.send(say(says)).await.map_err(|_| Status::cancelled("the runner is gone"))
    }

    async fn talk(&self, mut says: Streaming<proto::RunnerSays>, mut attendance: Attendance) -> Result<(), Status> {
        let folder = self.desk.folder(&self.key);
        let record = folder.record().map_err(|error| self.disk(&error))?;
        let outputs_kept = (0..record.request.outputs.len()).map(|index| length(&folder.output(index))).collect();
        self.tell(ToRunner::Welcome(proto::Welcome {
            order: Some(self.order(&record)),
            stdout_kept: length(&folder.log(0)),
            stderr_kept: length(&folder.log(1)),
            outputs_kept,
            lease_ttl_ms: attendance.lease_ttl_ms,
        }))
        .await?;
        // cancels that came before the connection
        attendance.control.mark_changed();
        let mut told = Told::default();
        loop {
            tokio::select! {
                changed = attendance.control.changed() => {
                    if changed.is_err() {
                        return self.tell(ToRunner::NotWanted(proto::NotWanted { why: "the run is removed".to_owned() })).await;
                    }
                    if self.pass_on(&mut told).await? {
                        return Ok(());
                    }
                }
                message = says.message() => match message?.and_then(|message| message.says) {
                    Some(FromRunner::Input(wanted)) => self.give_input(&record, &wanted).await?,
                    Some(FromRunner::Running(_)) => self.desk.set(&self.key, RunState::Running),
                    Some(FromRunner::Frozen(_)) => self.desk.set(&self.key, RunState::Frozen),
                    Some(FromRunner::Log(piece)) => self.keep_log(&piece)?,
                    Some(FromRunner::Output(piece)) => self.keep_output(&record, &piece)?,
                    Some(FromRunner::End(end)) => {
                        self.keep_end(&record, end).await?;
                        return self.tell(ToRunner::EndKept(proto::EndKept {})).await;
                    }
                    Some(FromRunner::Hello(_)) => return Err(Status::invalid_argument("a second Hello")),
                    None => return Ok(()),
                },
            }
        }
    }

    /// Tells the runner what was asked of its run since; `true` where it has ended otherwise.
    async fn pass_on(&self, told: &mut Told) -> Result<bool, Status> {
        let (ended, cancel, renewed) = match lock(&self.desk.runs).get(&self.key) {
            Some(run) => (matches!(run.state, RunState::Ended(_)), run.cancel, run.renewed),
            None => (true, None, None),
        };
        if ended {
            let why = "the run has ended without its runner".to_owned();
            self.tell(ToRunner::NotWanted(proto::NotWanted { why })).await?;
            return Ok(true);
        }
        if cancel.is_some() && cancel != told.cancel {
            told.cancel = cancel;
            self.tell(ToRunner::Cancel(proto::Cancel { grace_ms: cancel.unwrap_or(0) })).await?;
        }
        if let Some((at, ttl_ms)) = renewed
            && told.renewed != Some(at)
        {
            told.renewed = Some(at);
            self.tell(ToRunner::Renew(proto::Renew { ttl_ms })).await?;
        }
        Ok(false)
    }

    fn order(&self, record: &DeskRecord) -> proto::Order {
        let (request, config) = (&record.request, &self.desk.config);
        let mut env: BTreeMap<String, String> = request.env.clone();
        env.insert("CAUSEWAY_TASK".to_owned(), request.key.task.to_string());
        env.insert("CAUSEWAY_FENCE".to_owned(), request.key.fence.to_string());
        env.insert("CAUSEWAY_CHIPS".to_owned(), chips(request.need.chip_milli));
        proto::Order {
            command: request.command.clone(),
            env: env.into_iter().collect(),
            inputs: request
                .inputs
                .iter()
                .map(|input| proto::Input {
                    path: input.path.clone(),
                    digest: input.digest.0.to_vec(),
                    executable: input.executable,
                })
                .collect(),
            outputs: request
                .outputs
                .iter()
                .map(|output| proto::Output { path: output.path.clone(), optional: output.optional })
                .collect(),
            max_runtime_ms: request.max_runtime_ms,
            lease_ttl_ms: request.lease_ttl_ms,
            freeze_on_lapse: request.freeze_on_lapse,
            memory_bytes: request.need.memory_bytes,
            log_bytes_max: config.log_bytes_max,
            linger_ms: config.linger_ms,
        }
    }

    async fn give_input(&self, record: &DeskRecord, wanted: &proto::InputWanted) -> Result<(), Status> {
        let input = record.request.inputs.get(wanted.index as usize);
        let input = input.ok_or_else(|| Status::invalid_argument("input.index: expected one of the order's inputs"))?;
        let mut file = std::fs::File::open(&input.source).map_err(|error| self.disk(&error))?;
        file.seek(io::SeekFrom::Start(wanted.offset)).map_err(|error| self.disk(&error))?;
        let mut offset = wanted.offset;
        loop {
            let mut bytes = Vec::with_capacity(PIECE_BYTES_MAX);
            let read = io::Read::by_ref(&mut file).take(PIECE_BYTES_MAX as u64).read_to_end(&mut bytes);
            let read = read.map_err(|error| self.disk(&error))?;
            let last = read < PIECE_BYTES_MAX;
            self.tell(ToRunner::Input(proto::InputPiece { index: wanted.index, offset, bytes, last })).await?;
            offset += read as u64;
            if last {
                return Ok(());
            }
        }
    }

    fn keep_log(&self, piece: &proto::LogPiece) -> Result<(), Status> {
        let which = match piece.stream {
            1 => 0,
            2 => 1,
            _ => return Err(Status::invalid_argument("log.stream: expected 1 or 2")),
        };
        let bytes_max = self.desk.config.log_bytes_max + CUT_LINE_BYTES;
        self.keep(&self.desk.folder(&self.key).log(which), piece.offset, &piece.bytes, bytes_max).map(drop)
    }

    fn keep_output(&self, record: &DeskRecord, piece: &proto::OutputPiece) -> Result<(), Status> {
        let index = piece.index as usize;
        if index >= record.request.outputs.len() {
            return Err(Status::invalid_argument("output.index: expected one of the order's outputs"));
        }
        let folder = self.desk.folder(&self.key);
        let others: u64 = (0..record.request.outputs.len())
            .filter(|other| *other != index)
            .map(|other| length(&folder.output(other)))
            .sum();
        let room = self.desk.config.output_bytes_max.saturating_sub(others);
        self.keep(&folder.output(index), piece.offset, &piece.bytes, room).map(drop)
    }

    fn keep(&self, path: &Path, offset: u64, bytes: &[u8], bytes_max: u64) -> Result<u64, Status> {
        if bytes.len() > PIECE_BYTES_MAX {
            return Err(Status::invalid_argument("a piece has at most 256 KiB"));
        }
        append(path, offset, bytes, bytes_max).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => Status::out_of_range(error.to_string()),
            _ => self.disk(&error),
        })
    }

    async fn keep_end(&self, record: &DeskRecord, end: proto::End) -> Result<(), Status> {
        let (desk, key, record) = (Arc::clone(&self.desk), self.key, record.clone());
        let kept = tokio::task::spawn_blocking(move || {
            let folder = desk.folder(&key);
            let mut outputs = Vec::with_capacity(end.outputs.len());
            for said in &end.outputs {
                let wrong =
                    || Status::invalid_argument("end.outputs: expected outputs of the order, with 32 bytes of digest");
                let output = record.request.outputs.get(said.index as usize).ok_or_else(wrong)?;
                let digest = ContentDigest(said.digest.as_slice().try_into().map_err(|_| wrong())?);
                let source = folder.output(said.index as usize);
                if said.size_bytes == 0 {
                    // no piece told of it
                    std::fs::File::create(&source).map_err(|error| unwritable(&error))?;
                }
                let (found, size_bytes) = hash(&source).map_err(|error| unwritable(&error))?;
                if found != digest || size_bytes != said.size_bytes {
                    // it comes again from its beginning
                    let _ = std::fs::remove_file(&source);
                    return Err(Status::data_loss(format!("output {}: {found} came", output.path)));
                }
                outputs.push(OutputFound { path: output.path.clone(), source, digest, size_bytes });
            }
            let end = checked_end(&end, &record, outputs)?;
            desk.end(&key, end).map_err(|error| unwritable(&error))
        });
        kept.await.map_err(|error| Status::internal(error.to_string()))?
    }

    fn disk(&self, error: &io::Error) -> Status {
        tracing::warn!(run = %self.key.task, %error, "the run desk cannot read or write");
        unwritable(error)
    }
}

/// What a connection has passed on.
#[derive(Default)]
struct Told {
    cancel: Option<u64>,
    renewed: Option<std::time::Instant>,
}

fn unwritable(error: &io::Error) -> Status {
    Status::unavailable(format!("the desk's disk: {error}"))
}

fn hash(path: &Path) -> io::Result<(ContentDigest, u64)> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = sha2::Sha256::new();
    let size = io::copy(&mut file, &mut hash)?;
    Ok((ContentDigest(hash.finalize().into()), size))
}

fn checked_end(end: &proto::End, record: &DeskRecord, outputs: Vec<OutputFound>) -> Result<RunEnd, Status> {
    let reason = match end.reason_code.as_str() {
        "" => None,
        code => {
            let known = ReasonCode::ALL.iter().find(|known| known.code() == code);
            let detail: String = end.reason_detail.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            Some(Reason::new(*known.unwrap_or(&ReasonCode::Internal), detail))
        }
    };
    if end.exit_code.is_none() && end.signal.is_none() && reason.is_none() {
        return Err(Status::invalid_argument("end: expected an exit code, a signal or a reason"));
    }
    let missing = record
        .request
        .outputs
        .iter()
        .find(|output| !output.optional && !outputs.iter().any(|found| found.path == output.path));
    // a runner cannot call a run good that lacks what was asked for
    let reason = reason.or_else(|| missing.map(|output| Reason::new(ReasonCode::OutputMissing, output.path.clone())));
    Ok(RunEnd {
        exit_code: end.exit_code,
        signal: end.signal,
        reason,
        usage: Usage { wall_ms: end.wall_ms, cpu_ms: end.cpu_ms, memory_peak_bytes: end.memory_peak_bytes },
        outputs,
    })
}

/// Thousandths of a chip as a decimal: `8`, `0.25`.
fn chips(milli: u64) -> String {
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
