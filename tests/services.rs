//! What people ask of one node, with the real programs: repeats, lists, maintenance, and metrics that are what their page says.

use e2e::ring::{PATIENCE, Ring, RingOptions, causeway, ended, items, shell_task, submit};
use node::cli::{CliError, Client};
use node::http::NodeFile;
use node::http::auth::read_key;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

async fn one_node() -> Ring {
    Ring::start(RingOptions { nodes: 1, backend: "fake", ..RingOptions::default() }).await.expect("starts")
}

fn id_of(task: &Value) -> String {
    task["id"].as_str().expect("a task has an id").to_owned()
}

fn task(name: &str) -> Value {
    let mut document = shell_task(name, "exit 0", &[]);
    document["outputs"] = serde_json::json!([]);
    document
}

fn code_of(answer: Result<Value, CliError>) -> (u16, String) {
    match answer.expect_err("refused") {
        CliError::Problem(problem) => (problem.status, problem.code.to_string()),
        other => panic!("no problem: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_one_task_also_after_a_restart_and_never_two_documents() {
    let mut ring = one_node().await;
    let client = ring.client(0).expect("runs");
    let first = id_of(&submit(&client, &task("one"), "key").await.expect("accepted"));
    assert_eq!(id_of(&submit(&client, &task("one"), "key").await.expect("repeated")), first);
    let conflict = (409, "idempotency_mismatch".to_owned());
    assert_eq!(code_of(submit(&client, &task("two"), "key").await), conflict);
    ring.kill_and_restart(0).await.expect("comes back");
    let client = ring.client(0).expect("runs");
    assert_eq!(id_of(&submit(&client, &task("one"), "key").await.expect("repeated")), first);
    assert_eq!(code_of(submit(&client, &task("two"), "key").await), conflict);
    let page = client.get("/v1/tasks", vec![]).await.expect("a page");
    assert_eq!((items(&page).len(), &page["total"]), (1, &serde_json::json!(1)));
}

async fn list(client: &Client, query: &[(&str, &str)]) -> Result<Value, CliError> {
    client.get("/v1/tasks", query.iter().map(|(name, value)| (*name, Some((*value).to_owned()))).collect()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_show_every_task_once_newest_first_and_survive_a_restart() {
    let mut ring = one_node().await;
    let client = ring.client(0).expect("runs");
    let mut submitted = Vec::new();
    for number in 0..5 {
        let name = if number % 2 == 0 { "even" } else { "odd" };
        let id = id_of(&submit(&client, &task(name), &format!("k{number}")).await.expect("accepted"));
        ended(&client, &id, PATIENCE).await.expect("ends");
        submitted.insert(0, id);
    }
    for restarted in [false, true] {
        if restarted {
            ring.kill_and_restart(0).await.expect("comes back");
        }
        let client = ring.client(0).expect("runs");
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let page = list(
                &client,
                &[("limit", "2"), ("state", "succeeded"), ("page_token", &token)]
                    [..if token.is_empty() { 2 } else { 3 }],
            )
            .await;
            let page = page.expect("a page");
            assert_eq!(page["total"], 5);
            seen.extend(items(&page).iter().map(id_of));
            match page["next_page_token"].as_str() {
                Some(next) => token = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(seen, submitted, "restarted: {restarted}");
        let odd = list(&client, &[("name", "odd")]).await.expect("a page");
        assert_eq!(items(&odd).len(), 2);
        assert!(odd["total"].is_null(), "not counted: {odd}");
        assert_eq!(items(&list(&client, &[("state", "open")]).await.expect("a page")).len(), 0);
        assert_eq!(code_of(list(&client, &[("state", "sleeping")]).await).0, 400);
    }
}

/// Runs the command line against the node and expects success.
fn run(folder: &Path, arguments: &[&str]) -> String {
    let output = causeway(folder, arguments).expect("the program runs");
    let words = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {words}");
    words
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_region_takes_nothing_until_it_is_opened_again() {
    let mut ring = one_node().await;
    let folder = ring.nodes[0].data_dir.clone();
    assert!(run(&folder, &["region", "drain", "--timeout", "20s"]).contains("draining"));
    ring.kill_and_restart(0).await.expect("comes back");
    let client = ring.client(0).expect("runs");
    let plan = client.post("/v1/plans", task("refused")).await.expect("a plan");
    assert_eq!(
        (plan["feasible"].as_bool(), &plan["refusals"][0]["reason"]["code"]),
        (Some(false), &"region_draining".into())
    );
    assert!(run(&folder, &["region", "uncordon"]).contains("open"));
    let id = id_of(&submit(&client, &task("taken"), "taken").await.expect("accepted"));
    assert_eq!(ended(&client, &id, PATIENCE).await.expect("ends")["state"], "succeeded");

    run(&folder, &["pool", "drain", "main", "--timeout", "20s"]);
    let plan = client.post("/v1/plans", task("refused")).await.expect("a plan");
    assert_eq!(plan["refusals"][0]["reason"]["code"], "pool_cordoned", "{plan}");
    run(&folder, &["pool", "uncordon", "main"]);
}

/// The metrics of `docs/metrics.md` with their labels.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md")).expect("a page");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `causeway_")?.split('`').next());
    rows.map(|metric| {
        let (name, labels) = metric.trim_end_matches('}').split_once('{').unwrap_or((metric, ""));
        (name.to_owned(), labels.split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect())
    })
    .collect()
}

/// The metrics of a scrape with their labels; `le` belongs to histograms. Metrics without series yet have no labels.
fn scraped(text: &str) -> BTreeMap<String, Option<BTreeSet<String>>> {
    let mut found = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE causeway_")) {
        let (name, kind) = line.split_once(' ').expect("a name and a kind");
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let series = text.lines().find_map(|line| {
            let rest = line.strip_prefix("causeway_")?.strip_prefix(name)?;
            let labels = rest.split_once('{').map_or("", |(_, labels)| labels);
            let belongs =
                ["{", " ", "_total", "_info", "_bucket", "_sum", "_count"].iter().any(|end| rest.starts_with(end));
            let names =
                labels.split("\",").filter_map(|label| label.split_once("=\"")).map(|(name, _)| name.to_owned());
            belongs.then(|| names.filter(|name| name != "le").collect::<BTreeSet<String>>())
        });
        found.insert(format!("{name}{suffix}"), series);
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_page_names_what_a_node_shows() {
    let ring = one_node().await;
    let client = ring.client(0).expect("runs");
    let id = id_of(&submit(&client, &task("one"), "one").await.expect("accepted"));
    ended(&client, &id, PATIENCE).await.expect("ends");
    let file = NodeFile::read(&ring.nodes[0].data_dir.join("node.json")).expect("it runs");
    let key = read_key(&file.api_key_file).expect("a key");
    let request = reqwest::Client::new().get(format!("{}/metrics", file.url)).bearer_auth(&*key);
    let text = request.send().await.expect("answers").text().await.expect("a text");
    let (documented, scraped) = (documented(), scraped(&text));
    let names = |keys: &BTreeSet<String>| keys.iter().cloned().collect::<Vec<_>>().join(", ");
    let (on_page, on_node): (BTreeSet<_>, BTreeSet<_>) =
        (documented.keys().cloned().collect(), scraped.keys().cloned().collect());
    // series with labels appear with their first event, and these had none here
    let quiet = ["failovers_total", "offers_total", "registry_refused_total", "resolve_duration_seconds"];
    let expected = on_page.iter().filter(|name| !quiet.contains(&name.as_str())).cloned().collect();
    assert_eq!(names(&expected), names(&on_node));
    assert!(quiet.iter().all(|name| on_page.contains(*name)));
    for (metric, labels) in documented {
        if let Some(Some(shown)) = scraped.get(&metric) {
            assert_eq!(shown, &labels, "{metric}");
        }
    }
    assert!(
        text.contains("causeway_capacity{class=\"main/std-8\",kind=\"total\",resource=\"cpu_cores\"} 32.0"),
        "{text}"
    );
    assert!(text.contains("causeway_adapter_up{adapter=\"fake\",backend=\"fake\"} 1"), "{text}");
}
