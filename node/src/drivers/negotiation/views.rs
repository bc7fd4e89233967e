//! What the driver shows of its machine: the own digest as it changes, pools and runs for people, gauges for metrics.

use super::driver::Driver;
use super::handle::{NegotiationGauges, PoolState, ProviderRun};
use consensus::negotiation::{Digest, Input};
use std::sync::Arc;

impl Driver {
    /// Looks at own capacity; if it changed, tells it to the own directory and to the digests' driver.
    pub(super) fn tell_digest(&mut self) {
        let changes = self.machine.provider().changes();
        // the directory takes no digest of a member that it does not know yet: on a first start, not even our own
        let untold = self.machine.directory().get(self.me).is_some_and(|own| own.digest.is_none());
        if changes == self.digest_of && !untold {
            return;
        }
        self.digest_of = changes;
        self.digests += 1;
        let digest = self.machine.digest(self.digests, self.digest_ttl_ms);
        let classes = digest.pools.iter().flat_map(|pool| pool.classes.iter().map(move |class| (pool, class)));
        let stats = self.machine.provider().stats();
        self.gauges.store(Arc::new(NegotiationGauges {
            holds: self.machine.provider().holds(),
            leases: self.machine.provider().leases().count(),
            runs_ended: (stats.ended - stats.ended_for_others, stats.ended_for_others),
            capacity: classes
                .map(|(pool, class)| {
                    (format!("{}/{}", pool.name, class.name), class.total(), class.free, class.largest_fit)
                })
                .collect(),
        }));
        let _ = self.digest.send(Some(digest.clone()));
        self.input(Input::Digest(Arc::new(Digest { ttl_ms: u64::MAX, ..digest })));
    }

    pub(super) fn pools(&self) -> Vec<PoolState> {
        let now = self.now();
        let mut pools = Vec::new();
        let own = self.machine.digest(0, 0);
        let provider = self.machine.provider();
        for (index, (digest, spec)) in own.pools.into_iter().zip(provider.book().specs()).enumerate() {
            pools.push(PoolState {
                member: self.me,
                digest,
                draining: own.draining,
                age_ms: 0,
                stale: false,
                backend: Some(spec.backend.clone()),
                runs: Some(provider.runs_in(index as u16)),
            });
        }
        let members = self.members.load();
        for (member, region) in self.machine.directory().iter() {
            let Some(digest) = &region.digest else { continue };
            if *member == self.me || !members.contains_key(member) {
                continue;
            }
            let age_ms = now.mono.since_ms(region.digest_at);
            pools.extend(digest.pools.iter().map(|pool| PoolState {
                member: *member,
                digest: pool.clone(),
                draining: digest.draining,
                age_ms,
                stale: age_ms > digest.ttl_ms,
                backend: None,
                runs: None,
            }));
        }
        pools
    }

    pub(super) fn provider_runs(&self) -> Vec<ProviderRun> {
        let leases = self.machine.provider().leases();
        leases
            .map(|lease| ProviderRun {
                attempt: lease.record.attempt,
                origin: lease.record.origin,
                pool: lease.record.target.pool.clone(),
                class: lease.record.target.class.clone(),
                server: lease.record.server,
                quantity: lease.record.quantity,
                phase: lease.record.phase,
            })
            .collect()
    }
}
