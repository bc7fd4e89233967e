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
    /// The least growth of fragmentation.
    Fgd,
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
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Fgd,
        Self::Random,
        Self::RoundRobin,
        Self::LeastLoaded,
        Self::FirstFit,
        Self::BestFit,
        Self::DotProduct,
        Self::GpuPacking,
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
        let each = popular.iter().map(|(shape, weight)| {
            let lost = if shape.gpu == 0 || self.gpus_for(shape).is_none() {
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

/// What a server was worth to a shape: its version then, and the score with the place, where it fits.
type Judged = (u64, Option<(f64, usize)>);

/// Places tasks in order, none leaves; thousandths of GPUs allocated at the end.
pub fn place(servers: &[Server], tasks: &[Shape], rule: Rule, rng: &mut ChaCha8Rng) -> u64 {
    let mut servers = servers.to_vec();
    let whole: Vec<Server> = servers.clone();
    let mut counts: BTreeMap<Shape, f64> = BTreeMap::new();
    for task in tasks {
        *counts.entry(*task).or_default() += 1.0 / tasks.len() as f64;
    }
    // The most frequent shapes that make up 95 % of all tasks, as in the paper's "typical pods".
    let mut popular: Vec<(Shape, f64)> = counts.into_iter().collect();
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
    popular.truncate(kept);
    let mut cache: BTreeMap<Shape, Vec<Option<Judged>>> = BTreeMap::new();
    let mut versions = vec![0u64; servers.len()];
    let (mut allocated, mut next) = (0, 0);
    for task in tasks {
        let chosen: Option<(usize, Vec<usize>)> = if rule == Rule::Fgd {
            let row = cache.entry(*task).or_insert_with(|| vec![None; servers.len()]);
            let mut best: Option<(f64, usize, usize)> = None;
            for index in 0..servers.len() {
                let known = row[index].filter(|(version, _)| *version == versions[index]);
                let value = match known {
                    Some((_, value)) => value,
                    None => {
                        let value = gradient(&servers[index], task, &popular);
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
                    let key = |index: usize| score(rule, &servers[index], &whole[index], task);
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
fn score(rule: Rule, server: &Server, whole: &Server, task: &Shape) -> f64 {
    let idle: u64 = server.gpus.iter().sum();
    let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let gpus = 1000 * whole.gpus.len() as u64;
    match rule {
        Rule::LeastLoaded => -(idle as f64 * 1000.0 + server.cpu as f64 / 1e6),
        Rule::BestFit => {
            share(server.cpu - task.cpu, 128_000)
                + share(server.memory - task.memory, 1 << 20)
                + share(idle - task.gpu, 8_000)
        }
        Rule::DotProduct => {
            share(server.cpu, 128_000) * share(task.cpu, 128_000)
                + share(server.memory, 1 << 20) * share(task.memory, 1 << 20)
                + share(idle, 8_000) * share(task.gpu, 8_000)
        }
        Rule::GpuPacking => {
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
            class * 1e6 + idle as f64
        }
        _ => 0.0,
    }
}
