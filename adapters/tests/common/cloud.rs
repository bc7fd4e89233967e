//! An OpenStack that is played: as much of Keystone, Placement, Nova, Glance and Neutron as the plugin asks for, over HTTP,
//! with faults on demand. Included by path.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

/// What a request is answered with instead.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This status and message.
    Says(u16, &'static str),
    /// It is done, and the connection ends without an answer.
    Loses,
    /// New servers end in error with this message.
    Breaks(&'static str),
}

/// One compute host.
#[derive(Debug, Clone)]
pub struct PlayedHost {
    pub vcpus: (u64, u64),
    pub memory_mb: (u64, u64),
    pub gpus: (u64, u64),
}

#[derive(Default)]
pub struct State {
    pub hosts: BTreeMap<String, PlayedHost>,
    pub servers: BTreeMap<String, Value>,
    /// By method and path; each is used once.
    pub faults: Vec<(&'static str, &'static str, Fault)>,
    /// Tokens given so far; only the last one is good.
    pub logins: u32,
    pub refuses_login: bool,
    next: u32,
}

#[derive(Clone)]
pub struct PlayedCloud {
    pub url: String,
    pub state: Arc<Mutex<State>>,
}

/// The id of a host's provider.
fn uuid(name: &str) -> String {
    format!("uuid-of-{name}")
}

impl PlayedCloud {
    /// Listens on loopback; with `tls`, over TLS.
    pub async fn start(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let cloud = Self { url, state: Arc::default() };
        let own = cloud.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (own, tls) = (own.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => own.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                own.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        cloud
    }

    async fn serve(&self, stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
        let mut stream = BufReader::new(stream);
        loop {
            let (mut first, mut length, mut token) = (String::new(), 0, String::new());
            if stream.read_line(&mut first).await.unwrap_or(0) == 0 {
                return;
            }
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await.unwrap_or(0) <= 2 {
                    break;
                }
                let (name, value) = line.split_once(':').unwrap_or_default();
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => length = value.trim().parse().unwrap_or(0),
                    "x-auth-token" => value.trim().clone_into(&mut token),
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            if stream.read_exact(&mut body).await.is_err() {
                return;
            }
            let mut words = first.split(' ');
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let Some((status, answer)) = self.answer(method, path, &token, &body) else { return };
            let text = if answer.is_null() { String::new() } else { answer.to_string() };
            let given = answer["token_id"].as_str().map(|id| format!("X-Subject-Token: {id}\r\n")).unwrap_or_default();
            let head = format!("HTTP/1.1 {status} Said\r\n{given}Content-Length: {}\r\n\r\n", text.len());
            if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(text.as_bytes()).await.is_err() {
                return;
            }
            let _ = stream.flush().await;
        }
    }

    /// `None`: the connection ends.
    fn answer(&self, method: &str, path: &str, token: &str, body: &Value) -> Option<(u16, Value)> {
        let mut state = self.state.lock().unwrap();
        let at =
            state.faults.iter().position(|(verb, begin, _)| *verb == method && path.split('?').next() == Some(*begin));
        let fault = at.map(|at| state.faults.remove(at).2);
        if let Some(Fault::Says(status, message)) = fault {
            return Some((status, json!({ "refused": { "code": status, "message": message } })));
        }
        if path == "/v3/auth/tokens" {
            return Some(self.login(&mut state));
        }
        if token != format!("token-{}", state.logins) {
            return Some((401, json!({ "error": { "message": "this token is not good any more" } })));
        }
        let answer = state.answer(method, path, body, fault.as_ref());
        if matches!(fault, Some(Fault::Loses)) { None } else { Some(answer) }
    }

    fn login(&self, state: &mut State) -> (u16, Value) {
        if state.refuses_login {
            return (401, json!({ "error": { "message": "The request you have made requires authentication." } }));
        }
        state.logins += 1;
        let service = |kind: &str, path: &str| {
            let url = format!("{}{path}", self.url);
            json!({ "type": kind, "endpoints": [{ "interface": "public", "region_id": "one", "url": url }] })
        };
        let catalogue = [
            service("compute", "/compute/v2.1"),
            service("placement", "/placement"),
            service("image", "/image"),
            service("network", "/network"),
        ];
        let token = json!({
            "issued_at": "2026-01-01T00:00:00.000000Z", "expires_at": "2026-01-01T01:00:00.000000Z", "catalog": catalogue,
        });
        (201, json!({ "token_id": format!("token-{}", state.logins), "token": token }))
    }
}

impl State {
    fn answer(&mut self, method: &str, path: &str, body: &Value, fault: Option<&Fault>) -> (u16, Value) {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        match (method, parts.as_slice()) {
            ("GET", ["compute", "v2.1", ""]) => (200, json!({ "version": { "version": "2.104" } })),
            ("GET", ["compute", "v2.1", "limits"]) => (200, json!({})),
            ("GET", ["placement", ""]) => (200, json!({ "versions": [{ "max_version": "1.39" }] })),
            ("GET", ["compute", "v2.1", "flavors", "detail"]) => (
                200,
                json!({ "flavors": [
                { "id": "f1", "name": "small", "vcpus": 1, "ram": 1024, "disk": 10, "extra_specs": {} },
                { "id": "f2", "name": "gpu", "vcpus": 4, "ram": 4096, "disk": 10,
                  "extra_specs": { "resources:PGPU": "1", "trait:CUSTOM_GPU_NVA100S80": "required" } },
            ] }),
            ),
            ("GET", ["image", "v2", "images"]) => {
                let known = query.contains("name=debian&");
                (200, json!({ "images": if known { json!([{ "id": "i1" }]) } else { json!([]) } }))
            }
            ("GET", ["placement", "resource_providers"]) => {
                let provider = |name: &String| json!({ "uuid": uuid(name), "name": name, "generation": 1, "root_provider_uuid": uuid(name) });
                let providers: Vec<Value> = self.hosts.keys().map(provider).collect();
                (200, json!({ "resource_providers": providers }))
            }
            ("GET", ["placement", "allocation_candidates"]) if query.contains("VCPU") => {
                let summary = |(name, host): (&String, &PlayedHost)| {
                    let amount = |(capacity, used): (u64, u64)| json!({ "capacity": capacity, "used": used });
                    let mut resources = json!({
                        "VCPU": amount(host.vcpus), "MEMORY_MB": amount(host.memory_mb), "DISK_GB": amount((1000, 0)),
                    });
                    let mut traits = vec!["COMPUTE_NODE", "COMPUTE_IMAGE_TYPE_RAW", "HW_CPU_X86_AVX2"];
                    if host.gpus.0 > 0 {
                        resources["PGPU"] = amount(host.gpus);
                        traits.push("CUSTOM_GPU_NVA100S80");
                    }
                    (uuid(name), json!({ "resources": resources, "traits": traits }))
                };
                let free = self.hosts.iter().filter(|(_, host)| host.vcpus.1 < host.vcpus.0);
                let summaries: serde_json::Map<String, Value> = free.map(summary).collect();
                // as in the real answer: one candidate for each
                let candidate = |id: &String| json!({ "allocations": { id: { "resources": { "VCPU": 1 } } } });
                let requests: Vec<Value> = summaries.keys().map(candidate).collect();
                (200, json!({ "allocation_requests": requests, "provider_summaries": summaries }))
            }
            ("GET", ["placement", "allocation_candidates"]) => {
                (400, json!({ "errors": [{ "detail": "no such class" }] }))
            }
            ("GET", ["placement", "resource_providers", id, what]) => {
                let Some(host) = self.hosts.iter().find(|(name, _)| uuid(name) == *id).map(|(_, host)| host) else {
                    return (404, Value::Null);
                };
                let of = |total: u64| json!({ "total": total, "reserved": 0, "allocation_ratio": 1.0 });
                (
                    200,
                    match *what {
                        "inventories" => {
                            json!({ "inventories": { "VCPU": of(host.vcpus.0), "MEMORY_MB": of(host.memory_mb.0), "DISK_GB": of(1000) } })
                        }
                        "usages" => json!({ "usages": { "VCPU": host.vcpus.1, "MEMORY_MB": host.memory_mb.1 } }),
                        _ => json!({ "traits": [] }),
                    },
                )
            }
            ("GET", ["placement", "allocations", _]) => (200, json!({ "allocations": {} })),
            ("GET", ["compute", "v2.1", "servers", "detail"]) => {
                let wanted = query.split('&').find_map(|pair| pair.strip_prefix("tags="));
                let has = |server: &&Value| {
                    wanted.is_some_and(|tag| {
                        server["tags"].as_array().is_some_and(|tags| tags.iter().any(|one| one == tag))
                    })
                };
                (200, json!({ "servers": self.servers.values().filter(has).collect::<Vec<_>>() }))
            }
            ("GET", ["compute", "v2.1", "servers", id]) => match self.servers.get(*id) {
                Some(server) => (200, json!({ "server": server })),
                None => (404, json!({ "itemNotFound": { "message": "no such server" } })),
            },
            ("POST", ["compute", "v2.1", "servers"]) => {
                self.next += 1;
                let id = format!("s{}", self.next);
                let asked = &body["server"];
                let mut server = json!({
                    "id": id, "status": "ACTIVE", "created": jiff::Timestamp::now().to_string(),
                    "tags": asked["tags"], "metadata": asked["metadata"], "OS-EXT-SRV-ATTR:host": "host-0",
                    "flavor": { "original_name": "small", "vcpus": 1, "ram": 1024, "disk": 10 },
                });
                if let Some(Fault::Breaks(message)) = fault {
                    server["status"] = "ERROR".into();
                    server["fault"] = json!({ "code": 500, "message": message });
                }
                self.servers.insert(id.clone(), server);
                (202, json!({ "server": { "id": id } }))
            }
            ("POST", ["compute", "v2.1", "servers", id, "metadata"]) => {
                let Some(server) = self.servers.get_mut(*id) else { return (404, Value::Null) };
                for (name, value) in body["metadata"].as_object().into_iter().flatten() {
                    server["metadata"][name] = value.clone();
                }
                (200, json!({}))
            }
            ("POST", ["compute", "v2.1", "servers", id, "action"]) => {
                let Some(server) = self.servers.get_mut(*id) else { return (404, Value::Null) };
                if body.get("os-stop").is_some() {
                    server["status"] = "SHUTOFF".into();
                }
                (202, json!({ "output": "" }))
            }
            ("DELETE", ["compute", "v2.1", "servers", id]) => {
                self.servers.remove(*id);
                (204, Value::Null)
            }
            _ => (404, json!({ "itemNotFound": { "message": format!("{method} {path} is not played") } })),
        }
    }
}
