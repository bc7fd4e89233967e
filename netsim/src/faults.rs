//! Breaking things: nodes, power, links, clocks, manners. All of it from outside the machines.

use crate::disk::Disk;
use crate::invariants::Fact;
use crate::testing::task_id;
use crate::world::{Event, World};
use consensus::negotiation::{Ask, AskMode, Attempt, Input, Limits, Message, Need, Target};
use cpi::ids::{Epoch, Fence};

/// Task numbers from here on are asks of greedy peers for nothing.
pub const PHANTOM: u64 = 1 << 40;
/// After so long without an answer a peer counts as disconnected, in ms.
const DISCONNECTED_MS: u64 = 8_000;
/// After so long a peer that can be reached again is connected, in ms.
const CONNECTED_MS: u64 = 1_000;

impl World {
    /// Kills a region's node; its runs go on.
    pub fn crash(&mut self, index: usize) {
        if self.nodes[index].machine.take().is_some() {
            let node = &mut self.nodes[index];
            node.disk.crash();
            node.backlog.clear();
            node.held_back.clear();
            node.custody_back.clear();
            node.admitted.clear();
            self.note("crash", index, None, 0);
            self.after_ms(DISCONNECTED_MS, Event::Watch);
        }
    }

    /// Kills a region's node and every run in it: a power cut.
    pub fn destroy(&mut self, index: usize) {
        self.crash(index);
        let gone: Vec<Attempt> = self.nodes[index].runs.keys().copied().collect();
        self.nodes[index].runs.clear();
        for attempt in gone {
            self.stopped(index, attempt);
        }
        self.note("power_cut", index, None, 0);
    }

    /// A region is gone for good, with its runs and its disk.
    pub fn lose(&mut self, index: usize) {
        self.destroy(index);
        self.nodes[index].disk = Disk::default();
        self.lost.insert(index);
        self.note("lost", index, None, 0);
    }

    /// Starts a region's node again, unless it is lost.
    pub fn restart(&mut self, index: usize) {
        if self.nodes[index].machine.is_none() && !self.lost.contains(&index) {
            self.start(index);
            self.introduce(index);
            self.healed();
        }
    }

    /// Cuts both ways between two groups.
    pub fn cut(&mut self, one: &[usize], other: &[usize]) {
        self.wan.partition(one, other);
        self.invariants.observe(self.now_ms, &Fact::Parted);
        self.note("cut", one.first().copied().unwrap_or(0), None, one.len() as u64);
        self.after_ms(DISCONNECTED_MS, Event::Watch);
    }

    /// Cuts one way.
    pub fn cut_one_way(&mut self, from: usize, to: usize) {
        self.wan.cut_one_way(from, to);
        self.invariants.observe(self.now_ms, &Fact::Parted);
        self.note("cut_one_way", from, None, to as u64);
        self.after_ms(DISCONNECTED_MS, Event::Watch);
    }

    /// Ends all cuts and slow links.
    pub fn heal(&mut self) {
        self.wan.heal();
        self.note("heal", 0, None, 0);
        self.healed();
    }

    fn healed(&mut self) {
        self.invariants.observe(self.now_ms, &Fact::Healed);
        self.after_ms(CONNECTED_MS, Event::Watch);
    }

    /// Looks who can reach whom, and tells the machines where that changed, as pings do.
    pub(crate) fn watch(&mut self) {
        for a in 0..self.nodes.len() {
            if self.nodes[a].machine.is_none() {
                continue;
            }
            for b in self.peers_of(a) {
                let up =
                    a == b || (self.nodes[b].machine.is_some() && self.wan.is_open(a, b) && self.wan.is_open(b, a));
                let member = self.nodes[b].member;
                if up && self.disconnected.remove(&(a, b)) {
                    let rtt_ms = Some(self.wan.rtt_us(a, b).div_ceil(1000) as u32);
                    self.handle(a, Input::Rtt { member, rtt_ms });
                } else if !up && self.disconnected.insert((a, b)) {
                    self.handle(a, Input::Rtt { member, rtt_ms: None });
                }
            }
        }
    }

    /// A region's monotonic clock goes faster or slower from now on, in millionths.
    pub fn set_clock_rate(&mut self, index: usize, rate_ppm: i32) {
        let us = self.now_us;
        self.nodes[index].clock.set_rate(us, rate_ppm.clamp(-500_000, 500_000));
        self.nodes[index].armed_us = None;
        self.arm(index);
    }

    /// A region begins to hold what it does not need.
    pub fn become_greedy(&mut self, index: usize, per_s: u32) {
        self.nodes[index].manners.greedy_per_s = per_s;
        self.after_ms(1, Event::Greedy { node: index });
    }

    pub(crate) fn grab(&mut self, index: usize) {
        let count = self.nodes[index].manners.greedy_per_s;
        if count == 0 {
            return;
        }
        let need = Need::of(&crate::testing::task(), &self.dictionary);
        for _ in 0..count {
            let other = self.random(self.nodes.len() as u64) as usize;
            self.phantoms += 1;
            let task = task_id(PHANTOM + self.phantoms);
            let Some(pool) = self.nodes[other].pools.first().filter(|_| other != index) else { continue };
            let Some(class) = pool.spec.classes.first() else { continue };
            let target = Target { variant: 0, pool: pool.spec.name.clone(), class: class.name.clone() };
            let epoch = Epoch { counter: 1, member: self.nodes[index].member };
            let ask = Ask {
                task,
                fence: Fence { epoch, attempt: 1 },
                need: need.clone(),
                targets: vec![target],
                limits: Limits::default(),
                mode: AskMode::Hold { ttl_ms: 5_000 },
                ttl_ms: 1_000,
                round: 1,
                document: None,
                custodians: Vec::new(),
            };
            let to = self.nodes[other].member;
            self.transmit(index, to, Message::Ask(Box::new(ask)));
        }
        self.after_ms(1_000, Event::Greedy { node: index });
    }
}
