//! Validation of a loaded configuration: ranges, addresses, and what only makes sense together. Every problem is reported.

use super::NodeConfig;
use super::error::ConfigProblem;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

/// All that is wrong with `config`; empty if it may be used.
pub fn validate(config: &NodeConfig) -> Vec<ConfigProblem> {
    let mut check = Check { problems: Vec::new() };
    check.region(config);
    check.http(config);
    check.mesh(config);
    check.ranges(config);
    check.together(config);
    check.plugins(config);
    check.pools(config);
    check.problems
}

struct Check {
    problems: Vec<ConfigProblem>,
}

impl Check {
    fn refuse(&mut self, key: &str, message: impl Into<String>, hint: Option<&str>) {
        self.problems.push(ConfigProblem {
            place: String::new(),
            key: key.to_owned(),
            message: message.into(),
            hint: hint.map(str::to_owned),
        });
    }

    fn range<T: PartialOrd + Display>(&mut self, key: &str, value: T, range: RangeInclusive<T>) {
        if !range.contains(&value) {
            self.refuse(key, format!("{value} is out of range: expected {} to {}", range.start(), range.end()), None);
        }
    }

    fn region(&mut self, config: &NodeConfig) {
        let city = &config.region.city;
        let chinese = city.len() == 7 && city.starts_with('G') && city[1..].bytes().all(|b| b.is_ascii_digit());
        let locode = city.len() == 6
            && city.starts_with('U')
            && city[1..].bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        if !chinese && !locode {
            let expected = "G and six digits (GB/T 2260) or U and five characters (UN/LOCODE)";
            self.refuse("region.city", format!("{city:?} is no city code: expected {expected}"), None);
        }
        let country = &config.region.country;
        if country.len() != 2 || !country.bytes().all(|b| b.is_ascii_uppercase()) {
            self.refuse("region.country", format!("{country:?} is no country: expected two capital letters"), None);
        }
        if config.data.dir.as_os_str().is_empty() {
            self.refuse("data.dir", "is empty: expected a folder", None);
        }
    }

    fn http(&mut self, config: &NodeConfig) {
        let http = &config.http;
        let pair = (http.tls_cert.as_os_str().is_empty(), http.tls_key.as_os_str().is_empty());
        match pair {
            (true, false) => self.refuse("http.tls_cert", "is missing beside `http.tls_key`", None),
            (false, true) => self.refuse("http.tls_key", "is missing beside `http.tls_cert`", None),
            _ => {}
        }
        match http.listen.parse::<SocketAddr>() {
            Err(_) => self.refuse(
                "http.listen",
                format!("{:?} is no address: expected IP:PORT, as in 127.0.0.1:7480 or [::1]:7480", http.listen),
                None,
            ),
            Ok(address) if !address.ip().is_loopback() && !http.tls() => self.refuse(
                "http.listen",
                format!("{address} is reachable from other machines, and no TLS is configured"),
                Some("set `http.tls_cert` and `http.tls_key`, or listen on 127.0.0.1"),
            ),
            Ok(_) => {}
        }
    }

    fn mesh(&mut self, config: &NodeConfig) {
        let mesh = &config.mesh;
        if mesh.listen.is_empty() {
            self.refuse("mesh.listen", "is empty: expected at least one multiaddress", None);
        }
        let all = mesh.listen.iter().map(|a| ("mesh.listen", a));
        let all = all.chain(mesh.announce.iter().map(|a| ("mesh.announce", a)));
        let all: Vec<_> = all.chain(mesh.dial_map.values().map(|a| ("mesh.dial_map", a))).collect();
        for (key, address) in all {
            let parts: Vec<&str> = address.split('/').collect();
            let shape = match parts.as_slice() {
                ["", "ip4", ip, rest @ ..] => ip.parse::<std::net::Ipv4Addr>().is_ok() && transport(rest),
                ["", "ip6", ip, rest @ ..] => ip.parse::<std::net::Ipv6Addr>().is_ok() && transport(rest),
                ["", "dns" | "dns4" | "dns6", name, rest @ ..] => !name.is_empty() && transport(rest),
                _ => false,
            };
            if !shape {
                let expected = "/ip4/ADDRESS/udp/PORT/quic-v1 or /ip4/ADDRESS/tcp/PORT (ip6 and dns too)";
                self.refuse(key, format!("{address:?} is no multiaddress for peers: expected {expected}"), None);
            }
        }
        for region in mesh.dial_map.keys() {
            if let Err(error) = region.parse::<cpi::ids::RegionName>() {
                self.refuse("mesh.dial_map", error.to_string(), None);
            }
        }
    }

    fn ranges(&mut self, config: &NodeConfig) {
        let NodeConfig { node, http, mesh, registry, negotiation, adapters, artifacts, .. } = config;
        self.range("node.worker_threads", node.worker_threads, 0..=512);
        self.range("node.shutdown_grace_ms", node.shutdown_grace_ms, 0..=600_000);
        self.range("http.body_bytes_max", http.body_bytes_max, 1024..=64 << 20);
        self.range("http.request_timeout_ms", http.request_timeout_ms, 100..=600_000);
        self.range("http.concurrency_max", http.concurrency_max, 1..=1_000_000);
        self.range("http.streams_max", http.streams_max, 1..=100_000);
        self.range("http.writes_per_second", http.writes_per_second, 1..=1_000_000);
        self.range("data.ballast_bytes", config.data.ballast_bytes, 0..=16 << 30);
        self.range("data.task_ttl_s", config.data.task_ttl_s, 3_600..=315_360_000);
        self.range("data.ended_tasks_max", config.data.ended_tasks_max, 1_000..=10_000_000);
        self.range("http.idempotency_ttl_s", http.idempotency_ttl_s, 60..=604_800);
        self.range("mesh.ping_interval_ms", mesh.ping_interval_ms, 200..=60_000);
        self.range("mesh.redial_ms_min", mesh.redial_ms_min, 50..=60_000);
        self.range("mesh.redial_ms_max", mesh.redial_ms_max, 1_000..=600_000);
        self.range("mesh.idle_timeout_ms", mesh.idle_timeout_ms, 1_000..=60_000);
        self.range("mesh.queue_frames_max", mesh.queue_frames_max, 16..=1_000_000);
        self.range("registry.heartbeat_ms_min", registry.heartbeat_ms_min, 20..=5_000);
        self.range("registry.election_ms_min", registry.election_ms_min, 60..=60_000);
        self.range("registry.snapshot_log_bytes", registry.snapshot_log_bytes, 1 << 20..=16 << 30);
        self.range("registry.log_entries_kept", registry.log_entries_kept, 0..=10_000_000);
        self.range("registry.commit_wait_ms", registry.commit_wait_ms, 100..=60_000);
        self.range("registry.cache_mib", registry.cache_mib, 8..=1_048_576);
        self.range("negotiation.wave_size", negotiation.wave_size, 1..=16);
        self.range("negotiation.ask_timeout_ms", negotiation.ask_timeout_ms, 50..=60_000);
        self.range("negotiation.hold_ttl_ms", negotiation.hold_ttl_ms, 100..=5_000);
        self.range("negotiation.plan_hold_ttl_ms", negotiation.plan_hold_ttl_ms, 1_000..=60_000);
        self.range("negotiation.lease_ttl_ms", negotiation.lease_ttl_ms, 5_000..=600_000);
        self.range("negotiation.custody_orphan_after_ms", negotiation.custody_orphan_after_ms, 2_000..=3_600_000);
        self.range("negotiation.custody_return_after_ms", negotiation.custody_return_after_ms, 1_000..=3_600_000);
        self.range("negotiation.custody_replace_after_ms", negotiation.custody_replace_after_ms, 10_000..=604_800_000);
        self.range("negotiation.digest_interval_ms", negotiation.digest_interval_ms, 200..=600_000);
        self.range("negotiation.digest_ttl_ms", negotiation.digest_ttl_ms, 1_000..=3_600_000);
        self.range("negotiation.retry_ms_min", negotiation.retry_ms_min, 50..=600_000);
        self.range("negotiation.retry_ms_max", negotiation.retry_ms_max, 1_000..=3_600_000);
        self.range("negotiation.holds_per_origin_max", negotiation.holds_per_origin_max, 1..=100_000);
        self.range("negotiation.leases_per_origin_max", negotiation.leases_per_origin_max, 1..=1_000_000);
        self.range("negotiation.own_share_permille", negotiation.own_share_permille, 1..=1_000);
        self.range("negotiation.dearer_permille_max", negotiation.dearer_permille_max, 0..=10_000);
        self.range("negotiation.egress_gib_micro", negotiation.egress_gib_micro, 0..=1_000_000_000);
        self.range("negotiation.discount_permille_max", negotiation.discount_permille_max, 0..=1_000);
        self.range("negotiation.tasks_open_max", negotiation.tasks_open_max, 1..=10_000_000);
        self.range("adapters.local.processes_max", adapters.local.processes_max, 1..=1_000_000);
        self.range("adapters.local.uid_count", adapters.local.uid_count, 1..=1_000_000);
        self.range("adapters.local.cancel_grace_ms", adapters.local.cancel_grace_ms, 0..=600_000);
        self.range("adapters.local.log_bytes_max", adapters.local.log_bytes_max, 65_536..=1 << 40);
        self.range("artifacts.unused_ttl_s", artifacts.unused_ttl_s, 60..=31_536_000);
        self.range("artifacts.result_ttl_s", artifacts.result_ttl_s, 60..=31_536_000);
    }

    fn together(&mut self, config: &NodeConfig) {
        let NodeConfig { mesh, registry, negotiation, adapters, artifacts, .. } = config;
        if registry.election_ms_min < 3 * registry.heartbeat_ms_min {
            self.refuse("registry.election_ms_min", "must be at least three times `registry.heartbeat_ms_min`", None);
        }
        if config.data.task_ttl_s < config.http.idempotency_ttl_s {
            self.refuse("data.task_ttl_s", "must not be less than `http.idempotency_ttl_s`", None);
        }
        if mesh.redial_ms_max < mesh.redial_ms_min {
            self.refuse("mesh.redial_ms_max", "must not be less than `mesh.redial_ms_min`", None);
        }
        if negotiation.lease_renew_ms == 0 || negotiation.lease_renew_ms > negotiation.lease_ttl_ms / 3 {
            self.refuse("negotiation.lease_renew_ms", "must be 1 to a third of `negotiation.lease_ttl_ms`", None);
        }
        if negotiation.digest_ttl_ms < 2 * negotiation.digest_interval_ms {
            self.refuse("negotiation.digest_ttl_ms", "must be at least twice `negotiation.digest_interval_ms`", None);
        }
        if negotiation.retry_ms_max < negotiation.retry_ms_min {
            self.refuse("negotiation.retry_ms_max", "must not be less than `negotiation.retry_ms_min`", None);
        }
        if artifacts.object_bytes_max > artifacts.total_bytes_max {
            self.refuse("artifacts.object_bytes_max", "must not be more than `artifacts.total_bytes_max`", None);
        }
        let cgroup = &adapters.local.cgroup;
        if cgroup.is_empty() || cgroup.split('/').any(|part| part.is_empty() || part == "..") {
            self.refuse("adapters.local.cgroup", "expected a relative path without `..`", None);
        }
        if (1..1_000).contains(&adapters.local.uid_base) {
            self.refuse("adapters.local.uid_base", "expected 0, or 1000 or more: lower ids belong to the system", None);
        }
        if adapters.local.uid_base.checked_add(adapters.local.uid_count).is_none() {
            self.refuse("adapters.local.uid_count", "reaches beyond the last user id", None);
        }
    }

    fn plugins(&mut self, config: &NodeConfig) {
        let host = &config.adapters.host;
        let mut range = |key: &str, value: u64, range| self.range(&format!("adapters.host.{key}"), value, range);
        range("start_ms", host.start_ms, 100..=600_000);
        range("call_ms", host.call_ms, 100..=600_000);
        range("wait_ms", host.wait_ms, 100..=60_000);
        range("heartbeat_ms", host.heartbeat_ms, 100..=60_000);
        range("heartbeats_missed_max", host.heartbeats_missed_max.into(), 1..=100);
        range("backoff_ms_min", host.backoff_ms_min, 10..=60_000);
        range("backoff_ms_max", host.backoff_ms_max, 100..=3_600_000);
        range("flaps_max", host.flaps_max.into(), 1..=1_000);
        range("flap_window_ms", host.flap_window_ms, 1_000..=3_600_000);
        range("quarantine_ms", host.quarantine_ms, 1_000..=86_400_000);
        range("drain_ms", host.drain_ms, 100..=600_000);
        range("probation_ms", host.probation_ms, 0..=3_600_000);
        range("events_per_second_max", host.events_per_second_max.into(), 10..=1_000_000);
        range("inventory_ms", host.inventory_ms, 500..=600_000);
        if host.backoff_ms_max < host.backoff_ms_min {
            self.refuse("adapters.host.backoff_ms_max", "must not be less than `adapters.host.backoff_ms_min`", None);
        }
        self.desk(config);
        let mut names = BTreeSet::new();
        if config.adapters.plugin.len() > adapters::host::PLUGINS_MAX {
            let message = format!("a node has at most {} plugins", adapters::host::PLUGINS_MAX);
            self.refuse("adapters.plugin", message, None);
        }
        for (at, plugin) in config.adapters.plugin.iter().enumerate() {
            let key = |field: &str| format!("adapters.plugin.{at}.{field}");
            if !adapters::host::is_name(&plugin.name) || matches!(plugin.name.as_str(), "local" | "fake") {
                let expected = "1 to 32 lower-case letters, digits and hyphens, and not `local` or `fake`";
                self.refuse(
                    &key("name"),
                    format!("{:?} is no name of a plugin: expected {expected}", plugin.name),
                    None,
                );
            }
            if !names.insert(&plugin.name) {
                self.refuse(&key("name"), format!("there are two plugins {:?}", plugin.name), None);
            }
            self.range(&key("replicas"), plugin.replicas, 1..=8);
            match &plugin.path {
                Some(path) if !path.is_absolute() => {
                    self.refuse(&key("path"), format!("{} is no absolute path", path.display()), None);
                }
                None if host.plugins_dir.as_os_str().is_empty() => {
                    let hint = "set it, or put the plugin into a folder and set `adapters.host.plugins_dir`";
                    self.refuse(&key("path"), "is missing, and there is no folder of plugins", Some(hint));
                }
                _ => {}
            }
            for credential in &plugin.credentials {
                if !adapters::vault::is_name(credential) {
                    let message =
                        format!("{credential:?} is no name of a secret: expected 1 to 128 of a-z, 0-9 and -_./");
                    self.refuse(&key("credentials"), message, None);
                }
            }
        }
    }

    fn desk(&mut self, config: &NodeConfig) {
        let desk = &config.adapters.desk;
        self.range("adapters.desk.output_bytes_max", desk.output_bytes_max, 1 << 20..=1 << 40);
        self.range("adapters.desk.linger_ms", desk.linger_ms, 1_000..=86_400_000);
        self.range("adapters.desk.lost_ms", desk.lost_ms, 1_000..=86_400_000);
        if desk.listen.is_empty() {
            return;
        }
        let files = [&desk.tls_cert, &desk.tls_key, &desk.tls_ca].map(|file| !file.as_os_str().is_empty());
        let tls = files == [true; 3];
        if !tls && files != [false; 3] {
            self.refuse("adapters.desk.tls_cert", "`tls_cert`, `tls_key` and `tls_ca` belong together", None);
        }
        match desk.listen.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => {
                self.refuse(
                    "adapters.desk.listen",
                    "expected a fixed port: runners dial it again after a restart",
                    None,
                );
            }
            Ok(address) if !address.ip().is_loopback() && !tls && !desk.insecure => {
                let hint = "set `tls_cert`, `tls_key` and `tls_ca`, or `insecure = true`";
                let message = format!("{address} is reachable from other machines, and no TLS is configured");
                self.refuse("adapters.desk.listen", message, Some(hint));
            }
            Ok(_) => {}
            Err(_) => {
                let message = format!("{:?} is no address: expected IP:PORT, as in 10.0.0.1:7490", desk.listen);
                self.refuse("adapters.desk.listen", message, None);
            }
        }
    }

    fn pools(&mut self, config: &NodeConfig) {
        let mut names = BTreeSet::new();
        let plugins: BTreeSet<&str> = config.adapters.plugin.iter().map(|plugin| plugin.name.as_str()).collect();
        let mut found = None;
        for (at, pool) in config.pools.iter().enumerate() {
            let key = |field: &str| format!("pools.{at}.{field}");
            let name = &pool.name;
            let shape = (1..=64).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            if !shape {
                let expected = "1 to 64 lower-case letters, digits and hyphens";
                self.refuse(&key("name"), format!("{name:?} is no pool name: expected {expected}"), None);
            }
            if !names.insert(name) {
                self.refuse(&key("name"), format!("there are two pools {name:?}"), None);
            }
            let (enabled, plugin) = match pool.backend.as_str() {
                "local" => (config.adapters.local.enabled, false),
                "fake" => (config.adapters.fake.enabled, false),
                other => {
                    if !plugins.contains(other) && !found.get_or_insert_with(|| found_in(config)).contains(other) {
                        let known: Vec<&str> = ["local", "fake"].into_iter().chain(plugins.iter().copied()).collect();
                        let message =
                            format!("{other:?} is no backend of this node: expected one of {}", known.join(", "));
                        let hint = "a plugin has an [[adapters.plugin]] of this name";
                        self.refuse(&key("backend"), message, Some(hint));
                        continue;
                    }
                    (true, true)
                }
            };
            if !enabled {
                let hint = format!("set `adapters.{}.enabled = true`", pool.backend);
                self.refuse(&key("backend"), format!("the `{}` backend is not enabled", pool.backend), Some(&hint));
            }
            if pool.classes.is_empty() && !plugin {
                self.refuse(&key("classes"), "is empty: expected at least one server class", None);
            }
            let mut classes = BTreeSet::new();
            for (index, class) in pool.classes.iter().enumerate() {
                let key = |field: &str| format!("pools.{at}.classes.{index}.{field}");
                if !classes.insert(&class.name) {
                    self.refuse(&key("name"), format!("there are two classes {:?}", class.name), None);
                }
                self.range(&key("servers"), class.servers, 1..=1_000_000);
                if class.per_server.cpu_milli == 0 || class.per_server.memory_bytes == 0 {
                    self.refuse(&key("per_server"), "expected a processor and memory above 0", None);
                }
                if (class.per_server.chip_milli > 0) != class.chip.is_some() {
                    self.refuse(&key("chip"), "`chip` and `per_server.chip_milli` belong together", None);
                }
            }
        }
    }
}

/// The plugins that lie in the folder, whatever they hash to.
fn found_in(config: &NodeConfig) -> BTreeSet<String> {
    let folder = &config.adapters.host.plugins_dir;
    if folder.as_os_str().is_empty() {
        return BTreeSet::new();
    }
    adapters::host::discover(folder).0.into_iter().map(|plugin| plugin.name).collect()
}

fn transport(rest: &[&str]) -> bool {
    match rest {
        ["udp", port, "quic-v1"] | ["tcp", port] => port.parse::<u16>().is_ok(),
        ["udp", port, "quic-v1", "p2p", peer] | ["tcp", port, "p2p", peer] => {
            port.parse::<u16>().is_ok() && !peer.is_empty()
        }
        _ => false,
    }
}
