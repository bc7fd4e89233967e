//! The provider's nodes, reservations and machines.

use super::{Answer, Request, State, page};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Cores, memory in MB, disk in GB.
type Amount = [u64; 3];

const NODE: Amount = [64, 256 << 10, 1 << 10];

pub struct Node {
    shape: &'static str,
    accelerator: Option<&'static str>,
}

pub struct Machine {
    asked: Value,
    phase: &'static str,
    amount: Amount,
    node: usize,
}

#[derive(Default)]
pub struct Land {
    nodes: Vec<Node>,
    reserved: BTreeMap<String, (usize, Amount, Instant)>,
    pub machines: BTreeMap<String, Machine>,
}

fn amount(asked: &Value) -> Amount {
    let of = |name: &str| asked[name].as_u64().unwrap_or(0);
    [of("cores"), of("memory_mb"), of("disk_gb")]
}

fn fits(free: &Amount, need: &Amount) -> bool {
    free.iter().zip(need).all(|(free, need)| free >= need)
}

impl Land {
    pub fn new() -> Self {
        let node = |shape, accelerator| Node { shape, accelerator };
        let nodes = vec![
            node("node", None),
            node("gpu", Some("a100")),
            node("npu", Some("ascend910b")),
            node("fpg", Some("u280")),
        ];
        Self { nodes, ..Self::default() }
    }

    fn free(&self, node: usize) -> Amount {
        let now = Instant::now();
        let reserved =
            self.reserved.values().filter(|(at, _, until)| *at == node && *until > now).map(|(_, amount, _)| amount);
        let alive = |machine: &&Machine| machine.node == node && machine.phase != "TERMINATED";
        let machines = self.machines.values().filter(alive).map(|machine| &machine.amount);
        reserved.chain(machines).fold(NODE, |free, taken| std::array::from_fn(|at| free[at] - taken[at]))
    }

    fn room(&self, asked: &Value, need: &Amount) -> Option<usize> {
        let shape = asked["shape"].as_str().unwrap_or("");
        (0..self.nodes.len()).find(|at| self.nodes[*at].shape == shape && fits(&self.free(*at), need))
    }
}

impl State {
    pub(super) fn machines(&mut self, request: &Request, what: &str, rest: &[&str]) -> Answer {
        let full = || Answer::problem(409, "NO_ROOM", "all nodes of the shape are taken");
        let none = || Answer::problem(404, "NO_SUCH_THING", "there is no such thing");
        let land = &mut self.land;
        match (request.method.as_str(), what, rest) {
            ("GET", "nodes", []) => {
                let nodes = land.nodes.iter().enumerate().map(|(at, node)| {
                    let free = land.free(at);
                    let of = |part: usize| json!({ "total": NODE[part], "free": free[part] });
                    let accelerator = node.accelerator.map(|kind| json!({ "type": kind, "total": 8, "free": 8 }));
                    let view = json!({ "id": format!("node-{at}"), "queue": "pool", "shape": node.shape, "rack": "r1",
                        "state": "UP", "cores": of(0), "memory_mb": of(1), "disk_gb": of(2), "accelerator": accelerator });
                    (format!("node-{at}"), view)
                });
                page("nodes", nodes.collect(), request)
            }
            ("PUT", "reservations", [name]) => {
                let asked = request.json();
                let until = Instant::now() + Duration::from_millis(asked["expires_in_ms"].as_u64().unwrap_or(0));
                if let Some(there) = land.reserved.get_mut(*name).filter(|there| there.2 > Instant::now()) {
                    there.2 = until;
                } else {
                    let need = amount(&asked);
                    let Some(node) = land.room(&asked, &need) else { return full() };
                    land.reserved.insert((*name).to_owned(), (node, need, until));
                }
                Answer::json(200, &json!({ "name": name, "expires_in_ms": asked["expires_in_ms"] }))
            }
            ("DELETE", "reservations", [name]) => match land.reserved.remove(*name) {
                Some(_) => Answer::new(204, Vec::new()),
                None => none(),
            },
            ("GET", "machines", []) => {
                let label = request.query.get("label.causeway-tag");
                let fits = |machine: &Machine| label.is_none_or(|tag| machine.asked["labels"]["causeway-tag"] == **tag);
                let machines = land.machines.iter().filter(|(_, machine)| fits(machine));
                page("machines", machines.map(|(id, machine)| (id.clone(), machine.view(id))).collect(), request)
            }
            ("POST", "machines", []) => {
                let asked = request.json();
                let need = amount(&asked);
                let Some(node) = land.room(&asked, &need) else { return full() };
                // it does not look at tags: whoever asks twice gets two
                let id = format!("m-{:06}", self.next);
                self.next += 1;
                let machine = Machine { asked, phase: "ACTIVE", amount: need, node };
                let view = machine.view(&id);
                land.machines.insert(id, machine);
                Answer::json(201, &view)
            }
            (method, "machines", [id, verb @ ..]) => {
                let id = (*id).to_owned();
                let Some((node, own)) = land.machines.get(&id).map(|machine| (machine.node, machine.amount)) else {
                    return none();
                };
                let free = land.free(node);
                let machine = land.machines.get_mut(&id).unwrap();
                match (method, verb) {
                    ("PATCH", []) => {
                        let need = amount(&request.json());
                        let room: Amount = std::array::from_fn(|at| free[at] + own[at]);
                        if !fits(&room, &need) {
                            return full();
                        }
                        machine.amount = need;
                    }
                    ("POST", ["power"]) => match (request.json()["action"].as_str().unwrap_or(""), machine.phase) {
                        (_, "TERMINATED") => return none(),
                        ("start", "STOPPED") | ("restart", _) => machine.phase = "ACTIVE",
                        ("stop", "ACTIVE") => machine.phase = "STOPPED",
                        _ => return Answer::problem(409, "ALREADY_SO", "it is so already"),
                    },
                    ("DELETE", []) => machine.phase = "TERMINATED",
                    _ => return none(),
                }
                Answer::json(200, &machine.view(&id))
            }
            _ => none(),
        }
    }
}

impl Machine {
    fn view(&self, id: &str) -> Value {
        json!({ "id": id, "labels": self.asked["labels"], "phase": self.phase, "cores": self.amount[0],
            "memory_mb": self.amount[1], "disk_gb": self.amount[2], "addresses": ["198.51.100.7"] })
    }
}
