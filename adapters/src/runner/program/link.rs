//! One connection to the desk: from Hello to its loss or to the kept end.

use super::Setting;
use super::job::{Job, Stand, Wish};
use crate::local::folder::is_inside;
use crate::runner::{MESSAGE_BYTES_MAX, PIECE_BYTES_MAX, RUN_PROTOCOL, proto};
use cpi::reason::{Reason, ReasonCode};
use proto::desk_says::Says as FromDesk;
use proto::runner_says::Says as ToDesk;
use sha2::Digest as _;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Request, Status, Streaming};

/// For a connection, and for the desk's answer to Hello.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// Between two signs of life, so that a dead desk is seen.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Pieces under way.
const QUEUE: usize = 4;
/// How often an input that does not match its digest is fetched.
const INPUT_TRIES_MAX: u32 = 3;

/// How a connection ended for good.
pub(super) enum Parted {
    /// The end is on the desk's disk.
    Reported,
    /// The run is another runner's, or over.
    NotWanted(String),
    /// The platform ends the job and says why itself.
    ByPlatform,
}

/// A connection that was lost or never stood.
pub(super) struct Lost {
    pub why: String,
    /// The desk had answered.
    pub spoke: bool,
}

/// Calls the desk once.
pub(super) async fn attend(setting: &Setting, job: &mut Option<Job>) -> Result<Parted, Lost> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let not_yet = |why: String| Lost { why, spoke: false };
    let opening = open(setting, &sender, receiver);
    let opened = tokio::time::timeout(CONNECT_WITHIN, opening).await;
    let mut says = match opened.map_err(|_| not_yet("the desk does not answer".to_owned()))? {
        Ok(says) => says,
        Err(why) => return Err(not_yet(why)),
    };
    let welcome = tokio::time::timeout(CONNECT_WITHIN, hear(&mut says)).await;
    let welcome = match welcome.map_err(|_| not_yet("no welcome".to_owned()))?.map_err(not_yet)? {
        FromDesk::Welcome(welcome) => welcome,
        FromDesk::NotWanted(said) => return Ok(Parted::NotWanted(said.why)),
        _ => return Err(not_yet("expected Welcome".to_owned())),
    };
    let mut session = Session { setting, sender, says, sent: [welcome.stdout_kept, welcome.stderr_kept], told: None };
    session.go_on(welcome, job).await.map_err(|why| Lost { why, spoke: true })
}

async fn open(
    setting: &Setting,
    sender: &mpsc::Sender<proto::RunnerSays>,
    receiver: mpsc::Receiver<proto::RunnerSays>,
) -> Result<Streaming<proto::DeskSays>, String> {
    let mut endpoint = Endpoint::from_shared(setting.url.clone())
        .map_err(|error| format!("{}: {error}", super::URL_VARIABLE))?
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE);
    if setting.url.starts_with("https://") {
        let ca = setting.ca_pem.as_ref().ok_or_else(|| format!("{} is not set", super::CA_VARIABLE))?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
        endpoint = endpoint.tls_config(tls).map_err(|error| chain(&error))?;
    }
    let channel =
        endpoint.connect().await.map_err(|error| format!("the desk at {}: {}", setting.url, chain(&error)))?;
    let hello = proto::Hello {
        protocol: RUN_PROTOCOL,
        run: setting.run.clone(),
        instance: setting.instance.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let first = proto::RunnerSays { says: Some(ToDesk::Hello(hello)) };
    sender.send(first).await.map_err(|_| "the stream is closed".to_owned())?;
    let messages = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|message| (message, receiver))
    });
    let mut request = Request::new(messages);
    let bearer = format!("Bearer {}", setting.token).parse();
    request.metadata_mut().insert("authorization", bearer.map_err(|_| "the token is no header".to_owned())?);
    let mut client = proto::run_desk_client::RunDeskClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Ok(client.attend(request).await.map_err(text)?.into_inner())
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

fn text(status: Status) -> String {
    format!("the desk: {:?}: {}", status.code(), status.message())
}

async fn hear(says: &mut Streaming<proto::DeskSays>) -> Result<FromDesk, String> {
    loop {
        match says.message().await.map_err(text)? {
            Some(message) => {
                // what a newer desk says more is not for us
                if let Some(says) = message.says {
                    return Ok(says);
                }
            }
            None => return Err("the desk closed the stream".to_owned()),
        }
    }
}

/// At most `bytes_max` bytes of a file from `offset`.
pub(super) fn read_piece(path: &Path, offset: u64, bytes_max: usize) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    file.seek(std::io::SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(bytes_max as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

struct Session<'a> {
    setting: &'a Setting,
    sender: mpsc::Sender<proto::RunnerSays>,
    says: Streaming<proto::DeskSays>,
    /// Bytes of the two logs that were sent.
    sent: [u64; 2],
    told: Option<Stand>,
}

impl Session<'_> {
    async fn tell(&self, says: ToDesk) -> Result<(), String> {
        let message = proto::RunnerSays { says: Some(says) };
        self.sender.send(message).await.map_err(|_| "the stream is closed".to_owned())
    }

    async fn go_on(&mut self, welcome: proto::Welcome, job: &mut Option<Job>) -> Result<Parted, String> {
        let lease = (welcome.lease_ttl_ms > 0).then(|| Duration::from_millis(welcome.lease_ttl_ms));
        let job = match job {
            Some(job) => {
                if let Some(lease) = lease {
                    job.wish(Wish::Renew(lease));
                }
                job
            }
            None => {
                let order = welcome.order.ok_or("a welcome without an order")?;
                let begun = match self.fetch(&order).await? {
                    Fetched::All => {
                        let lease = lease.map(|left| left.max(Duration::from_millis(order.lease_ttl_ms)));
                        Job::start(&self.setting.folder, order, lease)
                    }
                    Fetched::Never(reason) => Job::never(order, reason),
                    Fetched::NotWanted(why) => return Ok(Parted::NotWanted(why)),
                };
                job.insert(begun)
            }
        };
        loop {
            job.changed.mark_unchanged();
            self.send_logs(job).await?;
            let ended = job.end();
            if let Some(ended) = &ended
                && job.logs.iter().zip(self.sent).all(|(log, sent)| log.length() <= sent)
            {
                if ended.by_platform {
                    return Ok(Parted::ByPlatform);
                }
                for found in &ended.end.outputs {
                    let kept = welcome.outputs_kept.get(found.index as usize).copied().unwrap_or(0);
                    self.send_output(job, found, kept).await?;
                }
                self.tell(ToDesk::End(ended.end.clone())).await?;
                return self.until_kept().await;
            }
            if ended.is_none() && self.told != Some(job.stand()) {
                self.told = Some(job.stand());
                match job.stand() {
                    Stand::Running => self.tell(ToDesk::Running(proto::Running {})).await?,
                    Stand::Frozen => self.tell(ToDesk::Frozen(proto::Frozen {})).await?,
                    Stand::Ended => {}
                }
            }
            tokio::select! {
                changed = job.changed.changed() => {
                    if changed.is_err() && job.end().is_none() {
                        return Err("the command's watcher is gone".to_owned());
                    }
                }
                said = hear(&mut self.says) => match said? {
                    FromDesk::Renew(renew) => job.wish(Wish::Renew(Duration::from_millis(renew.ttl_ms))),
                    FromDesk::Cancel(cancel) => job.wish(Wish::Cancel(Duration::from_millis(cancel.grace_ms))),
                    FromDesk::NotWanted(said) => return Ok(Parted::NotWanted(said.why)),
                    FromDesk::Welcome(_) | FromDesk::Input(_) | FromDesk::EndKept(_) => {}
                },
            }
        }
    }

    async fn send_logs(&mut self, job: &Job) -> Result<(), String> {
        for (which, log) in job.logs.iter().enumerate() {
            while self.sent[which] < log.length() {
                let bytes = log.read(self.sent[which], PIECE_BYTES_MAX).map_err(|error| format!("a log: {error}"))?;
                if bytes.is_empty() {
                    break;
                }
                let (offset, stream) = (self.sent[which], if which == 0 { 1 } else { 2 });
                self.sent[which] += bytes.len() as u64;
                self.tell(ToDesk::Log(proto::LogPiece { stream, offset, bytes })).await?;
            }
        }
        Ok(())
    }

    async fn send_output(&self, job: &Job, found: &proto::OutputFound, kept: u64) -> Result<(), String> {
        let Some(output) = job.order.outputs.get(found.index as usize) else { return Ok(()) };
        let path = job.work.join(&output.path);
        // more than there is cannot be of this file: the desk finds out by the digest
        let mut offset = kept.min(found.size_bytes);
        while offset < found.size_bytes {
            let bytes =
                read_piece(&path, offset, PIECE_BYTES_MAX).map_err(|error| format!("{}: {error}", output.path))?;
            if bytes.is_empty() {
                return Err(format!("{}: it became shorter", output.path));
            }
            let piece = proto::OutputPiece { index: found.index, offset, bytes };
            offset += piece.bytes.len() as u64;
            self.tell(ToDesk::Output(piece)).await?;
        }
        Ok(())
    }

    async fn until_kept(&mut self) -> Result<Parted, String> {
        loop {
            match hear(&mut self.says).await? {
                FromDesk::EndKept(_) => return Ok(Parted::Reported),
                FromDesk::NotWanted(said) => return Ok(Parted::NotWanted(said.why)),
                _ => {}
            }
        }
    }

    /// Gets what is missing of the inputs.
    async fn fetch(&mut self, order: &proto::Order) -> Result<Fetched, String> {
        let work = self.setting.folder.join("work");
        let disk = |error: std::io::Error| format!("the run's folder: {error}");
        std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
            .create(&work)
            .map_err(disk)?;
        let paths = order.inputs.iter().map(|input| &input.path).chain(order.outputs.iter().map(|output| &output.path));
        for path in paths {
            if !is_inside(path) {
                let why = format!("{path:?} leaves the run's folder");
                return Ok(Fetched::Never(Reason::new(ReasonCode::InvalidTask, why)));
            }
            if let Some(parent) = work.join(path).parent() {
                std::fs::create_dir_all(parent).map_err(disk)?;
            }
        }
        for (index, input) in order.inputs.iter().enumerate() {
            let index = u32::try_from(index).map_err(|_| "too many inputs".to_owned())?;
            let path = work.join(&input.path);
            let mode = if input.executable { 0o700 } else { 0o600 };
            let mut tries = 0;
            while digest_of(&path).ok().as_deref() != Some(input.digest.as_slice()) {
                tries += 1;
                if tries > INPUT_TRIES_MAX {
                    let why = format!("{}: not what its digest says", input.path);
                    return Ok(Fetched::Never(Reason::new(ReasonCode::InputCorrupt, why)));
                }
                // what came of it before a lost connection is asked for no more; a whole one that is wrong starts anew
                let have = if tries == 1 { std::fs::metadata(&path).map_or(0, |meta| meta.len()) } else { 0 };
                let mut file =
                    std::fs::File::options().create(true).append(true).mode(mode).open(&path).map_err(disk)?;
                file.set_len(have).map_err(disk)?;
                self.tell(ToDesk::Input(proto::InputWanted { index, offset: have })).await?;
                loop {
                    match hear(&mut self.says).await? {
                        FromDesk::Input(piece) if piece.index == index => {
                            file.write_all(&piece.bytes).map_err(disk)?;
                            if piece.last {
                                break;
                            }
                        }
                        FromDesk::NotWanted(said) => return Ok(Fetched::NotWanted(said.why)),
                        FromDesk::Cancel(_) => {
                            let why = Reason::new(ReasonCode::Cancelled, "before it began");
                            return Ok(Fetched::Never(why));
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(Fetched::All)
    }
}

enum Fetched {
    All,
    /// The command cannot be started with these.
    Never(Reason),
    NotWanted(String),
}

fn digest_of(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = sha2::Sha256::new();
    std::io::copy(&mut file, &mut hash)?;
    Ok(hash.finalize().to_vec())
}
