//! Schedulers that know every server, for comparison: no regions, no messages, no stale figures.
//!
//! Fragmentation gradient descent as in Weng et al., "Beware of Fragmentation", USENIX ATC 2023, and the baselines named
//! there. GPUs are counted one by one: a share of a GPU lies on one GPU, whole GPUs are free ones.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// What a task asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// Thousandths of cores.
    pub cpu: u64,
    /// MiB.
    pub memory: u64,
    /// Thousandths of one GPU, or whole GPUs as thousands.
    pub gpu: u64,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Thousandths of cores that are free.
    pub cpu: u64,
    /// MiB that are free.
    pub memory: u64,
    /// Thousandths of each GPU that are free.
    pub gpus: Vec<u64>,
}

/// Which server is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The least growth of fragmentation; the shapes of all tasks are known from the beginning.
    Fgd,
    /// The same by asking every server for each task: the shapes are those asked so far.
    AskEverybody,
    /// Any that fits.
    Random,
    /// One after the other.
    RoundRobin,
    /// The most free GPU, then cores.
    LeastLoaded,
    /// The first that fits.
    FirstFit,
    /// The least left over, all dimensions as shares.
    BestFit,
    /// The least product of what is asked and what is free.
    DotProduct,
    /// GPUs in use first, then servers in use.
    GpuPacking,
}

impl Rule {
    /// All of them, each with the ways in which it can be tuned.
    pub const ALL: [(Self, &'static [&'static str]); 9] = [
        (Self::Fgd, &["exact", "scores of 0 to 100", "scores of 0 to 100, without memory"]),
        (Self::AskEverybody, &["exact", "scores of 0 to 100"]),
        (Self::Random, &[""]),
        (Self::RoundRobin, &[""]),
        (Self::LeastLoaded, &["GPUs, then cores", "cores, then GPUs", "share of all"]),
        (Self::FirstFit, &["order of the file", "fewest GPUs first"]),
        (Self::BestFit, &["of the largest server", "of the server itself", "GPUs first"]),
        (
            Self::DotProduct,
            &["least, of the largest server", "least, of the server itself", "most, of the server itself"],
        ),
        (Self::GpuPacking, &["", "fewest cores next"]),
    ];
}

impl Server {
    /// The GPUs that would be taken; `None` if it does not fit. Shares go to the fullest GPU that has room.
    fn gpus_for(&self, shape: &Shape) -> Option<Vec<usize>> {
        if self.cpu < shape.cpu || self.memory < shape.memory {
            return None;
        }
        if shape.gpu == 0 {
            return Some(Vec::new());
        }
        if shape.gpu < 1000 {
            let fits = (0..self.gpus.len()).filter(|g| self.gpus[*g] >= shape.gpu);
            return fits.min_by_key(|g| self.gpus[*g]).map(|g| vec![g]);
        }
        let count = (shape.gpu / 1000) as usize;
        let free: Vec<usize> = (0..self.gpus.len()).filter(|g| self.gpus[*g] == 1000).take(count).collect();
        (free.len() == count).then_some(free)
    }

    fn take(&mut self, shape: &Shape, gpus: &[usize]) {
        self.cpu -= shape.cpu;
        self.memory -= shape.memory;
        for gpu in gpus {
            self.gpus[*gpu] -= shape.gpu.min(1000);
        }
    }

    /// Expected GPU thousandths that tasks drawn from `popular` could not use here; weights sum to any whole.
    fn fragmentation(&self, popular: &[(Shape, f64)]) -> f64 {
        let idle: u64 = self.gpus.iter().sum();
        if idle == 0 {
            return 0.0;
        }
        let whole = self.gpus.iter().filter(|free| **free == 1000).count() as u64;
        let largest = self.gpus.iter().max().copied().unwrap_or(0);
        let each = popular.iter().map(|(shape, weight)| {
            let room = if shape.gpu < 1000 { largest >= shape.gpu } else { whole >= shape.gpu / 1000 };
            let lost = if shape.gpu == 0 || !room || self.cpu < shape.cpu || self.memory < shape.memory {
                idle
            } else {
                let least = shape.gpu.min(1000);
                self.gpus.iter().filter(|free| **free < least).sum()
            };
            lost as f64 * weight
        });
        each.sum()
    }
}

/// The most frequent shapes that make up 95 % of all tasks, as in the paper's "typical pods"; at most `most`.
fn popular<'a>(tasks: impl Iterator<Item = &'a Shape>, memory: bool, most: usize) -> Vec<(Shape, f64)> {
    let mut counts: BTreeMap<Shape, f64> = BTreeMap::new();
    let mut all = 0.0;
    for task in tasks {
        let shape = if memory { *task } else { Shape { memory: 0, ..*task } };
        *counts.entry(shape).or_default() += 1.0;
        all += 1.0;
    }
    let mut popular: Vec<(Shape, f64)> = counts.into_iter().map(|(shape, count)| (shape, count / all)).collect();
    popular.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut sum = 0.0;
    let kept = popular
        .iter()
        .take_while(|(_, weight)| {
            let before = sum;
            sum += weight;
            before < 0.95
        })
        .count();
    popular.truncate(kept.min(most));
    popular
}

/// What a server was worth to a shape: its version then, and the score with the place, where it fits.
type Judged = (u64, Option<(f64, usize)>);

/// Asking everybody, the shapes asked so far are looked at anew after so many tasks.
const LOOK_EVERY: usize = 250;

/// Places tasks in order, none leaves; thousandths of GPUs allocated at the end. `tuning` is a position in [`Rule::ALL`].
/// Between servers of the same score the first of the list is taken.
pub fn place(servers: &[Server], tasks: &[Shape], rule: Rule, tuning: usize, rng: &mut ChaCha8Rng) -> u64 {
    let mut servers = servers.to_vec();
    if rule == Rule::FirstFit && tuning == 1 {
        servers.sort_by_key(|server| server.gpus.len());
    }
    let whole: Vec<Server> = servers.clone();
    let by_fragmentation = matches!(rule, Rule::Fgd | Rule::AskEverybody);
    let mut shapes = popular(tasks.iter().filter(|_| rule == Rule::Fgd), tuning != 2, usize::MAX);
    let mut cache: BTreeMap<Shape, Vec<Option<Judged>>> = BTreeMap::new();
    let mut versions = vec![0u64; servers.len()];
    let (mut allocated, mut next) = (0, 0);
    for (number, task) in tasks.iter().enumerate() {
        if rule == Rule::AskEverybody && (number % LOOK_EVERY == 0 || number == LOOK_EVERY / 5) {
            shapes = popular(tasks[..number].iter(), true, 64);
            cache.clear();
        }
        let chosen: Option<(usize, Vec<usize>)> = if by_fragmentation {
            let row = cache.entry(*task).or_insert_with(|| vec![None; servers.len()]);
            let mut best: Option<(f64, usize, usize)> = None;
            for index in 0..servers.len() {
                let known = row[index].filter(|(version, _)| *version == versions[index]);
                let value = match known {
                    Some((_, value)) => value,
                    None => {
                        let exact = gradient(&servers[index], task, &shapes);
                        let value =
                            exact.map(|(growth, gpu)| (if tuning == 0 { growth } else { -rounded(growth) }, gpu));
                        row[index] = Some((versions[index], value));
                        value
                    }
                };
                if let Some((growth, gpu)) = value
                    && best.is_none_or(|(least, ..)| growth < least)
                {
                    best = Some((growth, index, gpu));
                }
            }
            best.map(|(_, index, gpu)| {
                let gpus = if task.gpu > 0 && task.gpu < 1000 {
                    vec![gpu]
                } else {
                    servers[index].gpus_for(task).expect("it was found to fit")
                };
                (index, gpus)
            })
        } else {
            let fitting: Vec<usize> =
                (0..servers.len()).filter(|index| servers[*index].gpus_for(task).is_some()).collect();
            let pick = match rule {
                Rule::Random => fitting.get(rng.random_range(0..fitting.len().max(1))).copied(),
                Rule::RoundRobin => fitting.iter().copied().find(|index| *index >= next).or(fitting.first().copied()),
                Rule::FirstFit => fitting.first().copied(),
                _ => fitting.iter().copied().min_by(|a, b| {
                    let key = |index: usize| score(rule, tuning, &servers[index], &whole[index], task);
                    key(*a).total_cmp(&key(*b)).then(a.cmp(b))
                }),
            };
            next = pick.map_or(next, |index| index + 1);
            pick.map(|index| (index, servers[index].gpus_for(task).expect("it was found to fit")))
        };
        if let Some((index, gpus)) = chosen {
            servers[index].take(task, &gpus);
            versions[index] += 1;
            allocated += task.gpu;
        }
    }
    allocated
}

/// The whole number from 0 to 100 that the paper's scheduler gives to a growth: its logistic curve, rounded down.
fn rounded(growth: f64) -> f64 {
    (100.0 / (1.0 + (growth / 1000.0).exp())).floor()
}

/// The least growth of fragmentation that a task causes on a server, and the GPU that causes it.
fn gradient(server: &Server, task: &Shape, popular: &[(Shape, f64)]) -> Option<(f64, usize)> {
    let gpus = server.gpus_for(task)?;
    let before = server.fragmentation(popular);
    let after = |gpus: &[usize]| {
        let mut taken = server.clone();
        taken.take(task, gpus);
        taken.fragmentation(popular) - before
    };
    if task.gpu > 0 && task.gpu < 1000 {
        let mut tried = Vec::new();
        let fits = (0..server.gpus.len()).filter(|g| server.gpus[*g] >= task.gpu);
        let mut best: Option<(f64, usize)> = None;
        for gpu in fits {
            if tried.contains(&server.gpus[gpu]) {
                continue;
            }
            tried.push(server.gpus[gpu]);
            let growth = after(&[gpu]);
            if best.is_none_or(|(least, _)| growth < least) {
                best = Some((growth, gpu));
            }
        }
        best
    } else {
        Some((after(&gpus), 0))
    }
}

/// Lower is taken.
fn score(rule: Rule, tuning: usize, server: &Server, whole: &Server, task: &Shape) -> f64 {
    let idle: u64 = server.gpus.iter().sum();
    let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let gpus = 1000 * whole.gpus.len() as u64;
    let base = if tuning == 0 { [128_000, 1 << 20, 8_000] } else { [whole.cpu, whole.memory, gpus] };
    let left = [server.cpu - task.cpu, server.memory - task.memory, idle - task.gpu];
    match (rule, tuning) {
        (Rule::LeastLoaded, 0) => -(idle as f64 * 1000.0 + server.cpu as f64 / 1e6),
        (Rule::LeastLoaded, 1) => -(server.cpu as f64 + idle as f64 / 1e6),
        (Rule::LeastLoaded, _) => {
            -(share(server.cpu, whole.cpu) + share(server.memory, whole.memory) + share(idle, gpus))
        }
        (Rule::BestFit, 2) => left[2] as f64 * 1e3 + share(left[0], 128_000) + share(left[1], 1 << 20),
        (Rule::BestFit, _) => (0..3).map(|i| share(left[i], base[i])).sum(),
        (Rule::DotProduct, _) => {
            let product = share(server.cpu, base[0]) * share(task.cpu, base[0])
                + share(server.memory, base[1]) * share(task.memory, base[1])
                + share(idle, base[2]) * share(task.gpu, base[2]);
            if tuning == 2 { -product } else { product }
        }
        (Rule::GpuPacking, _) => {
            let fresh = idle == gpus;
            let shared =
                task.gpu > 0 && task.gpu < 1000 && server.gpus.iter().any(|free| *free < 1000 && *free >= task.gpu);
            let class = if gpus == 0 && task.gpu == 0 {
                0.0
            } else if shared {
                1.0
            } else if !fresh {
                2.0
            } else {
                3.0
            };
            class * 1e6 + idle as f64 + if tuning == 1 { share(server.cpu, 1_000_000) } else { 0.0 }
        }
        _ => 0.0,
    }
}
