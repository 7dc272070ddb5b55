//! The session beside its model: random histories of peers, good and bad, under a virtual clock. After every step the bridge
//! has to be what the specification in `spec.rs` says: who is live, which ports accept, what each peer has read, what is counted.
//!
//! A disagreement prints the seed and the shortest history that shows it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, its setup too"
)]

mod peers;
mod spec;
mod steps;
mod world;

use std::collections::HashMap;

use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

use self::spec::Model;
use self::steps::{Operation, QUANTUM, histories, resolve};
use self::world::World;

#[test]
fn sessions_are_what_their_model_says() {
    run(400);
}

#[test]
#[ignore = "minutes: cargo test -p enclave-bridge --test session_model -- --ignored"]
fn sessions_are_what_their_model_says_in_ten_thousand_histories() {
    run(10_000);
}

fn run(cases: u32) {
    let mut config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 2000,
        max_shrink_time: 40_000,
        ..Config::default()
    };
    if config.rng_seed == RngSeed::Random {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).unwrap();
        config.rng_seed = RngSeed::Fixed(u64::from_le_bytes(seed));
    }
    let seed = config.rng_seed;
    println!("PROPTEST_RNG_SEED={seed}");
    let result =
        TestRunner::new(config).run(&histories(), |(exit_on_loss, history)| live_through(exit_on_loss, &history));
    if let Err(error) = result {
        panic!("PROPTEST_RNG_SEED={seed} draws this again: {error}");
    }
}

fn live_through(exit_on_loss: bool, history: &[Operation]) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let lived = runtime.block_on(live(exit_on_loss, history));
    lived.map_err(|error| {
        println!("disagreement: {error}");
        TestCaseError::fail(error)
    })
}

async fn live(exit_on_loss: bool, history: &[Operation]) -> Result<(), String> {
    let (mut world, mut model) = (World::new(exit_on_loss), Model::new(exit_on_loss));
    let mut kept = HashMap::new();
    let end = [Operation::Drain, Operation::Pass { quanta: spec::DRAIN / QUANTUM + 1 }];
    for operation in history.iter().chain(&end) {
        if let Operation::Settings { settings, .. } = operation {
            model.means(&settings.line(&world.ports), settings);
        }
        for step in resolve(operation, &model, &world.ports, &mut kept) {
            let now = model.now;
            let named = |error| format!("{error}, after {step:?} at {now} ms");
            let (seen, expected) = (world.step(&step), model.step(&step));
            if seen != expected {
                return Err(named(format!("connected: {seen}, the model says {expected}")));
            }
            world.agrees_with(&model).await.map_err(named)?;
        }
        if let Operation::Pass { quanta } = operation {
            pass(&mut world, &mut model, quanta * QUANTUM).await?;
        }
    }
    world.accounts()
}

/// Time passes from deadline to deadline.
async fn pass(world: &mut World, model: &mut Model, millis: u64) -> Result<(), String> {
    let until = model.now + millis;
    while model.now < until {
        let next = model.next_deadline().map_or(until, |deadline| deadline.clamp(model.now, until));
        world.pass(next - model.now).await;
        model.pass(next);
        world.agrees_with(model).await.map_err(|error| format!("{error}, at {next} ms"))?;
    }
    Ok(())
}
