//! The soak: one bridge for as long as is wanted, mixed traffic, a fault every 30 s, every stream accounted for.
//!
//! What must hold at the end: the same process; every stream whole, or cut by a fault that may cut, visibly; at every rest
//! between faults as many descriptors and tasks as before the first; memory flat; every line of the log printed or counted.
//! What lives here: the order of things and the verdict. Traffic, faults, logs and rests are below.

mod delays;
mod logs;
mod rest;
mod stage;
mod strikes;
mod traffic;

use crate::dice::Dice;
use rest::Rest;
use stage::Stage;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use strikes::STRIKES;

/// From one fault to the next.
const EVERY: Duration = Duration::from_secs(30);

/// What resident memory may grow by over the judged part of the soak, in KiB, by the line of least squares through its
/// samples: two mebibytes, as over a million connections in sequence.
const GROWTH_KIB_MOST: f64 = 2048.0;

/// Samples that are enough for a line through them. Judged is the second half, and nothing of the first round of all faults:
/// what a fault makes the allocator keep for the next time (a full queue of log lines in each of its arenas) is made by then.
const JUDGED_LEAST: usize = 8;

/// How long, and which chance.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How long.
    pub length: Duration,
    /// The order of the faults and everything else that chance decides.
    pub seed: u64,
}

/// Runs it, saying on the way what happens, until it is over or `stop` is set; the table, and whether all of it held.
///
/// # Panics
/// Where not even the first enclave gets a session.
#[must_use]
pub fn run(plan: Plan, stop: &Arc<AtomicBool>, say: &mut dyn FnMut(&str)) -> (String, bool) {
    let start = Instant::now();
    let mut dice = Dice::new(plan.seed);
    let mut stage = Stage::set(plan.seed);
    let traffic = traffic::start(&stage.ground, plan.seed);
    let stdout = stage.take_stdout();
    let logs = logs::start(&stage.ground, stdout);
    let mut rests = Vec::new();
    let mut counts = [0_u32; STRIKES.len()];
    let mut bag: Vec<usize> = Vec::new();
    wait_for(Duration::from_secs(3), stop);
    let pid = stage.bridge.pid();
    say(&format!("seed {}, bridge {pid}, {} kinds of fault", plan.seed, STRIKES.len()));
    let mut next = start;
    loop {
        let rest = rest::take(&mut stage, &traffic, start.elapsed());
        say(&rest.line());
        rests.push(rest);
        if start.elapsed() + EVERY > plan.length || stop.load(Ordering::SeqCst) {
            break;
        }
        next += EVERY;
        // With the traffic running again before the fault comes.
        wait_for(Duration::from_secs(2), stop);
        if bag.is_empty() {
            bag = (0..STRIKES.len()).collect();
        }
        let chosen = bag.swap_remove(usize::try_from(dice.below(bag.len() as u64)).expect("below a length"));
        let strike = &STRIKES[chosen];
        counts[chosen] += 1;
        let began = Instant::now();
        let struck = stage.strike(strike, &mut dice, &logs);
        match &struck {
            Ok(()) => say(&format!("{:>6} s  {} for {:.1?}", start.elapsed().as_secs(), strike.name, began.elapsed())),
            Err(wrong) => {
                say(&format!("{:>6} s  {}: WRONG: {wrong}", start.elapsed().as_secs(), strike.name));
                stage.ground.account.wrong(format!("{}: {wrong}", strike.name));
            }
        }
        if stage.bridge.ended().is_some() {
            stage.ground.account.wrong(format!("the bridge ended after {}", strike.name));
            break;
        }
        wait_for(next.saturating_duration_since(Instant::now()), stop);
    }
    let interrupted = stop.load(Ordering::SeqCst);
    logs.finish(&stage);
    traffic.finish();
    let ended = stage.finish(pid);
    let mut table = String::new();
    let held = sum_up(&mut table, &stage, &rests, &counts, &logs, &ended, start.elapsed(), interrupted);
    (table, held)
}

/// A pause that Ctrl-C ends.
fn wait_for(length: Duration, stop: &AtomicBool) {
    let until = Instant::now() + length;
    while Instant::now() < until && !stop.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(50).min(until.saturating_duration_since(Instant::now())));
    }
}

#[expect(clippy::too_many_arguments, reason = "everything that was found, once, in one table")]
fn sum_up(
    table: &mut String,
    stage: &Stage,
    rests: &[Rest],
    counts: &[u32; STRIKES.len()],
    logs: &logs::Logs,
    ended: &str,
    took: Duration,
    interrupted: bool,
) -> bool {
    let mut out = |line: String| writeln!(table, "{line}").expect("a string");
    let account = &stage.ground.account;
    let how = if interrupted { ", interrupted" } else { "" };
    out(format!("soak of {} s{how}", took.as_secs()));
    for (strike, count) in STRIKES.iter().zip(counts) {
        out(format!("  {count:>4} x {:<22} {}", strike.name, strike.about));
    }
    let [whole, cut, refused, bytes] = account.totals();
    out(format!("streams: {whole} whole, {cut} cut by a fault that may cut, {refused} refused during one that may"));
    #[expect(clippy::cast_precision_loss, reason = "shown to a tenth of a gibibyte")]
    let gib = bytes as f64 / f64::from(1 << 30);
    out(format!("bytes compared with what was said: {gib:.1} GiB"));
    out(logs.line());
    let judged = rests.get((rests.len() / 2).max(STRIKES.len() + 1)..).filter(|rests| rests.len() >= JUDGED_LEAST);
    let flat = judged.map(rest::memory).is_none_or(|memory| memory.growth_kib <= GROWTH_KIB_MOST);
    let kib = |rest: Option<&Rest>| rest.map_or(0, |rest| rest.resident_kib);
    let most = rests.iter().map(|rest| rest.resident_kib).max().unwrap_or(0);
    out(format!(
        "resident memory at rest: {} KiB first, {} KiB last, {most} KiB most",
        kib(rests.first()),
        kib(rests.last())
    ));
    out(match judged.map(rest::memory) {
        None => format!(
            "  not judged: less than {JUDGED_LEAST} rests of the second half are behind the first round of all faults"
        ),
        Some(memory) => format!(
            "  by least squares over the last {} s: {:+.0} KiB ({:+.2} MiB an hour), \
             at most {GROWTH_KIB_MOST:.0} KiB allowed: {}",
            memory.span.as_secs(),
            memory.growth_kib,
            memory.mib_per_hour,
            if flat { "flat" } else { "NOT FLAT" }
        ),
    });
    let uneven = rests.iter().filter(|rest| !rest.is_level).count();
    if let Some(first) = rests.first() {
        out(format!(
            "descriptors and tasks at rest, without those of open streams: {} and {} at the first of {} rests, other at {uneven}",
            first.descriptors,
            first.tasks,
            rests.len()
        ));
    }
    out(ended.to_owned());
    let wrong = account.violations();
    out(format!("wrong: {}", wrong.len()));
    for line in &wrong {
        out(format!("  {line}"));
    }
    wrong.is_empty() && flat && uneven == 0
}
