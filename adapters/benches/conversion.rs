//! How long one conversion takes, each way, by the rules that come with the product. Must stay below 100 us.

use adapters::rules::{Direction, Rules};
use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::json;
use std::hint::black_box;

fn conversion(criterion: &mut Criterion) {
    let read = |name: &str| {
        let path = format!("{}/../configs/rules/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        Rules::parse(&std::fs::read_to_string(path).expect("the rules are there")).expect("they hold")
    };
    let request = json!({
        "tag": "causeway-01ARZ3NDEKTSV4RRFFQ69G5FAV-1.m1.1", "pool": "debug", "class": "a100-8",
        "need": { "cpu_milli": 16000, "memory_bytes": 137_438_953_472_u64, "storage_bytes": 1, "chip_milli": 2000 },
        "chip": { "model": "NVA100S80", "kind": "GPU" }, "image": "registry.example/train:1",
        "command": ["sh", "-c", "python3 train.py --epochs 3 --out result"],
        "env": { "CAUSEWAY_TASK": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "CAUSEWAY_FENCE": "1.m1.1", "OMP_NUM_THREADS": "16" },
        "max_runtime_ms": 3_600_000
    });
    let mut slurm_request = request.clone();
    slurm_request.as_object_mut().expect("an object").remove("image");
    slurm_request["folder"] = json!("/tmp/run");
    let cases = [
        ("slurm", Direction::South, "submit", slurm_request),
        ("kubernetes", Direction::South, "submit", request),
        (
            "slurm",
            Direction::North,
            "state",
            json!({ "job_state": "FAILED", "state_reason": "NonZeroExitCode", "exit_code": 1792, "job_id": 8, "name": "c" }),
        ),
        (
            "kubernetes",
            Direction::North,
            "state",
            json!({ "terminated": { "exitCode": 1, "reason": "Error", "startedAt": "2026-01-01T00:00:00Z" } }),
        ),
    ];
    for (name, direction, section, source) in cases {
        let rules = read(name);
        rules.convert(direction, section, &source).expect("it converts");
        criterion.bench_function(&format!("{name} {direction} {section}"), |bencher| {
            bencher.iter(|| rules.convert(direction, section, black_box(&source)));
        });
    }
}

criterion_group!(benches, conversion);
criterion_main!(benches);
