//! A bounded number of chaos points, one of each stage and a few more; `make chaos` hits hundreds.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_at_seeded_points_loses_nothing_acknowledged() {
    let tally = e2e::chaos::run(1, 12, |line| println!("{line}")).await.expect("every promise holds");
    assert_eq!(tally.by_stage.len(), 10, "every stage was hit: {:?}", tally.by_stage);
}
