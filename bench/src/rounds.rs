//! The order of a run: every round visits every target in turn, the first one rotating; memory tests start relays afresh.

use crate::error::BenchError;
use crate::load::{Subject, Values};
use crate::plan::{Extent, Test, Way};
use crate::procfs::{self, Machine};
use crate::rows::Row;
use crate::targets::{Ground, Target};
use std::time::Duration;

/// Rounds after which the relays are started afresh. Where the memory of a process happens to lie makes bulk of the same program
/// differ by a fifth from one start to the next, for as long as it runs: one start alone would compare luck.
const ROUNDS_OF_A_START: u32 = 4;

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Rounds of the timed tests.
    pub(crate) rounds: u32,
    /// Of one timed measurement.
    pub(crate) lasting: Duration,
    /// Rounds of the others, which vary little and last long.
    pub(crate) memory_rounds: u32,
    /// How much of everything.
    pub(crate) extent: Extent,
}

/// Runs everything and says on the way how far it is. What was measured before an interruption is kept.
pub(crate) fn run(tests: &[&'static Test], targets: &mut [Target], ground: &Ground, pace: &Pace) -> Vec<Row> {
    let mut rows = Vec::new();
    for round in 0..pace.rounds {
        if round > 0 && round % ROUNDS_OF_A_START == 0 {
            start_afresh(targets, ground);
        }
        for test in tests.iter().filter(|test| test.is_timed()) {
            for place in rotation(targets.len(), round) {
                let wanted = |target: &&Target| !ground.stop.is_set() && target.takes_part(test);
                let Some(target) = targets.get(place).filter(wanted) else { continue };
                rows.extend(measure(test, target, ground, pace, round));
            }
        }
        if tests.iter().any(|test| test.is_timed()) {
            eprintln!("round {} of {}", round + 1, pace.rounds);
        }
    }
    for test in tests.iter().filter(|test| !test.is_timed()) {
        for round in 0..pace.memory_rounds {
            for place in rotation(targets.len(), round) {
                let Some(target) = targets.get_mut(place).filter(|_| !ground.stop.is_set()) else { continue };
                if (test.needs_a_relay() && target.roots().is_empty()) || !target.takes_part(test) {
                    continue;
                }
                match target.start_afresh(ground) {
                    Ok(()) => rows.extend(measure(test, target, ground, pace, round)),
                    Err(BenchError::Interrupted) => {}
                    Err(error) => rows.push(row(test, target, round, Err(error), 0.0)),
                }
            }
            eprintln!("{}: round {} of {}", test.name, round + 1, pace.memory_rounds);
        }
    }
    rows
}

/// All relays once more. One that does not start voids what is measured of it then.
fn start_afresh(targets: &mut [Target], ground: &Ground) {
    for target in targets.iter_mut().filter(|target| !target.roots().is_empty()) {
        if ground.stop.is_set() {
            return;
        }
        if let Err(error) = target.start_afresh(ground) {
            eprintln!("{}: {error}", target.name);
        }
    }
}

/// The targets' places, beginning with another one in every round.
fn rotation(count: usize, round: u32) -> impl Iterator<Item = usize> {
    let first = usize::try_from(round).unwrap_or(0);
    (0..count).map(move |place| (place + first) % count)
}

fn measure(test: &'static Test, target: &Target, ground: &Ground, pace: &Pace, round: u32) -> Option<Row> {
    let roots = target.roots();
    let front = match test.way {
        Way::Ingress => &target.ingress,
        Way::Egress => &target.egress,
    };
    let subject = Subject { front, roots: &roots, held: &ground.held, lasting: pace.lasting, stop: &ground.stop };
    let before = Machine::now();
    let values = test.run(&subject, target.connections_max, &pace.extent);
    // Whatever a fault left is not the next test's.
    ground.held.let_go();
    let busy = before.zip(Machine::now()).map_or(0.0, |(before, now)| now.busy_since(before));
    match values {
        Err(BenchError::Interrupted) => None,
        values => Some(row(test, target, round, values, busy)),
    }
}

fn row(test: &Test, target: &Target, round: u32, values: Result<Values, BenchError>, busy: f64) -> Row {
    let void = values.as_ref().err().map(ToString::to_string);
    if let Some(void) = &void {
        eprintln!("void: {} of {} in round {}: {void}", test.name, target.name, round + 1);
    }
    Row {
        round,
        test: test.name.to_owned(),
        target: target.name.to_owned(),
        values: values.unwrap_or_default().into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        void,
        busy,
        load: procfs::load().unwrap_or(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_visits_every_target_once_and_begins_with_another() {
        let rounds: Vec<Vec<usize>> = (0..4).map(|round| rotation(3, round).collect()).collect();
        assert_eq!(rounds, [vec![0, 1, 2], vec![1, 2, 0], vec![2, 0, 1], vec![0, 1, 2]]);
    }
}
