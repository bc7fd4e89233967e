//! An experiment: regions and tasks as data, lived through by the machines, and what it came to.

use crate::input::{Pairs, ServerRow, Site, TaskRow};
use crate::node::Node;
use crate::report::Report;
use crate::testing::task_id;
use crate::trace::Detail;
use crate::wan::Wan;
use crate::world::{Job, World};
use consensus::negotiation::{Input, Need, NegotiationConfig, OwnPool, Submission, Wishes};
use cpi::dictionary::Dictionary;
use cpi::ids::MemberId;
use cpi::resource::{
    ChipKind, ChipModel, ComputeClass, Firmness, PoolSpec, PriceList, Quantity, RegionPlace, ServerClass,
};
use cpi::task::{Budget, Durability, TaskSpec};
use cpi::units::DurationText;
use rand::RngExt as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, VecDeque};

/// Round trips from coordinates: great circle x this, at the speed of light in fibre.
const DETOUR: f64 = 1.5;
/// What the last mile adds one way, in microseconds, where round trips come from coordinates.
const LAST_MILE_US: u64 = 250;
/// Scratch storage of every server.
const STORAGE_BYTES: u64 = 1 << 42;
/// Price of power that a site without one is given, per kWh in CNY.
const PRICE_DEFAULT: f64 = 0.6;
/// An hour of a core and of a chip costs so many kWh at the site's price.
const CORE_KWH: f64 = 0.3;
const CHIP_KWH: f64 = 15.0;

/// What goes wrong on purpose.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// Of 1,000 messages so many are lost, each for good.
    pub loss_permille: u32,
    /// Jitter of one-way times, in thousandths.
    pub jitter_permille: u32,
    /// A region that is down from the beginning, as peers know only by its silence.
    pub down: Option<usize>,
    /// A region that dies with all its runs at this moment.
    pub dies_at_s: Option<(usize, f64)>,
}

/// All that an experiment is made of.
#[derive(Debug, Clone)]
pub struct Experiment {
    /// For people.
    pub title: String,
    /// The seed.
    pub seed: u64,
    /// Regions.
    pub sites: Vec<Site>,
    /// Round trips in ms; coordinates where empty.
    pub rtt_ms: Pairs,
    /// Bytes a second.
    pub throughput: Pairs,
    /// CNY per GB.
    pub egress: Pairs,
    /// Servers by site.
    pub servers: Vec<Vec<ServerRow>>,
    /// What is handed in.
    pub tasks: Vec<TaskRow>,
    /// How regions negotiate.
    pub policy: NegotiationConfig,
    /// How its tasks are kept.
    pub durability: Durability,
    /// What goes wrong.
    pub weather: Weather,
    /// How long a disk takes to sync, in ms.
    pub sync_ms: u64,
    /// How long it goes on after the last submission, in seconds; it ends before when everything has ended.
    pub tail_s: f64,
    /// What is kept of the trace.
    pub detail: Detail,
    /// Whether an oracle looks for room at each submission.
    pub oracle: bool,
    /// Looks at one of so many steps for invariants; 0 for none.
    pub check_every: u64,
    /// Whom each region knows; everybody where it is not given.
    pub peers: Option<Vec<Vec<usize>>>,
    /// Between digests, in ms, where it is not the default.
    pub digest_every_ms: Option<u64>,
    /// Disks forget what has ended.
    pub forgetful: bool,
    /// A task that nobody took within so many seconds is cancelled by its submitter.
    pub give_up_s: Option<f64>,
}

impl Experiment {
    /// An experiment of these regions and tasks, in fair weather.
    pub fn new(title: &str, seed: u64, sites: Vec<Site>, servers: Vec<Vec<ServerRow>>, tasks: Vec<TaskRow>) -> Self {
        Self {
            title: title.to_owned(),
            seed,
            sites,
            rtt_ms: Pairs::new(),
            throughput: Pairs::new(),
            egress: Pairs::new(),
            servers,
            tasks,
            policy: NegotiationConfig::default(),
            durability: Durability::Local,
            weather: Weather::default(),
            sync_ms: 2,
            tail_s: 3_600.0,
            detail: Detail::Digest,
            oracle: true,
            check_every: 16,
            peers: None,
            digest_every_ms: None,
            forgetful: false,
            give_up_s: None,
        }
    }

    /// The network.
    pub fn wan(&self) -> Wan {
        let mut wan = if self.rtt_ms.is_empty() {
            let points = self.sites.iter().map(|site| [site.lat, site.lon]).collect();
            Wan::from_coordinates(points, DETOUR, LAST_MILE_US)
        } else {
            let row =
                |a: usize| (0..self.sites.len()).map(|b| self.rtt_ms.get(&(a, b)).copied().unwrap_or(0.0)).collect();
            let rows: Vec<Vec<f64>> = (0..self.sites.len()).map(row).collect();
            Wan::measured(&rows)
        };
        wan.loss_permille = self.weather.loss_permille;
        wan.gossip_loss_permille = self.weather.loss_permille;
        wan.jitter_permille = self.weather.jitter_permille;
        wan
    }

    /// The regions, not started yet.
    pub fn world(&self) -> World {
        let dictionary = Dictionary::first();
        let nodes = self.sites.iter().enumerate().map(|(index, site)| {
            Node::new(
                MemberId(index as u64 + 1),
                place_of(index, site),
                vec![pool_of(site, &self.servers[index], &dictionary)],
            )
        });
        let mut world = World::asleep(self.seed, self.wan(), self.policy.clone(), nodes.collect());
        if self.durability == Durability::Quorum {
            world.keep_with_others();
        }
        world.sync_ms = self.sync_ms;
        world.oracle = self.oracle;
        world.invariants.every = self.check_every;
        world.trace.set_detail(self.detail);
        world.forgetful = self.forgetful;
        if let Some(ms) = self.digest_every_ms {
            world.digest_every_ms = ms;
            world.digest_refresh_ms = 2 * ms;
        }
        if let Some(peers) = &self.peers {
            for (node, peers) in peers.iter().enumerate() {
                world.nodes[node].peers = Some(peers.clone());
            }
        }
        for (index, site) in self.sites.iter().enumerate() {
            world.metrics.carbon[index] = site.carbon.unwrap_or(500);
        }
        world.throughput = self.throughput.iter().map(|(pair, rate)| (*pair, rate.max(1.0) as u64)).collect();
        world.metrics.egress_price = self.egress.iter().map(|(pair, price)| (*pair, (price * 1e6) as u64)).collect();
        world
    }

    /// Lives it through.
    pub fn live(&self) -> (Report, World) {
        let mut world = self.world();
        world.wake_all();
        if let Some(node) = self.weather.down {
            world.crash(node);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ 0x6f72_6967_696e);
        let up: Vec<usize> = (0..self.sites.len()).filter(|node| Some(*node) != self.weather.down).collect();
        world.jobs = vec![Job::default(); self.tasks.len() + 1];
        let mut shapes = Shapes::default();
        // A second for the first digests.
        let start_us = 1_000_000;
        let last_s = self.tasks.last().map_or(0.0, |task| task.submit_s);
        let sample_us = ((last_s + self.tail_s.min(600.0)) * 1e6 / 240.0).max(250_000.0) as u64;
        let mut dies_us = self.weather.dies_at_s.map(|(node, s)| (node, start_us + (s * 1e6) as u64));
        let mut next_sample = 0;
        let mut advance = |world: &mut World, until_us: u64| {
            loop {
                let death = dies_us.map(|(_, us)| us).unwrap_or(u64::MAX);
                let next = until_us.min(next_sample).min(death);
                world.run_until_us(next);
                if next == death {
                    let (node, _) = dies_us.take().expect("it was just looked at");
                    world.destroy(node);
                }
                if next == next_sample {
                    world.sample();
                    next_sample += sample_us;
                }
                if next == until_us {
                    return;
                }
            }
        };
        let mut patience: VecDeque<(u64, u64, usize)> = VecDeque::new();
        let give_up_us = self.give_up_s.map(|s| (s * 1e6) as u64);
        for (index, task) in self.tasks.iter().enumerate() {
            while patience.front().is_some_and(|(until, ..)| *until <= start_us + (task.submit_s * 1e6) as u64) {
                give_up(&mut world, patience.pop_front());
            }
            let number = index as u64 + 1;
            advance(&mut world, start_us + (task.submit_s * 1e6) as u64);
            let run_ms = ((task.duration_s * 1000.0) as u64).max(1);
            world.jobs[number as usize] = Job { run_ms, input_bytes: task.input_bytes, input_site: task.input_site };
            let origin = task.origin.unwrap_or_else(|| up[rng.random_range(0..up.len())]);
            let submission = shapes.submission(number, task);
            world.feed(origin, Input::Submit(Box::new(submission)));
            if let Some(us) = give_up_us {
                patience.push_back((world.now_us + us, number, origin));
            }
        }
        while let Some(next) = patience.pop_front() {
            advance(&mut world, next.0);
            give_up(&mut world, Some(next));
        }
        let end_us = start_us + ((last_s + self.tail_s) * 1e6) as u64;
        while world.now_us < end_us {
            let until = (world.now_us + sample_us.max(1_000_000)).min(end_us);
            advance(&mut world, until);
            if world.is_quiet() {
                break;
            }
        }
        world.metrics.settle(world.now_us);
        world.sample();
        (Report::of(self, &world), world)
    }
}

/// A submitter that waited long enough cancels a task that nobody took.
fn give_up(world: &mut World, waited: Option<(u64, u64, usize)>) {
    let Some((_, number, origin)) = waited else { return };
    if world.metrics.tasks[number as usize].accepted_us == 0 {
        world.feed(origin, Input::Cancel { task: task_id(number), principal: "tester".to_owned() });
    }
}

/// Where a site is, as peers know it.
fn place_of(index: usize, site: &Site) -> RegionPlace {
    let plain: String =
        site.id.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let name = plain.trim_matches('-').chars().take(26).collect::<String>();
    let region = if name.starts_with(|c: char| c.is_ascii_lowercase()) {
        format!("{name}-{index}")
    } else {
        format!("r{name}-{index}")
    };
    RegionPlace {
        region: region.parse().expect("letters, digits and hyphens, first a letter"),
        city: format!("U{}{index}", site.country),
        country: site.country.clone(),
    }
}

/// The kind of a chip by the dictionary; what it does not know counts as a GPU.
pub fn chip_kind(model: &str, dictionary: &Dictionary) -> ChipKind {
    dictionary.chips.iter().find(|chip| chip.code.code == model).map_or(ChipKind::Gpu, |chip| chip.kind)
}

/// One pool of a site's servers: a class per kind of server.
fn pool_of(site: &Site, servers: &[ServerRow], dictionary: &Dictionary) -> OwnPool {
    let mut kinds: BTreeMap<(u64, u64, &str, u32), u32> = BTreeMap::new();
    for server in servers {
        let kind = (server.cpu_milli, server.memory_mib, server.chip_model.as_str(), server.chips);
        *kinds.entry(kind).or_default() += server.count;
    }
    let classes =
        kinds.into_iter().enumerate().map(|(index, ((cpu_milli, memory_mib, model, chips), servers))| ServerClass {
            name: format!("c{index}"),
            cpu_model: "X".to_owned(),
            chip: (chips > 0).then(|| ChipModel { model: model.to_owned(), kind: chip_kind(model, dictionary) }),
            per_server: Quantity {
                cpu_milli,
                memory_bytes: memory_mib << 20,
                storage_bytes: STORAGE_BYTES,
                chip_milli: u64::from(chips) * 1000,
            },
            servers,
        });
    let kwh_micro = site.price.unwrap_or(PRICE_DEFAULT) * 1e6;
    let spec = PoolSpec {
        name: "p".to_owned(),
        backend: "fake".to_owned(),
        class: ComputeClass::Intelligent,
        identifiers: Vec::new(),
        classes: classes.collect(),
        firmness: Firmness::Held,
        price: PriceList {
            currency: "CNY".to_owned(),
            cpu_core_hour_micro: (kwh_micro * CORE_KWH) as u64,
            memory_gib_hour_micro: 0,
            chip_hour_micro: (kwh_micro * CHIP_KWH) as u64,
        },
        carbon_g_per_kwh: site.carbon,
        cordoned: false,
    };
    OwnPool { spec, commands: true, images: true }
}

type ShapeKey = (u64, u64, u64, Option<String>, Vec<(String, u64)>, Vec<String>, Option<u64>, Option<u64>, u64, u64);

/// Submissions by shape, so that a million tasks do not make a million documents.
#[derive(Default)]
struct Shapes {
    by_key: BTreeMap<ShapeKey, Submission>,
}

impl Shapes {
    fn submission(&mut self, number: u64, task: &TaskRow) -> Submission {
        let deadline_ms = task.deadline_s.map(|s| (s * 1000.0) as u64);
        let price_fen = task.max_price.map(|price| (price * 100.0) as u64);
        // Runs are promised in whole hours, at least as long as they last: prices are compared by it.
        let hours = ((task.duration_s / 3_600.0).ceil() as u64).clamp(1, 168);
        let key = (
            task.cpu_milli,
            task.memory_mib,
            task.chip_milli,
            task.chip_model.clone(),
            task.variants.clone(),
            task.residency.clone(),
            deadline_ms,
            price_fen,
            task.input_bytes,
            hours,
        );
        let template = self.by_key.entry(key).or_insert_with(|| {
            let spec = spec_of(task, deadline_ms, price_fen, hours);
            let mut need = Need::of(&spec, &Dictionary::first());
            need.input_bytes = task.input_bytes;
            Submission {
                task: task_id(0),
                principal: "tester".to_owned(),
                idempotency_key: None,
                document: serde_json::to_vec(&spec).expect("a task is JSON").into(),
                need,
                wishes: Wishes::of(&spec).expect("it has no filter"),
                deadline_ms,
                retry: spec.retry.clone(),
                plan: None,
            }
        });
        Submission { task: task_id(number), ..template.clone() }
    }
}

fn resources(task: &TaskRow, chips: Option<(Option<&str>, u64)>) -> serde_json::Value {
    let mut json = serde_json::json!({
        "cpu": format!("{}m", task.cpu_milli),
        "memory": format!("{} MiB", task.memory_mib),
        "storage": "1 MiB",
    });
    if let Some((model, milli)) = chips.filter(|(_, milli)| *milli > 0) {
        let mut chips = if milli % 1000 == 0 {
            serde_json::json!({"count": milli / 1000})
        } else {
            serde_json::json!({"milli": milli})
        };
        if let Some(model) = model {
            chips["model"] = model.into();
        }
        json["chips"] = chips;
    }
    json
}

fn spec_of(task: &TaskRow, deadline_ms: Option<u64>, price_fen: Option<u64>, hours: u64) -> TaskSpec {
    let variants: Vec<_> = task
        .variants
        .iter()
        .map(|(model, milli)| {
            let model = (!model.is_empty()).then_some(model.as_str());
            let chips = model.map(|model| (Some(model), *milli));
            serde_json::json!({"name": model.unwrap_or("cpu"), "resources": resources(task, chips)})
        })
        .collect();
    let mut spec: TaskSpec = serde_json::from_value(serde_json::json!({
        "name": "task",
        "command": ["/bin/true"],
        "resources": resources(task, Some((task.chip_model.as_deref(), task.chip_milli))),
        "variants": variants,
        "placement": {"residency": task.residency},
    }))
    .expect("a valid task");
    spec.retry.max_attempts = 20;
    spec.max_runtime = DurationText::from_secs(hours * 3_600);
    spec.deadline = deadline_ms.map(|ms| DurationText::from_secs(ms.div_ceil(1000)));
    spec.budget = price_fen.map(|amount_minor| Budget { amount_minor, currency: "CNY".to_owned() });
    spec
}
