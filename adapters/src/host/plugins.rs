//! All plugins of a node.

use super::by_runner::DeskLink;
use super::config::{PluginSpec, ProgramSpec, Timing};
use super::discover::{FoundPlugin, discover};
use super::instance::Setting;
use super::lock;
use super::output::Output;
use super::remote::{Credentials, PluginAdapter};
use super::unit::{SwapError, Unit};
use super::view::PluginView;
use crate::contract::Adapter as _;
use crate::runner::RunDesk;
use crate::vault::Vault;
use cpi::resource::{ChipModel, PoolSpec};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The most plugins of one node.
pub const PLUGINS_MAX: usize = 64;
/// Changes of one plugin that wait to be looked into; more of them are seen at the next listing.
const HINTS_MAX: usize = 4096;

/// Whether a plugin may be called so.
pub fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=32).contains(&name.len()) && name.chars().all(good)
}

/// What the host is given.
pub struct HostConfig {
    /// Where plugins are looked for; each has a folder of its own with a `plugin.toml`.
    pub plugins_dir: Option<PathBuf>,
    /// Copies of programs, and the plugins' logs.
    pub data_dir: PathBuf,
    /// How patient it is.
    pub timing: Timing,
    /// This node's version.
    pub node_version: String,
    /// Where credentials are; without it no plugin gets any.
    pub vault: Option<Arc<Vault>>,
    /// Whether a chip model is in the dictionary in force.
    pub knows_chip: Arc<dyn Fn(&ChipModel) -> bool + Send + Sync>,
}

/// Why a plugin cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum AddPluginError {
    /// A name that is taken or no name.
    #[error("plugin name {name:?}: expected 1 to 32 of a-z, 0-9 and '-', and not one that is taken")]
    Name {
        /// What was given.
        name: String,
    },
    /// Out of range.
    #[error("plugin {name}: {field}: expected {expected}")]
    Field {
        /// The plugin.
        name: String,
        /// The field.
        field: &'static str,
        /// What would be right.
        expected: &'static str,
    },
    /// Too many.
    #[error("a node has at most {PLUGINS_MAX} plugins")]
    TooMany,
    /// The host's own folders.
    #[error("the folder {path} cannot be used")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// There is no such plugin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no plugin is called {name:?}")]
pub struct UnknownPlugin {
    /// What was asked for.
    pub name: String,
}

/// The plugins of a node. They end when it is dropped; the work that they started on their platforms goes on.
pub struct PluginHost {
    config: HostConfig,
    /// Sockets have short names only, so they lie in a folder of their own, which nobody else may enter.
    sockets: tempfile::TempDir,
    units: Mutex<BTreeMap<String, Arc<Unit>>>,
    stop: CancellationToken,
    desk: Option<Arc<RunDesk>>,
}

impl Drop for PluginHost {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl PluginHost {
    /// A host without plugins. Must be used inside a tokio runtime.
    ///
    /// # Errors
    /// [`AddPluginError::Folder`].
    pub fn new(config: HostConfig) -> Result<Self, AddPluginError> {
        let folder = |path: PathBuf| move |source| AddPluginError::Folder { path, source };
        for name in ["programs", "logs"] {
            let path = config.data_dir.join(name);
            std::fs::create_dir_all(&path).map_err(folder(path))?;
        }
        let private = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o700);
        let sockets = tempfile::Builder::new()
            .prefix("causeway-plugins-")
            .permissions(private.clone())
            .tempdir()
            .map_err(folder(std::env::temp_dir()))?;
        std::fs::set_permissions(&config.data_dir, private).map_err(folder(config.data_dir.clone()))?;
        Ok(Self { config, sockets, units: Mutex::default(), stop: CancellationToken::new(), desk: None })
    }

    /// The desk for the runners of plugins whose jobs execute `causeway-runner`. Without one such plugins run nothing.
    #[must_use]
    pub fn with_desk(mut self, desk: Arc<RunDesk>) -> Self {
        self.desk = Some(desk);
        self
    }

    /// Adds a plugin, also while the node runs. Its processes start with the first call, or by [`Self::start`].
    ///
    /// # Errors
    /// [`AddPluginError`].
    pub fn add(&self, spec: PluginSpec, pools: Vec<PoolSpec>) -> Result<PluginAdapter, AddPluginError> {
        let mut units = lock(&self.units);
        let name = spec.name.clone();
        if !is_name(&name) || units.contains_key(&name) {
            return Err(AddPluginError::Name { name: name.chars().take(64).collect() });
        }
        let wrong = |field, expected| AddPluginError::Field { name: name.clone(), field, expected };
        if !(1..=8).contains(&spec.replicas) {
            return Err(wrong("replicas", "1 to 8"));
        }
        if !spec.config.is_object() {
            return Err(wrong("config", "a table"));
        }
        if units.len() >= PLUGINS_MAX {
            return Err(AddPluginError::TooMany);
        }
        let secrets = self.config.vault.clone().map(|vault| (vault, spec.credentials.clone()));
        let output = Output::new(self.config.data_dir.join("logs").join(format!("{name}.log")), secrets);
        let mut setting = Setting {
            credentials: Credentials::new(self.config.vault.clone(), spec.credentials.clone()),
            spec: Arc::new(spec),
            pools,
            timing: self.config.timing,
            programs_dir: self.config.data_dir.join("programs"),
            sockets_dir: self.sockets.path().to_owned(),
            output: Arc::new(output),
            node_version: self.config.node_version.clone(),
            desk: None,
        };
        let mut hints = None;
        if let Some(desk) = &self.desk {
            let (sender, receiver) = mpsc::channel(HINTS_MAX);
            setting.desk = Some(DeskLink { desk: Arc::clone(desk), hints: sender });
            hints = Some((Arc::clone(desk), receiver));
        }
        let unit = Unit::new(setting, self.stop.child_token());
        units.insert(name.clone(), Arc::clone(&unit));
        let adapter = PluginAdapter::new(unit, Arc::clone(&self.config.knows_chip));
        if let Some((desk, receiver)) = hints {
            tokio::spawn(adapter.clone().attend_desk(desk, receiver));
        }
        Ok(adapter)
    }

    /// Takes a plugin away and waits until its processes are gone. What it started on its platform goes on.
    ///
    /// # Errors
    /// [`UnknownPlugin`].
    pub async fn remove(&self, name: &str) -> Result<(), UnknownPlugin> {
        let unit = lock(&self.units).remove(name).ok_or_else(|| UnknownPlugin { name: name.to_owned() })?;
        unit.end().await;
        Ok(())
    }

    /// Ends all plugins and waits until their processes are gone. What they started on their platforms goes on.
    pub async fn stop(&self) {
        self.stop.cancel();
        let units: Vec<Arc<Unit>> = std::mem::take(&mut *lock(&self.units)).into_values().collect();
        futures::future::join_all(units.iter().map(|unit| unit.end())).await;
    }

    fn unit(&self, name: &str) -> Result<Arc<Unit>, UnknownPlugin> {
        lock(&self.units).get(name).cloned().ok_or_else(|| UnknownPlugin { name: name.to_owned() })
    }

    /// The adapter of a plugin.
    ///
    /// # Errors
    /// [`UnknownPlugin`].
    pub fn adapter(&self, name: &str) -> Result<PluginAdapter, UnknownPlugin> {
        Ok(PluginAdapter::new(self.unit(name)?, Arc::clone(&self.config.knows_chip)))
    }

    /// Starts a plugin and waits until it takes calls.
    ///
    /// # Errors
    /// What it says of itself where it does not come up; it is tried again in the background.
    pub async fn start(&self, name: &str) -> Result<(), String> {
        let unit = self.unit(name).map_err(|error| error.to_string())?;
        unit.take(None).await.map(drop).map_err(|error| error.to_string())
    }

    /// Starts a plugin in the background, unless it was.
    pub fn want(&self, name: &str) {
        if let Ok(unit) = self.unit(name) {
            unit.want();
        }
    }

    /// Whether each plugin works now, or what is wrong. Asks none.
    pub fn standing(&self) -> BTreeMap<String, Result<(), String>> {
        lock(&self.units).iter().map(|(name, unit)| (name.clone(), unit.standing())).collect()
    }

    /// All plugins.
    pub fn list(&self) -> Vec<PluginView> {
        let units: Vec<Arc<Unit>> = lock(&self.units).values().cloned().collect();
        units.iter().map(|unit| unit.view()).collect()
    }

    /// One plugin.
    ///
    /// # Errors
    /// [`UnknownPlugin`].
    pub fn show(&self, name: &str) -> Result<PluginView, UnknownPlugin> {
        Ok(self.unit(name)?.view())
    }

    /// The newest lines that a plugin wrote, oldest first.
    ///
    /// # Errors
    /// [`UnknownPlugin`].
    pub fn logs(&self, name: &str, lines_max: usize) -> Result<Vec<String>, UnknownPlugin> {
        Ok(self.unit(name)?.setting.output.tail(lines_max))
    }

    /// Replaces the running program by another one, with its calls going on.
    ///
    /// # Errors
    /// [`UnknownPlugin`], or inside [`SwapError`]: the old program goes on.
    pub async fn swap(&self, name: &str, program: ProgramSpec) -> Result<Result<(), SwapError>, UnknownPlugin> {
        Ok(self.unit(name)?.swap(program).await)
    }

    /// Goes back to the program before the last swap.
    ///
    /// # Errors
    /// As for [`Self::swap`].
    pub async fn rollback(&self, name: &str) -> Result<Result<(), SwapError>, UnknownPlugin> {
        Ok(self.unit(name)?.rollback().await)
    }

    /// Ends the quarantine of a plugin.
    ///
    /// # Errors
    /// [`UnknownPlugin`].
    pub fn reset(&self, name: &str) -> Result<(), UnknownPlugin> {
        self.unit(name)?.reset();
        Ok(())
    }

    /// What lies in the plugins' folder now.
    pub fn found(&self) -> (Vec<FoundPlugin>, Vec<(PathBuf, String)>) {
        self.config.plugins_dir.as_deref().map(discover).unwrap_or_default()
    }

    /// The descriptions of all plugins that were up once, by name.
    pub fn described(&self) -> BTreeMap<String, crate::contract::AdapterDescription> {
        let units: Vec<Arc<Unit>> = lock(&self.units).values().cloned().collect();
        let known = units.into_iter().map(|unit| {
            let name = unit.spec().name.clone();
            (name, PluginAdapter::new(unit, Arc::clone(&self.config.knows_chip)).describe())
        });
        known.collect()
    }
}
