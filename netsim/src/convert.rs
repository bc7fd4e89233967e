//! Small converters from public traces and matrices into the simulator's input files. The data stay where the user has them.

use crate::input::{InputError, Table};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What can be converted, each into a folder.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Convert {
    /// Alibaba's cluster-trace-gpu-v2023 (openb): servers.csv and tasks.csv.
    Openb {
        /// openb_node_list_all_node.csv.
        #[arg(long)]
        nodes: PathBuf,
        /// openb_pod_list_default.csv.
        #[arg(long)]
        pods: PathBuf,
        /// The folder to write into.
        #[arg(long)]
        out: PathBuf,
    },
    /// A table of sites and one of round trips: sites.csv and rtt.csv.
    Sites {
        /// site_id, name, country, lat, lon, grid_gco2_per_kwh, price_per_kwh.
        #[arg(long)]
        sites: PathBuf,
        /// from, to, rtt_ms_1.5x.
        #[arg(long)]
        rtt: PathBuf,
        /// Only sites in this country.
        #[arg(long)]
        country: Option<String>,
        /// Round trips times this.
        #[arg(long, default_value_t = 1.0)]
        factor: f64,
        /// The folder to write into.
        #[arg(long)]
        out: PathBuf,
    },
    /// Skyplane's measured matrix of cloud regions: sites.csv, rtt.csv, throughput.csv, egress.csv.
    Skyplane {
        /// latency.csv.
        #[arg(long)]
        latency: PathBuf,
        /// throughput.csv.
        #[arg(long)]
        throughput: Option<PathBuf>,
        /// aws_transfer_costs.csv.
        #[arg(long)]
        costs: Option<PathBuf>,
        /// gcp_region_carbon_2024.csv, for the carbon of sites that it names.
        #[arg(long)]
        carbon: Option<PathBuf>,
        /// The folder to write into.
        #[arg(long)]
        out: PathBuf,
    },
}

/// Why a conversion failed.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The source is not as expected.
    #[error(transparent)]
    Input(#[from] InputError),
    /// A file cannot be written.
    #[error("{file} cannot be written")]
    Write {
        /// Which.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

fn write(out: &Path, name: &str, text: &str) -> Result<(), ConvertError> {
    let file = out.join(name);
    let failed = |source| ConvertError::Write { file: file.display().to_string(), source };
    std::fs::create_dir_all(out).map_err(failed)?;
    std::fs::write(&file, text).map_err(failed)
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

impl Convert {
    /// Converts.
    ///
    /// # Errors
    /// [`ConvertError`].
    pub fn run(&self) -> Result<(), ConvertError> {
        match self {
            Self::Openb { nodes, pods, out } => openb(nodes, pods, out),
            Self::Sites { sites, rtt, country, factor, out } => {
                convert_sites(sites, rtt, country.as_deref(), *factor, out)
            }
            Self::Skyplane { latency, throughput, costs, carbon, out } => {
                skyplane(latency, throughput.as_deref(), costs.as_deref(), carbon.as_deref(), out)
            }
        }
    }
}

fn openb(nodes: &Path, pods: &Path, out: &Path) -> Result<(), ConvertError> {
    let table = Table::read(nodes, &["sn", "cpu_milli", "memory_mib", "gpu", "model"])?;
    let mut servers = String::from("site,cpu_milli,memory_mib,chip_model,chips\n");
    for row in table.rows() {
        let [cpu, memory] = ["cpu_milli", "memory_mib"].map(|column| row.text(column));
        servers.push_str(&format!(",{cpu},{memory},{},{}\n", row.text("model"), row.text("gpu")));
    }
    write(out, "servers.csv", &servers)?;
    let table = Table::read(
        pods,
        &["cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec", "creation_time", "deletion_time"],
    )?;
    let mut tasks = TASK_HEADER.to_owned();
    for row in table.rows() {
        let created: f64 = row.number("creation_time", "seconds")?;
        let deleted: f64 = row.optional("deletion_time", "seconds or nothing")?.unwrap_or(created);
        // A list of acceptable models becomes variants after the first.
        let chips: u64 = row.number("num_gpu", "a number of GPUs")?;
        let milli: u64 = row.number("gpu_milli", "thousandths of a GPU")?;
        let mut models = row.text("gpu_spec").split('|');
        let first = models.next().unwrap_or("");
        let whole = if chips <= 1 { milli } else { chips * 1000 };
        let variants: Vec<String> = models.map(|model| format!("{model}:{whole}")).collect();
        tasks.push_str(&format!(
            "{created},{},{},{},{chips},{milli},{first},{},,,,,,\n",
            (deleted - created).max(0.0),
            row.text("cpu_milli"),
            row.text("memory_mib"),
            variants.join("|"),
        ));
    }
    write(out, "tasks.csv", &tasks)
}

/// The header of a task file.
pub const TASK_HEADER: &str = "submit_s,duration_s,cpu_milli,memory_mib,chips,chip_milli,chip_model,variants,origin,\
input_bytes,input_site,residency,max_price,deadline_s\n";
const SITE_HEADER: &str = "id,name,lat,lon,country,carbon,price\n";

fn convert_sites(sites: &Path, rtt: &Path, country: Option<&str>, factor: f64, out: &Path) -> Result<(), ConvertError> {
    let columns = ["site_id", "name", "country", "lat", "lon", "grid_gco2_per_kwh", "price_per_kwh"];
    let table = Table::read(sites, &columns)?;
    let mut kept = BTreeSet::new();
    let mut text = SITE_HEADER.to_owned();
    for row in table.rows().filter(|row| country.is_none_or(|country| row.text("country") == country)) {
        kept.insert(row.text("site_id").to_owned());
        let [lat, lon, country, carbon, price] =
            ["lat", "lon", "country", "grid_gco2_per_kwh", "price_per_kwh"].map(|column| row.text(column));
        let name = quoted(row.text("name"));
        text.push_str(&format!("{},{name},{lat},{lon},{country},{carbon},{price}\n", row.text("site_id")));
    }
    write(out, "sites.csv", &text)?;
    let table = Table::read(rtt, &["from", "to", "rtt_ms_1.5x"])?;
    let mut text = String::from("from,to,rtt_ms\n");
    for row in table.rows().filter(|row| kept.contains(row.text("from")) && kept.contains(row.text("to"))) {
        let ms = row.within("rtt_ms_1.5x", 0.0, 10_000.0)? * factor;
        text.push_str(&format!("{},{},{ms:.3}\n", row.text("from"), row.text("to")));
    }
    write(out, "rtt.csv", &text)
}

/// Every region that was measured to and from every other kept one; the minimum of the averages of all runs of a pair.
fn skyplane(
    latency: &Path,
    throughput: Option<&Path>,
    costs: Option<&Path>,
    carbon: Option<&Path>,
    out: &Path,
) -> Result<(), ConvertError> {
    let table = Table::read(latency, &["src_region", "dst_region", "avg_rtt"])?;
    let mut rtt: BTreeMap<(String, String), f64> = BTreeMap::new();
    for row in table.rows() {
        let ms = row.within("avg_rtt", 0.0, 60_000.0)?;
        let pair = (row.text("src_region").to_owned(), row.text("dst_region").to_owned());
        let held = rtt.entry(pair).or_insert(ms);
        *held = held.min(ms);
    }
    let known = |rtt: &BTreeMap<(String, String), f64>, a: &str, b: &str| {
        let pair = |a: &str, b: &str| rtt.get(&(a.to_owned(), b.to_owned())).copied();
        pair(a, b).or_else(|| pair(b, a))
    };
    let mut regions: BTreeSet<String> = rtt.keys().flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    // Leave out the region with the most gaps until there are none.
    loop {
        let gaps = |a: &String| regions.iter().filter(|b| *b != a && known(&rtt, a, b).is_none()).count();
        match regions.iter().map(|region| (gaps(region), region.clone())).max() {
            Some((worst, region)) if worst > 0 => regions.remove(&region),
            _ => break,
        };
    }
    let mut grams = BTreeMap::new();
    if let Some(path) = carbon {
        let table = Table::read(path, &["Google Cloud Region"])?;
        let column = ["Grid carbon intensity (gCO2eq / kWh)", "Lifecycle grid carbon intensity (gCO2eq / kWh)"];
        let column = column.into_iter().find(|column| table.has(column)).unwrap_or("");
        for row in table.rows() {
            grams.insert(format!("gcp:{}", row.text("Google Cloud Region")), row.text(column).to_owned());
        }
    }
    let mut text = SITE_HEADER.to_owned();
    for region in &regions {
        let carbon = grams.iter().find(|(name, _)| region.starts_with(name.as_str())).map_or("", |(_, g)| g.as_str());
        // The matrix has no coordinates and no countries: round trips come from rtt.csv, the country is unknown (ZZ).
        text.push_str(&format!("{region},{region},0,0,ZZ,{carbon},\n"));
    }
    write(out, "sites.csv", &text)?;
    let mut text = String::from("from,to,rtt_ms\n");
    for a in &regions {
        for b in regions.iter().filter(|b| *b != a) {
            if let Some(ms) = known(&rtt, a, b) {
                text.push_str(&format!("{a},{b},{ms}\n"));
            }
        }
    }
    write(out, "rtt.csv", &text)?;
    if let Some(path) = throughput {
        let table = Table::read(path, &["src_region", "dst_region", "throughput_sent"])?;
        let mut best: BTreeMap<(String, String), f64> = BTreeMap::new();
        for row in table.rows().filter(|row| !row.text("throughput_sent").is_empty()) {
            let bits = row.within("throughput_sent", 0.0, 1e13)?;
            let pair = (row.text("src_region").to_owned(), row.text("dst_region").to_owned());
            let held = best.entry(pair).or_insert(bits);
            *held = held.max(bits);
        }
        let mut text = String::from("from,to,bytes_per_s\n");
        for ((a, b), bits) in best.iter().filter(|((a, b), _)| a != b && regions.contains(a) && regions.contains(b)) {
            text.push_str(&format!("{a},{b},{:.0}\n", bits / 8.0));
        }
        write(out, "throughput.csv", &text)?;
    }
    if let Some(path) = costs {
        let table = Table::read(path, &["src", "dst", "cost"])?;
        let mut text = String::from("from,to,price_per_gb\n");
        for row in table.rows() {
            let (a, b) = (format!("aws:{}", row.text("src")), format!("aws:{}", row.text("dst")));
            if a != b && regions.contains(&a) && regions.contains(&b) {
                text.push_str(&format!("{a},{b},{}\n", row.within("cost", 0.0, 1_000.0)?));
            }
        }
        write(out, "egress.csv", &text)?;
    }
    Ok(())
}
