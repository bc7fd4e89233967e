//! The configuration as commented TOML: the reference with every default, or the values in effect and their sources.

use super::NodeConfig;
use super::keys::SECTIONS;
use super::load::LoadedConfig;
use serde::Serialize;
use std::fmt::Write as _;
use toml::Value;

/// How much is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Every key with its documentation.
    Documented,
    /// Values only, each with where it came from.
    Sources,
    /// Values only.
    Plain,
}

const HEAD: &str = "\
# Configuration of a Causeway node. `causeway config print` writes this reference; the values shown are the defaults.
#
# Precedence: flags (`--set section.key=value`) > environment (CAUSEWAY_SECTION__KEY, for example CAUSEWAY_HTTP__LISTEN)
# > this file > defaults. A key that is not known is an error. Check a file with `causeway config check FILE`.
# All keys are read at start; a change needs a restart, which runs survive.
";

const PLUGIN_HEAD: &str = "\
# Plugins: one [[adapters.plugin]] for each backend in a process of its own. A pool names it in `backend`. A plugin that is
# down does not stop the node: its pools answer `adapter_down` until it comes.
";

const PLUGIN_EXAMPLE: &str = r#"
[[adapters.plugin]]
name = "slurm-east"                    # what pools call it: 1 to 32 of a-z, 0-9 and hyphens, not `local` or `fake`
path = "/usr/lib/causeway/causeway-adapter-slurm"  # its program; absent: the one of this name in adapters.host.plugins_dir
args = []                              # its arguments; no secrets, every process of the machine can read them
sha256 = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # `sha256sum FILE`; others are not run
credentials = ["slurm-east/token"]     # names of the vault's secrets that its calls carry; in all at most 8 KiB
replicas = 1                           # processes that share the calls, 1 to 8
limits = { memory_bytes = 268435456, cpu_milli = 2000, files = 1024 }  # of each process; 0 for no limit
config = { }                           # its own configuration; `causeway adapter show` prints its schema
"#;

const POOL_HEAD: &str = "\
# What this region shares: one [[pools]] for each pool, with the classes of equal servers in it. A pool without a
# scheduler of its own is filled by the node. The chips of a `local` pool are declared here and shown as declared. A pool
# of a plugin may have `classes = []`: the plugin tells them.
# Amounts: thousandths of a core and of a chip, bytes, millionths of the currency's main unit per hour.
";

const POOL_EXAMPLE: &str = r#"
[[pools]]
name = "general"                       # unique in the region
backend = "local"                      # the adapter that drives it: `local`, `fake`, or the name of a plugin
class = "GC"                           # GC general, IC intelligent, SC supercomputing, EC edge, HC hybrid
identifiers = []                       # identifiers that describe it; filters and prefixes match them
firmness = "held"                      # held | reserved | estimate
cordoned = false                       # true: takes no new work
carbon_g_per_kwh = 550                 # grams of CO2 per kWh, where known
price = { currency = "CNY", cpu_core_hour_micro = 120000, memory_gib_hour_micro = 20000, chip_hour_micro = 0 }

[[pools.classes]]
name = "std-8"                         # unique in the pool
cpu_model = "XG6430"                   # dictionary code of the processor
servers = 4                            # how many equal servers
per_server = { cpu_milli = 8000, memory_bytes = 34359738368, storage_bytes = 214748364800, chip_milli = 0 }
# chip = { model = "NVH800S80", kind = "GPU" }   # with per_server.chip_milli, where the servers have accelerators
"#;

/// Prints the values of `loaded`.
pub fn print(loaded: &LoadedConfig, detail: Detail) -> String {
    let mut out = String::new();
    if detail == Detail::Documented {
        out.push_str(HEAD);
    }
    let values = Value::try_from(&loaded.config).expect("a configuration has only plain fields");
    for section in SECTIONS {
        let table = section.name.split('.').fold(&values, |at, part| &at[part]);
        if !out.is_empty() {
            out.push('\n');
        }
        if detail == Detail::Documented {
            comment(&mut out, section.doc);
        }
        let _ = writeln!(out, "[{}]", section.name);
        for key in section.keys {
            let line = format!("{} = {}", key.name, table[key.name]);
            match detail {
                Detail::Documented => {
                    comment(&mut out, key.doc);
                    let _ = writeln!(out, "{line}");
                }
                Detail::Plain => {
                    let _ = writeln!(out, "{line}");
                }
                Detail::Sources => {
                    let source = loaded.source_of(&format!("{}.{}", section.name, key.name));
                    let _ = writeln!(out, "{line:<60} # {source}");
                }
            }
        }
    }
    plugins(&mut out, loaded, detail);
    pools(&mut out, loaded, detail);
    out
}

/// An example, as comments.
fn example(out: &mut String, text: &str) {
    for line in text.lines() {
        let _ = writeln!(out, "{}", if line.is_empty() { "#".to_owned() } else { format!("# {line}") });
    }
}

fn plugins(out: &mut String, loaded: &LoadedConfig, detail: Detail) {
    #[derive(Serialize)]
    struct Adapters<'a> {
        plugin: &'a [super::PluginSection],
    }
    #[derive(Serialize)]
    struct Plugins<'a> {
        adapters: Adapters<'a>,
    }
    let plugin = &loaded.config.adapters.plugin;
    if plugin.is_empty() && detail != Detail::Documented {
        return;
    }
    out.push('\n');
    if detail == Detail::Documented {
        out.push_str(PLUGIN_HEAD);
    }
    if plugin.is_empty() {
        return example(out, PLUGIN_EXAMPLE);
    }
    if detail == Detail::Sources {
        let _ = writeln!(out, "# adapters.plugin: {}", loaded.source_of("adapters.plugin"));
    }
    let text = toml::to_string(&Plugins { adapters: Adapters { plugin } });
    out.push_str(&text.expect("a plugin's entry came from TOML"));
}

fn pools(out: &mut String, loaded: &LoadedConfig, detail: Detail) {
    #[derive(Serialize)]
    struct Pools<'a> {
        pools: &'a [cpi::resource::PoolSpec],
    }
    let NodeConfig { pools, .. } = &loaded.config;
    out.push('\n');
    if detail == Detail::Documented {
        out.push_str(POOL_HEAD);
    }
    if pools.is_empty() {
        if detail == Detail::Documented {
            example(out, POOL_EXAMPLE);
        }
        return;
    }
    if detail == Detail::Sources {
        let _ = writeln!(out, "# pools: {}", loaded.source_of("pools"));
    }
    out.push_str(&toml::to_string(&Pools { pools }).expect("a pool has only plain fields"));
}

fn comment(out: &mut String, lines: &[&str]) {
    for line in lines {
        let _ = writeln!(out, "#{line}");
    }
}
