//! The mesh: authenticated streams and gossip between the members of a federation. The only room that knows libp2p.
//!
//! ```text
//! drivers --MeshHandle--> lane per (peer, class) --stream--> inbound task of the peer --> FrameHandler
//!                    \--> swarm task: dial, close, gossip <-- gate: members in, strangers to the join protocol
//! ```
//!
//! It decides who gets in (as the roster says), keeps connections up, bounds every queue and frame, and measures round
//! trips. It never decides what a frame means, never retries one, and promises delivery of none.

mod addresses;
mod behaviour;
mod bulk;
mod class;
mod config;
mod connections;
mod core;
mod dialer;
mod error;
mod frame;
mod gate;
mod gossip;
mod handle;
mod handlers;
mod inbound;
mod join;
mod lane;
mod link;
mod members_only;
mod peers;
mod pipe;
mod roster;
mod stats;
mod swarm;
mod topic;

#[cfg(test)]
mod tests;

pub use bulk::BulkStream;
pub use class::{ClassLimits, StreamClass};
pub use config::{MeshConfig, MeshSettings};
pub use error::{MeshError, StartMeshError};
pub use handle::MeshHandle;
pub use handlers::{BulkHandler, FrameHandler, GossipHandler, GossipVerdict, Handlers, JoinHandler, JoinPeer, Late};
pub use join::{AskError, ask};
pub use peers::{PeerEvent, PeerView};
pub use roster::{RosterEntry, peer_name};
pub use stats::{ClassCounters, MeshStats};
pub use topic::Topic;

use self::core::Core;
use arc_swap::ArcSwap;
use futures::StreamExt as _;
use libp2p::swarm::SwarmEvent;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Gossip that may wait to be published.
const PUBLISHES_MAX: usize = 1024;
/// Connection events that a slow receiver may lag behind.
const EVENTS_MAX: usize = 1024;

/// Starts meshes.
pub struct Mesh;

impl Mesh {
    /// Starts a mesh with the transport key made of `seed` (32 bytes of ed25519). Returns once it listens.
    ///
    /// The roster is empty until [`MeshHandle::set_roster`]: nobody gets in before.
    ///
    /// # Errors
    /// [`StartMeshError`] for addresses that are not understood or cannot be listened on.
    pub async fn start(seed: &[u8; 32], config: MeshConfig, handlers: Handlers) -> Result<MeshHandle, StartMeshError> {
        let roster = Arc::new(ArcSwap::<roster::Roster>::default());
        let mut dial_map = std::collections::BTreeMap::new();
        for (region, text) in &config.settings.dial_map {
            dial_map.insert(region.clone(), addresses::parse("mesh.dial_map", text)?);
        }
        let mut swarm = behaviour::build(seed, &config.settings, &roster)?;
        let listening = listen(&mut swarm, &config.settings).await?;

        let mut control = swarm.behaviour().members.inner.streams.new_control();
        let mut join_control = swarm.behaviour().join.new_control();
        let (commands, commands_in) = mpsc::unbounded_channel();
        let (publishes, publishes_in) = mpsc::channel(PUBLISHES_MAX);
        let core = Arc::new(Core {
            me: config.me,
            federation: config.federation,
            roster,
            links: ArcSwap::default(),
            denied: Mutex::default(),
            joining: Mutex::default(),
            handlers,
            control: control.clone(),
            commands,
            publishes,
            events: broadcast::channel(EVENTS_MAX).0,
            queue_frames_max: config.settings.queue_frames_max,
            stats: stats::Stats::default(),
            listening: Mutex::new(listening),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });

        let twice = "a new swarm has no registered protocols";
        for class in StreamClass::ALL {
            let incoming = control.accept(class.protocol()).expect(twice);
            core.tasks.spawn(inbound::accept(Arc::clone(&core), class, incoming));
        }
        let incoming = join_control.accept(join::PROTOCOL).expect(twice);
        core.tasks.spawn(join::serve(Arc::clone(&core), incoming));
        let (judging, judging_in) = mpsc::channel(gossip::JUDGING_MAX);
        core.tasks.spawn(gossip::judge(Arc::clone(&core), judging_in));
        let task = swarm::SwarmTask {
            core: Arc::clone(&core),
            swarm,
            commands: commands_in,
            publishes: publishes_in,
            judging,
            dialer: dialer::Dialer::new(dial_map, config.settings.redial),
            penalties: HashMap::new(),
        };
        core.tasks.spawn(task.run());
        let local = handle::serve_local(&core);
        Ok(MeshHandle { core, local })
    }
}

/// Listens on all configured addresses and waits until each has one.
async fn listen(
    swarm: &mut behaviour::Swarm,
    settings: &MeshSettings,
) -> Result<Vec<libp2p::Multiaddr>, StartMeshError> {
    let mut waiting = BTreeSet::new();
    let mut texts = HashMap::new();
    for text in &settings.listen {
        let address = addresses::parse("mesh.listen", text)?;
        let id = swarm
            .listen_on(address)
            .map_err(|error| StartMeshError::Listen { address: text.clone(), reason: in_words(&error) })?;
        texts.insert(id, text.clone());
        waiting.insert(text.clone());
    }
    let mut listening = Vec::new();
    while !waiting.is_empty() {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { listener_id, address } => {
                listening.push(address);
                if let Some(text) = texts.get(&listener_id) {
                    waiting.remove(text);
                }
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                let address = texts.get(&listener_id).cloned().unwrap_or_default();
                let reason = reason.err().map_or_else(|| "closed".to_owned(), |error| in_words(&error));
                return Err(StartMeshError::Listen { address, reason });
            }
            _ => {}
        }
    }
    Ok(listening)
}

/// An error and its causes: the transport's own texts are often empty.
fn in_words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).filter(|text| !text.is_empty()).collect();
    texts.join(": ")
}
