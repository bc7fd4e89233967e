//! A plugin that misbehaves on command, for tests of the host: `causeway-adapter-rogue KIND`.

use adapters::contract::{Adapter, AdapterError};
use adapters::fake::{FakeAdapter, FakeBackend};
use adapters::plugin::{Backend, service};
use adapters::wire::{SOCKET_VARIABLE, proto};
use async_trait::async_trait;
use cpi::resource::PoolSpec;
use std::io::Read as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;

struct Rogue(String);

#[async_trait]
impl Backend for Rogue {
    fn kind(&self) -> String {
        "rogue".to_owned()
    }

    fn protocols(&self) -> (u32, u32) {
        if self.0 == "protocol" { (7, 9) } else { FakeBackend::default().protocols }
    }

    fn config_schema(&self) -> serde_json::Value {
        serde_json::json!({ "type": "object" })
    }

    async fn open(&self, _: serde_json::Value, pools: Vec<PoolSpec>) -> Result<Arc<dyn Adapter>, AdapterError> {
        let adapter = FakeAdapter::new(pools);
        let soon = Duration::from_millis(700);
        match self.0.as_str() {
            "hang" => drop(std::thread::spawn(move || {
                std::thread::sleep(soon);
                nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP)
            })),
            "crash-later" => drop(std::thread::spawn(move || {
                std::thread::sleep(soon);
                eprintln!("the platform's library panicked");
                std::process::exit(9)
            })),
            "hog" => drop(std::thread::spawn(move || {
                std::thread::sleep(soon);
                let mut held: Vec<Vec<u8>> = Vec::new();
                while held.len() < 4096 {
                    held.push(vec![1; 1 << 20]);
                }
                std::thread::sleep(Duration::from_secs(3600));
                drop(held);
            })),
            "flood-log" => drop(std::thread::spawn(|| {
                loop {
                    println!("{}", "all work and no play ".repeat(40));
                }
            })),
            "sick" => {
                let adapter = adapter.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(soon).await;
                    adapter.set_down(true);
                });
            }
            _ => {}
        }
        Ok(Arc::new(adapter))
    }
}

/// What `GetRunReply` looks like on the wire, with any bytes inside.
#[derive(Clone, PartialEq, prost::Message)]
struct Raw {
    #[prost(bytes = "vec", tag = "1")]
    run: Vec<u8>,
}

/// Answers one verb with what no protobuf library would write, and leaves the others alone.
#[derive(Clone)]
struct Twisted<S> {
    inner: S,
    huge: bool,
}

struct Answer(bool);

impl tonic::server::UnaryService<proto::RunKey> for Answer {
    type Response = Raw;
    type Future = BoxFuture<tonic::Response<Raw>, tonic::Status>;

    fn call(&mut self, _: tonic::Request<proto::RunKey>) -> Self::Future {
        // field 1 (key) of length 4, in it field 1 (task) of length 2: two bytes that are not UTF-8
        let run = if self.0 { vec![0x0a; 100 << 20] } else { vec![0x0a, 4, 0x0a, 2, 0xff, 0xfe] };
        Box::pin(async move { Ok(tonic::Response::new(Raw { run })) })
    }
}

impl<S> Service<http::Request<tonic::body::Body>> for Twisted<S>
where
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<tonic::body::Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        if request.uri().path().ends_with("/GetRun") {
            let huge = self.huge;
            Box::pin(async move {
                let codec = tonic_prost::ProstCodec::<Raw, proto::RunKey>::default();
                Ok(tonic::server::Grpc::new(codec).unary(Answer(huge), request).await)
            })
        } else {
            Box::pin(self.inner.call(request))
        }
    }
}

impl<S: NamedService> NamedService for Twisted<S> {
    const NAME: &'static str = S::NAME;
}

fn twisted(huge: bool) -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::var_os(SOCKET_VARIABLE).ok_or("no socket")?;
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0; 1]);
        std::process::exit(0);
    });
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(async {
        let listener = tokio::net::UnixListener::bind(path)?;
        let incoming = futures::stream::unfold(listener, |listener| async move {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let inner = service(Rogue("twisted".to_owned()), tokio_util::sync::CancellationToken::new());
        let server = tonic::transport::Server::builder().add_service(Twisted { inner, huge });
        server.serve_with_incoming(incoming).await?;
        Ok(())
    })
}

fn main() -> ExitCode {
    match std::env::args().nth(1).unwrap_or_default().as_str() {
        "crash" => {
            eprintln!("no licence was found");
            ExitCode::from(7)
        }
        kind @ ("huge" | "utf8") => match twisted(kind == "huge") {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
        kind => adapters::plugin::main(Rogue(kind.to_owned())),
    }
}
