//! The conformance suite run against a backend of this node, one suite of each adapter at a time; the last one is kept in
//! memory.

use super::adapter_views::{AdapterTestView, CaseView};
use adapters::conformance::{self, CaseResult, Options, programs};
use adapters::contract::Adapter;
use cpi::resource::PoolSpec;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The longest that a run may take to show a change that it makes at once.
const PATIENCE: Duration = Duration::from_secs(60);
/// A suite that takes longer has hung.
const SUITE_MAX: Duration = Duration::from_secs(3_600);

/// The suites by adapter.
#[derive(Clone, Default)]
pub struct AdapterTests(Arc<Mutex<BTreeMap<String, AdapterTestView>>>);

impl AdapterTests {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, AdapterTestView>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last suite of `adapter`.
    pub fn get(&self, adapter: &str) -> Option<AdapterTestView> {
        self.lock().get(adapter).cloned()
    }

    /// Begins a suite in `class` of `pool`; `None` if one is under way. `kind` says how its programs are written.
    pub fn begin(
        &self,
        name: &str,
        kind: &str,
        adapter: Arc<dyn Adapter>,
        pool: &PoolSpec,
        class: &str,
    ) -> Option<AdapterTestView> {
        let mut all = self.lock();
        if all.get(name).is_some_and(|one| one.state == "running") {
            return None;
        }
        let view = AdapterTestView {
            adapter: name.to_owned(),
            state: "running".to_owned(),
            pool: pool.name.clone(),
            class: class.to_owned(),
            passed: 0,
            failed: 0,
            cases: Vec::new(),
        };
        all.insert(name.to_owned(), view.clone());
        drop(all);
        let mut chips: Vec<_> = pool.classes.iter().filter_map(|class| Some(class.chip.as_ref()?.kind)).collect();
        chips.sort_unstable();
        chips.dedup();
        let options = Options {
            pool: pool.name.clone(),
            class: class.to_owned(),
            chips,
            program: if kind == "fake" { Box::new(programs::played) } else { Box::new(programs::shell) },
            patience: PATIENCE,
        };
        let (tests, mut done) = (self.clone(), view.clone());
        tokio::spawn(async move {
            let ran = tokio::time::timeout(SUITE_MAX, conformance::run(adapter.as_ref(), &options)).await;
            let results = ran.unwrap_or_else(|_| {
                let failure = Some(format!("it did not end within {} s", SUITE_MAX.as_secs()));
                vec![CaseResult { case: "the_suite_ends", chip: None, failure, offered: true }]
            });
            done.cases = results.into_iter().map(case_view).collect();
            done.failed = count(done.cases.iter().filter(|case| case.failure.is_some()));
            done.passed = count(done.cases.iter().filter(|case| case.failure.is_none()));
            "done".clone_into(&mut done.state);
            tests.lock().insert(done.adapter.clone(), done);
        });
        Some(view)
    }
}

fn count<'a>(cases: impl Iterator<Item = &'a CaseView>) -> u32 {
    u32::try_from(cases.count()).unwrap_or(u32::MAX)
}

fn case_view(result: CaseResult) -> CaseView {
    CaseView {
        case: result.case.to_owned(),
        chip: result.chip.map(|kind| kind.code().to_owned()),
        failure: result.failure,
    }
}
