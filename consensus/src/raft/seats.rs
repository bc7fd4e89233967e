//! Who votes, who stands by: pure choice of the next single step from what the leader sees. The leader's loop performs it.

use std::collections::{BTreeMap, BTreeSet};

/// A replica as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its member.
    pub member: u64,
    /// Its city, so that voters are spread.
    pub city: String,
    /// Whether it answers now.
    pub reachable: bool,
    /// Whether its log is close to the leader's.
    pub caught_up: bool,
    /// Round trip from the leader; unknown sorts last.
    pub rtt_ms: u32,
    /// How long it has not answered.
    pub silent_ms: u64,
}

/// One change of Raft's membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A member's replica becomes a learner.
    AddLearner {
        /// Its Raft id.
        id: u64,
        /// Its member.
        member: u64,
    },
    /// These vote, and no others.
    SetVoters(BTreeSet<u64>),
    /// A replica leaves altogether; it is no voter.
    Remove(u64),
}

/// A voter that did not answer for so long is replaced, where a learner can take its place.
const REPLACE_AFTER_MS: u64 = 10 * 60 * 1000;

/// How many seats there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wished {
    /// Voters.
    pub voters: u32,
    /// Learners that stand by; all other members follow.
    pub learners: u32,
}

/// The next step, or `None` if all is as it should be.
///
/// `wanted` holds the replicas of members that may take part, by Raft id; `voters` and `learners` are Raft's present ids;
/// `wished` is what the policy wants.
pub fn next_step(
    me: u64,
    wished: Wished,
    wanted: &BTreeMap<u64, Replica>,
    voters: &BTreeSet<u64>,
    learners: &BTreeSet<u64>,
) -> Option<Step> {
    // who left goes first: an expelled voter must not count
    let leaving: Vec<u64> = voters.iter().filter(|id| !wanted.contains_key(id)).copied().collect();
    if !leaving.is_empty() && leaving.len() < voters.len() {
        let rest: BTreeSet<u64> = voters.iter().filter(|id| wanted.contains_key(id)).copied().collect();
        return Some(Step::SetVoters(rest));
    }
    if let Some(id) = learners.iter().find(|id| !wanted.contains_key(id)) {
        return Some(Step::Remove(*id));
    }
    if let Some(step) = stand_by(wished, wanted, voters, learners) {
        return Some(step);
    }
    let fit = |id: &u64| wanted.get(id).is_some_and(|replica| replica.reachable && replica.caught_up);
    let ready = wanted.keys().filter(|id| voters.contains(id) || fit(id)).count();
    let target =
        [7, 5, 3, 1].into_iter().find(|seats| *seats <= wished.voters as usize && *seats <= ready).unwrap_or(1);
    if voters.len() < target {
        let mut chosen = voters.clone();
        while chosen.len() < target {
            let next = best(wanted, &chosen, |id| learners.contains(id) && fit(id))?;
            chosen.insert(next);
        }
        return Some(Step::SetVoters(chosen));
    }
    if voters.len() > target {
        let mut chosen = voters.clone();
        let last =
            voters.iter().filter(|id| **id != me).max_by_key(|id| (wanted[id].silent_ms, wanted[id].rtt_ms, **id))?;
        chosen.remove(last);
        // an even number votes only in passing
        return Some(Step::SetVoters(chosen));
    }
    let silent = voters.iter().find(|id| **id != me && wanted[id].silent_ms > REPLACE_AFTER_MS)?;
    let mut chosen = voters.clone();
    chosen.remove(silent);
    let next = best(wanted, &chosen, |id| learners.contains(id) && fit(id))?;
    chosen.insert(next);
    Some(Step::SetVoters(chosen))
}

/// A learner for a free place, or one that is silent for long or too many gives its place up. While votes are missing there
/// are as many learners as could take them.
fn stand_by(
    wished: Wished,
    wanted: &BTreeMap<u64, Replica>,
    voters: &BTreeSet<u64>,
    learners: &BTreeSet<u64>,
) -> Option<Step> {
    let places = wished.learners as usize + (wished.voters as usize).saturating_sub(voters.len());
    let reachable = |id: &u64| wanted.get(id).is_some_and(|replica| replica.reachable);
    let seated: BTreeSet<u64> = voters | learners;
    let next = best(wanted, &seated, reachable);
    if learners.len() < places {
        return next.map(|id| Step::AddLearner { id, member: wanted[&id].member });
    }
    let silent = |id: &&u64| wanted[*id].silent_ms;
    let longest = learners.iter().max_by_key(silent)?;
    let replaced = next.is_some() && wanted[longest].silent_ms > REPLACE_AFTER_MS;
    let surplus = learners.len() > places && voters.len() >= wished.voters as usize;
    (replaced || surplus).then_some(Step::Remove(*longest))
}

/// The fit replica in the city with the fewest chosen voters, then the nearest.
fn best(wanted: &BTreeMap<u64, Replica>, chosen: &BTreeSet<u64>, fit: impl Fn(&u64) -> bool) -> Option<u64> {
    let neighbours = |city: &str| chosen.iter().filter(|id| wanted.get(id).is_some_and(|r| r.city == city)).count();
    wanted
        .iter()
        .filter(|(id, _)| !chosen.contains(id) && fit(id))
        .min_by_key(|(id, replica)| (neighbours(&replica.city), replica.rtt_ms, **id))
        .map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(cities: &[&str]) -> BTreeMap<u64, Replica> {
        cities
            .iter()
            .enumerate()
            .map(|(n, city)| {
                let id = n as u64 + 1;
                let replica = Replica {
                    member: id,
                    city: (*city).to_owned(),
                    reachable: true,
                    caught_up: true,
                    rtt_ms: 10 * id as u32,
                    silent_ms: 0,
                };
                (id, replica)
            })
            .collect()
    }

    /// Steps until nothing is left to do; gives the voters.
    fn settle(target: u32, wanted: &BTreeMap<u64, Replica>, voters: &[u64]) -> BTreeSet<u64> {
        settle_all(Wished { voters: target, learners: 8 }, wanted, voters).0
    }

    /// The same; gives the learners too.
    fn settle_all(wished: Wished, wanted: &BTreeMap<u64, Replica>, voters: &[u64]) -> (BTreeSet<u64>, BTreeSet<u64>) {
        let mut voters: BTreeSet<u64> = voters.iter().copied().collect();
        let mut learners = BTreeSet::new();
        for _ in 0..50 {
            match next_step(1, wished, wanted, &voters, &learners) {
                None => return (voters, learners),
                Some(Step::AddLearner { id, .. }) => drop(learners.insert(id)),
                Some(Step::Remove(id)) => assert!(learners.remove(&id)),
                Some(Step::SetVoters(next)) => {
                    assert!(next.iter().all(|id| voters.contains(id) || learners.contains(id)));
                    learners.extend(voters.difference(&next));
                    learners.retain(|id| !next.contains(id));
                    voters = next;
                }
            }
        }
        panic!("it does not come to rest");
    }

    #[test]
    fn few_stand_by_and_the_others_follow() {
        let wished = Wished { voters: 3, learners: 2 };
        let cities = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
        let (voters, learners) = settle_all(wished, &ring(&cities), &[1]);
        assert_eq!((voters.len(), learners.len()), (3, 2), "seven of twelve follow");
        // a learner that is silent for long gives its place to one that answers
        let mut wanted = ring(&cities);
        let lost = *learners.first().unwrap();
        let replica = wanted.get_mut(&lost).unwrap();
        (replica.reachable, replica.silent_ms) = (false, 700_000);
        let step = next_step(1, wished, &wanted, &voters, &learners);
        assert_eq!(step, Some(Step::Remove(lost)));
        let left = &learners - &BTreeSet::from([lost]);
        assert!(matches!(next_step(1, wished, &wanted, &voters, &left), Some(Step::AddLearner { .. })));
        // nobody is there to stand by
        wanted.values_mut().for_each(|replica| replica.reachable = replica.member == 1);
        assert_eq!(next_step(1, wished, &wanted, &voters, &BTreeSet::new()), None);
    }

    #[test]
    fn voters_grow_in_odd_numbers_and_distinct_cities() {
        assert_eq!(settle(3, &ring(&["a"]), &[1]).len(), 1);
        assert_eq!(settle(3, &ring(&["a", "b"]), &[1]).len(), 1);
        assert_eq!(settle(3, &ring(&["a", "a", "b", "c"]), &[1]), BTreeSet::from([1, 3, 4]));
        assert_eq!(settle(5, &ring(&["a", "b", "c", "d", "e", "f"]), &[1]).len(), 5);
    }

    #[test]
    fn an_expelled_voter_leaves_and_is_replaced() {
        let mut wanted = ring(&["a", "b", "c", "d"]);
        wanted.remove(&2);
        assert_eq!(settle(3, &wanted, &[1, 2, 3]), BTreeSet::from([1, 3, 4]));
    }

    #[test]
    fn a_voter_that_is_silent_for_long_is_replaced_and_a_short_silence_changes_nothing() {
        let mut wanted = ring(&["a", "b", "c", "d"]);
        let mut silent = |ms| {
            let replica = wanted.get_mut(&2).unwrap();
            (replica.reachable, replica.silent_ms) = (false, ms);
            settle(3, &wanted, &[1, 2, 3])
        };
        assert_eq!(silent(60_000), BTreeSet::from([1, 2, 3]));
        assert_eq!(silent(700_000), BTreeSet::from([1, 3, 4]));
    }
}
