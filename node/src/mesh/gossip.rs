//! Gossip: strictly signed, judged before it is forwarded, budgeted per author, scored per neighbour.
//!
//! The swarm task hands messages to one gossip task and goes on; verdicts come back as commands. What a lagging roster
//! cannot judge is ignored, never rejected: rejecting costs the honest neighbour who merely passed it on.

use super::core::{Command, Core};
use super::gate::GOSSIP_PROTOCOL;
use super::stats::add;
use super::{GossipVerdict, Topic};
use bytes::Bytes;
use cpi::ids::MemberId;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use libp2p::gossipsub::{
    self, ConfigBuilder, IdentTopic, MessageAcceptance, MessageAuthenticity, MessageId, PeerScoreParams,
    PeerScoreThresholds, TopicHash, TopicScoreParams, ValidationMode, Version,
};
use libp2p::{PeerId, identity};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Messages that may wait for their verdict; more are ignored.
pub(super) const JUDGING_MAX: usize = 1024;
/// Room for a message's author, sequence, signature and topic, beside its payload.
const MESSAGE_OVERHEAD_BYTES: usize = 512;
/// Members on one address (behind one NAT) that raise no suspicion.
const COLOCATED_MAX: f64 = 64.0;

/// A message that waits for its verdict.
pub(super) struct Judged {
    pub id: MessageId,
    pub source: PeerId,
    pub author: Option<PeerId>,
    pub topic: TopicHash,
    pub payload: Vec<u8>,
}

pub(super) fn ident(topic: Topic) -> IdentTopic {
    IdentTopic::new(topic.name())
}

fn topic_of(hash: &TopicHash) -> Option<Topic> {
    Topic::ALL.into_iter().find(|topic| topic.name() == hash.as_str())
}

/// The gossipsub behaviour, subscribed to all topics.
pub(super) fn behaviour(key: &identity::Keypair) -> Result<gossipsub::Behaviour, String> {
    let mut config = ConfigBuilder::default();
    config
        .protocol_id(GOSSIP_PROTOCOL, Version::V1_1)
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        // Longer than any honest path takes, so that a message is judged once.
        .duplicate_cache_time(Duration::from_secs(120))
        .max_transmit_size(Topic::Registrations.bytes_max() + MESSAGE_OVERHEAD_BYTES);
    for topic in Topic::ALL {
        config.max_transmit_size_for_topic(topic.bytes_max() + MESSAGE_OVERHEAD_BYTES, ident(topic).hash());
    }
    // The id of a message is its author and sequence (gossipsub's default), never its content: two regions may say the same.
    let config = config.build().map_err(|error| error.to_string())?;
    let mut gossip = gossipsub::Behaviour::new(MessageAuthenticity::Signed(key.clone()), config)?;
    let (params, thresholds) = scoring();
    gossip.with_peer_score(params, thresholds)?;
    for topic in Topic::ALL {
        gossip.subscribe(&ident(topic)).map_err(|error| error.to_string())?;
    }
    Ok(gossip)
}

/// What raises and lowers a neighbour's score. Traffic here is thin and bursty, so the penalties for few deliveries are off.
fn scoring() -> (PeerScoreParams, PeerScoreThresholds) {
    let topic = TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 300.0,
        first_message_deliveries_weight: 0.1,
        first_message_deliveries_decay: 0.9,
        first_message_deliveries_cap: 50.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        // Three invalid messages within a few seconds bring a neighbour under the graylist threshold.
        invalid_message_deliveries_weight: -10.0,
        invalid_message_deliveries_decay: 0.9,
        ..TopicScoreParams::default()
    };
    let loopback: HashSet<IpAddr> = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()].into();
    let params = PeerScoreParams {
        topics: Topic::ALL.into_iter().map(|t| (ident(t).hash(), topic.clone())).collect(),
        topic_score_cap: 20.0,
        app_specific_weight: 1.0,
        ip_colocation_factor_threshold: COLOCATED_MAX,
        ip_colocation_factor_whitelist: loopback,
        retain_score: Duration::from_secs(600),
        ..PeerScoreParams::default()
    };
    (params, PeerScoreThresholds::default())
}

type Budget = DefaultKeyedRateLimiter<MemberId>;

/// Judges messages one after the other until the mesh stops.
pub(super) async fn judge(core: Arc<Core>, mut waiting: mpsc::Receiver<Judged>) {
    let budgets: Vec<(Topic, Budget)> = Topic::ALL.into_iter().map(|topic| (topic, budget(topic))).collect();
    loop {
        let message = tokio::select! {
            () = core.stop.cancelled() => return,
            message = waiting.recv() => message,
        };
        let Some(message) = message else { return };
        let acceptance = decide(&core, &budgets, &message);
        let _ = core.commands.send(Command::Verdict { id: message.id, source: message.source, acceptance });
    }
}

fn budget(topic: Topic) -> Budget {
    let (per_second, burst) = topic.author_budget();
    let nonzero = |n| NonZeroU32::new(n).expect("budgets are positive constants");
    RateLimiter::keyed(Quota::per_second(nonzero(per_second)).allow_burst(nonzero(burst)))
}

fn decide(core: &Core, budgets: &[(Topic, Budget)], message: &Judged) -> MessageAcceptance {
    add(&core.stats.gossip_in, 1);
    let Some(topic) = topic_of(&message.topic) else { return MessageAcceptance::Reject };
    let Some(author) = message.author.as_ref().and_then(|author| core.roster.load().member_of(author)) else {
        add(&core.stats.gossip_ignored, 1);
        tracing::debug!(source = %message.source, "gossip of an author who is no member (here, yet) is ignored");
        return MessageAcceptance::Ignore;
    };
    if message.payload.len() > topic.bytes_max() {
        add(&core.stats.gossip_rejected, 1);
        return MessageAcceptance::Reject;
    }
    let within =
        budgets.iter().find(|(of, _)| *of == topic).is_some_and(|(_, budget)| budget.check_key(&author).is_ok());
    if !within {
        add(&core.stats.gossip_over_budget, 1);
        tracing::debug!(member = %author, topic = topic.name(), "gossip beyond its author's budget is ignored");
        return MessageAcceptance::Ignore;
    }
    let Some(handler) = &core.handlers.gossip else { return MessageAcceptance::Ignore };
    match handler.on_gossip(author, topic, Bytes::copy_from_slice(&message.payload)) {
        GossipVerdict::Accept => MessageAcceptance::Accept,
        GossipVerdict::Ignore => {
            add(&core.stats.gossip_ignored, 1);
            MessageAcceptance::Ignore
        }
        GossipVerdict::Reject => {
            add(&core.stats.gossip_rejected, 1);
            tracing::warn!(member = %author, source = %message.source, topic = topic.name(), "gossip rejected");
            MessageAcceptance::Reject
        }
    }
}
