//! Many sidecars that start together, as after a deployment.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::sleep;

use super::{Outcome, Time, World, config, seconds, world::simulate};

const REPLICAS: u64 = 500;
/// Of Flinks' tokens.
const LIFE: u64 = 299;

/// The starts of all exchanges of each replica, after `span`.
fn starts(span: Duration) -> Vec<Vec<Duration>> {
    simulate(async {
        let (config, time) = (config(|_| {}), Time::new());
        let worlds: Vec<_> = (0..REPLICAS)
            .map(|seed| {
                let mut dice = StdRng::seed_from_u64(REPLICAS + seed);
                World::start(&config, seed, time.clone(), move |_| {
                    let latency = Duration::from_millis(dice.random_range(20..400));
                    Outcome::token(&LIFE.to_string()).after(latency, latency)
                })
            })
            .collect();
        sleep(span).await;
        worlds.iter().map(|world| world.provider.calls().iter().map(|call| call.started).collect()).collect()
    })
}

#[test]
fn the_second_refreshes_of_500_replicas_spread_over_8_percent_of_the_life() {
    let starts = starts(seconds(LIFE));
    let mut second: Vec<_> = starts.iter().map(|starts| starts[1]).collect();
    second.sort();
    // Without the first and the last 5 %: stragglers are no spread.
    let spread = second[second.len() * 95 / 100] - second[second.len() * 5 / 100];
    assert!(spread >= seconds(LIFE).mul_f64(0.08), "{spread:?}");
}

#[test]
fn a_replica_makes_at_most_1_05_exchanges_per_life() {
    // Three quarters of what is usable of it are lived before the next takes over, on average.
    let lived = seconds(LIFE).mul_f64(0.98 * 0.75);
    let exchanges: usize = starts(20 * lived).iter().map(Vec::len).sum();
    // Each replica's first exchange stands at the beginning of its first life.
    let per_life = (exchanges as f64 / REPLICAS as f64 - 1.0) / 20.0;
    assert!((0.95..=1.05).contains(&per_life), "{per_life}");
}
