//! The backends behind the port of adapters.

use super::ports::AdapterPort;
use super::problem::{ApiError, Code, FieldError};
use crate::config::PluginSection;
use crate::drivers::backends::{Plugins, RegisterError, Registration};
use crate::drivers::negotiation::{HandleError, NegotiationHandle};
use crate::services::adapter_tests::AdapterTests;
use crate::services::adapter_views::{
    AdapterDetail, AdapterLog, AdapterTestView, AdapterView, PluginDetail, PluginProcess, RegisterPlugin, SwapPlugin,
    TestPlugin,
};
use adapters::contract::Adapter;
use adapters::host::{PluginState, PluginView, ProgramSpec, SwapError, UnknownPlugin};
use async_trait::async_trait;
use cpi::ids::ContentDigest;
use cpi::reason::ReasonCode;
use cpi::resource::Firmness;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The backends of this node with the pools that they drive.
pub struct Adapters {
    plugins: Arc<Plugins>,
    negotiation: NegotiationHandle,
    tests: AdapterTests,
}

impl Adapters {
    /// The port over all backends.
    pub fn new(plugins: Arc<Plugins>, negotiation: NegotiationHandle) -> Self {
        Self { plugins, negotiation, tests: AdapterTests::default() }
    }

    /// Name, kind and readiness of each backend.
    pub async fn standing(&self) -> Vec<(String, String, bool)> {
        let plugins = self.plugins.host().standing();
        let mut all = Vec::new();
        for (name, adapter) in self.plugins.backends().all() {
            let ready = match plugins.get(&name) {
                Some(standing) => standing.is_ok(),
                None => adapter.health().await.ready,
            };
            let kind = kind(&name, self.plugins.host().show(&name).ok().as_ref());
            all.push((name, kind, ready));
        }
        all
    }

    fn adapter(&self, name: &str) -> Result<Arc<dyn Adapter>, ApiError> {
        let found = self.plugins.backends().get(name);
        found.ok_or_else(|| {
            let known: Vec<String> = self.plugins.backends().all().into_iter().map(|(name, _)| name).collect();
            let known = if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
            ApiError::not_found(format!("adapter {name:?}; the adapters are {known}"))
        })
    }

    /// Only for plugins.
    fn plugin(&self, name: &str) -> Result<PluginView, ApiError> {
        self.adapter(name)?;
        self.plugins.host().show(name).map_err(|_| {
            ApiError::new(
                Code::Conflict,
                format!("adapter {name:?} is built in: only plugins have processes of their own"),
            )
        })
    }

    async fn view(&self, name: String, adapter: &Arc<dyn Adapter>, plugin: Option<&PluginView>) -> AdapterView {
        let (about, health, can) = (adapter.describe(), adapter.health().await, adapter.capabilities());
        let origin = match plugin {
            None => "built_in",
            Some(_) if self.plugins.is_registered(&name) => "registered",
            Some(_) => "configured",
        };
        let state = plugin.map(|plugin| match plugin.state {
            PluginState::Idle => "idle",
            PluginState::Starting => "starting",
            PluginState::Running => "running",
            PluginState::Quarantined => "quarantined",
        });
        AdapterView {
            backend: kind(&name, plugin),
            pools: self.plugins.backends().pools_of(&name),
            name,
            version: about.version,
            origin: origin.to_owned(),
            state: state.map(str::to_owned),
            ready: health.ready,
            runs_commands: about.runs_commands,
            runs_images: about.runs_images,
            stops_on_lapse: about.stops_on_lapse,
            reserves: can.reserves,
            provisions: can.provisions,
            firmness: firmness(about.firmness).to_owned(),
            notes: health.notes,
        }
    }

    /// The folder of the programs that may be named over HTTP.
    fn folder(&self) -> Result<PathBuf, ApiError> {
        self.plugins.plugins_dir().ok_or_else(|| {
            ApiError::new(Code::Denied, "no program may be named over HTTP: `adapters.host.plugins_dir` is not set")
                .hint("The operator sets `adapters.host.plugins_dir`; only programs below it are run at run time.")
        })
    }

    /// A program that the caller may have run here: one below the folder that the operator set apart for that.
    fn allowed(&self, path: &Path) -> Result<PathBuf, ApiError> {
        let wrong = |why: String| ApiError::field(FieldError::new("path", why));
        let folder = self.folder()?;
        let folder = folder.canonicalize().map_err(|error| wrong(format!("{}: {error}", folder.display())))?;
        let path = folder.join(path);
        let path = path.canonicalize().map_err(|error| wrong(format!("{}: {error}", path.display())))?;
        if !path.starts_with(&folder) || !path.is_file() {
            let expected = format!("{} is not allowed: expected a file below {}", path.display(), folder.display());
            return Err(wrong(expected));
        }
        Ok(path)
    }
}

/// The kind of a backend: what a plugin says of itself, or its name.
fn kind(name: &str, plugin: Option<&PluginView>) -> String {
    let process = plugin.and_then(|plugin| plugin.instances.first());
    process.map_or_else(|| name.to_owned(), |process| process.backend.clone())
}

fn digest(text: &str) -> Result<ContentDigest, ApiError> {
    text.parse().map_err(|_| ApiError::field(FieldError::new("sha256", "expected `sha256:` and 64 hexadecimal digits")))
}

#[async_trait]
impl AdapterPort for Adapters {
    async fn list(&self) -> Vec<AdapterView> {
        let all = self.plugins.backends().all();
        let views = all.into_iter().map(|(name, adapter)| async move {
            let plugin = self.plugins.host().show(&name).ok();
            self.view(name, &adapter, plugin.as_ref()).await
        });
        futures::future::join_all(views).await
    }

    async fn show(&self, name: &str) -> Result<AdapterDetail, ApiError> {
        let adapter = self.adapter(name)?;
        let plugin = self.plugins.host().show(name).ok();
        let view = self.view(name.to_owned(), &adapter, plugin.as_ref()).await;
        Ok(AdapterDetail { adapter: view, plugin: plugin.map(detail) })
    }

    async fn register(&self, request: RegisterPlugin) -> Result<AdapterDetail, ApiError> {
        let path = match &request.path {
            Some(path) => Some(self.allowed(path)?),
            None => {
                self.folder()?;
                None
            }
        };
        let name = request.name.clone();
        let plugin = PluginSection {
            name: request.name,
            path,
            args: request.args,
            sha256: digest(&request.sha256)?,
            config: request.config,
            credentials: request.credentials,
            replicas: request.replicas.unwrap_or(1),
            limits: request.limits,
        };
        self.plugins.register(Registration { plugin, pools: request.pools }, &self.negotiation).await?;
        self.show(&name).await
    }

    async fn remove(&self, name: &str) -> Result<(), ApiError> {
        Ok(self.plugins.deregister(name, &self.negotiation).await?)
    }

    async fn swap(&self, name: &str, request: SwapPlugin) -> Result<AdapterDetail, ApiError> {
        self.plugin(name)?;
        let path = self.allowed(&request.path)?;
        let program = ProgramSpec { path, args: request.args, sha256: digest(&request.sha256)? };
        self.plugins.host().swap(name, program).await??;
        self.show(name).await
    }

    async fn rollback(&self, name: &str) -> Result<AdapterDetail, ApiError> {
        self.plugin(name)?;
        self.plugins.host().rollback(name).await??;
        self.show(name).await
    }

    async fn reset(&self, name: &str) -> Result<AdapterDetail, ApiError> {
        self.plugin(name)?;
        self.plugins.host().reset(name)?;
        self.show(name).await
    }

    async fn logs(&self, name: &str, lines_max: usize) -> Result<AdapterLog, ApiError> {
        self.plugin(name)?;
        Ok(AdapterLog { lines: self.plugins.host().logs(name, lines_max)? })
    }

    async fn begin_test(&self, name: &str, request: TestPlugin) -> Result<AdapterTestView, ApiError> {
        let adapter = self.adapter(name)?;
        if !request.starts_runs {
            return Err(ApiError::field(FieldError::new("starts_runs", "expected true: the suite starts real runs")));
        }
        let own = self.negotiation.pools().await?;
        let drives = self.plugins.own_pools().into_iter().map(|pool| pool.spec).filter(|pool| pool.backend == name);
        let drives: Vec<_> = drives.collect();
        let names = || drives.iter().map(|pool| pool.name.as_str()).collect::<Vec<_>>().join(", ");
        let pool = match (&request.pool, drives.as_slice()) {
            (Some(wanted), pools) => pools.iter().find(|pool| pool.name == *wanted),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        let pool = pool.ok_or_else(|| {
            ApiError::field(FieldError::new("pool", format!("expected one of the adapter's pools: {}", names())))
        })?;
        let without_chips = pool.classes.iter().find(|class| class.chip.is_none());
        let class = match &request.class {
            Some(wanted) => pool.classes.iter().find(|class| class.name == *wanted),
            None => without_chips.or_else(|| pool.classes.first()),
        };
        let class = class.ok_or_else(|| ApiError::field(FieldError::new("class", "expected a class of the pool")))?;
        let state = own.iter().find(|one| one.backend.is_some() && one.digest.name == pool.name);
        let free = state.is_some_and(|state| (state.digest.cordoned || state.draining) && state.runs == Some(0));
        if !free {
            let detail = format!("pool {} takes new work or has runs: the suite would take their place", pool.name);
            return Err(
                ApiError::new(Code::Conflict, detail).hint(format!("`causeway pool drain {}` first.", pool.name))
            );
        }
        let kind = kind(name, self.plugins.host().show(name).ok().as_ref());
        let begun = self.tests.begin(name, &kind, adapter, pool, &class.name);
        begun.ok_or_else(|| ApiError::new(Code::Conflict, format!("a suite of adapter {name:?} is under way")))
    }

    async fn test(&self, name: &str) -> Result<AdapterTestView, ApiError> {
        self.adapter(name)?;
        self.tests
            .get(name)
            .ok_or_else(|| ApiError::not_found(format!("suite of adapter {name:?} since the node's start")))
    }
}

fn detail(view: PluginView) -> PluginDetail {
    let processes = view.instances.into_iter().map(|process| PluginProcess {
        number: process.number,
        pid: process.pid,
        version: process.version,
        protocol: process.protocol,
        up_ms: process.up_ms,
        calls: process.calls as u64,
        ready: process.ready,
        notes: process.notes,
    });
    PluginDetail {
        sha256: view.sha256.to_string(),
        previous_sha256: view.previous_sha256.map(|sha256| sha256.to_string()),
        processes: processes.collect(),
        starts: view.starts,
        failures: view.failures,
        reason: view.reason,
        history: view.history,
        config_schema: view.config_schema,
    }
}

fn firmness(firmness: Firmness) -> &'static str {
    match firmness {
        Firmness::Held => "held",
        Firmness::Reserved => "reserved",
        Firmness::Estimate => "estimate",
    }
}

impl From<UnknownPlugin> for ApiError {
    fn from(error: UnknownPlugin) -> Self {
        Self::new(Code::NotFound, error.to_string())
    }
}

impl From<SwapError> for ApiError {
    fn from(error: SwapError) -> Self {
        let detail = error.to_string();
        match error {
            SwapError::Unhealthy { .. } => Self::new(Code::Refused, detail)
                .reason(ReasonCode::AdapterDown)
                .hint("`causeway adapter logs` shows what the new version wrote."),
            SwapError::Busy { .. } => Self::new(Code::Busy, detail),
            SwapError::NoPrevious | SwapError::UnderWay => Self::new(Code::Conflict, detail),
        }
    }
}

impl From<RegisterError> for ApiError {
    fn from(error: RegisterError) -> Self {
        let detail = error.to_string();
        match error {
            RegisterError::Invalid(problems) => {
                let named: Vec<String> = problems.iter().map(|one| format!("`{}`: {}", one.key, one.message)).collect();
                let mut refused = Self::new(Code::Invalid, format!("{detail}: {}", named.join("; ")));
                refused.field_errors = problems.into_iter().map(|one| FieldError::new(one.key, one.message)).collect();
                refused
            }
            RegisterError::Add(_) => Self::new(Code::Invalid, detail),
            RegisterError::Unknown(_) => Self::new(Code::NotFound, detail),
            RegisterError::Configured(_) | RegisterError::InUse { .. } => Self::new(Code::Conflict, detail),
            RegisterError::Store(_) => Self::new(Code::DiskFull, detail),
            RegisterError::Negotiation(HandleError::Busy) => Self::new(Code::Busy, detail),
            RegisterError::Negotiation(HandleError::Stopped) => Self::new(Code::Unavailable, detail),
        }
    }
}
