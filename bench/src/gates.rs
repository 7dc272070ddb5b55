//! The promises with their numbers: what is measured against what, the gate that must hold and the aim beyond it.

use crate::rows::Run;
use crate::stats::{Estimate, estimate, ratios};
use std::collections::BTreeMap;

/// What a value is held against, within each round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Against {
    /// Nothing: the value itself.
    Itself,
    /// The value of this target.
    Target(&'static str),
    /// The smaller value of the two.
    Smaller(&'static str, &'static str),
}

/// Which side of a number is the good one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    /// Not above.
    AtMost(f64),
    /// Not below.
    AtLeast(f64),
}

/// A promise.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gate {
    /// The target that promises.
    pub(crate) of: &'static str,
    /// The test that measures it.
    pub(crate) test: &'static str,
    /// The metric of it.
    pub(crate) metric: &'static str,
    /// What it is held against.
    pub(crate) against: Against,
    /// What must hold.
    pub(crate) gate: Bound,
    /// What is hoped for.
    pub(crate) aim: Option<Bound>,
    /// In words.
    pub(crate) what: &'static str,
}

/// How a promise stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The worse end of the interval is on the good side too.
    Met,
    /// The median is, the worse end is not.
    ByMedian,
    /// The median is not.
    Missed,
    /// The result is void.
    Void,
    /// There is no result.
    NotMeasured,
}

/// A promise with what was measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judged {
    /// The promise.
    pub(crate) gate: &'static Gate,
    /// Ratio or value.
    pub(crate) measured: Option<Estimate>,
    /// The gate.
    pub(crate) verdict: Verdict,
    /// The aim, where there is one.
    pub(crate) aim: Option<Verdict>,
}

use Against::{Itself, Smaller, Target};
use Bound::{AtLeast, AtMost};

const BRIDGE: &str = "bridge";

const HAPROXY: Against = Target("haproxy");

/// Over the hybrid transport.
pub(crate) const GATES: &[Gate] = &[
    gate("bulk-up", "cpu_s_gib", HAPROXY, AtMost(0.75), Some(AtMost(0.30)), "bulk up, one stream: CPU per GiB"),
    gate("bulk-up", "cpu_s_gib", Target("socat"), AtMost(0.42), None, "bulk up, one stream: CPU per GiB"),
    gate("bulk-up", "cpu_s_gib", Target("haproxy-64k"), AtMost(0.9), None, "bulk up, one stream: CPU per GiB"),
    gate("bulk-down", "cpu_s_gib", HAPROXY, AtMost(0.75), Some(AtMost(0.30)), "bulk down, one stream: CPU per GiB"),
    gate("bulk-down", "cpu_s_gib", Target("socat"), AtMost(0.42), None, "bulk down, one stream: CPU per GiB"),
    gate("bulk-down", "cpu_s_gib", Target("haproxy-64k"), AtMost(0.9), None, "bulk down, one stream: CPU per GiB"),
    gate("bulk-up", "gbit_s", HAPROXY, AtLeast(1.2), Some(AtLeast(1.7)), "bulk up, one stream: throughput"),
    gate("bulk-down", "gbit_s", HAPROXY, AtLeast(1.2), Some(AtLeast(1.7)), "bulk down, one stream: throughput"),
    gate("bulk-up-64", "cpu_s_gib", HAPROXY, AtMost(0.85), Some(AtMost(0.25)), "bulk up, 64 streams: CPU per GiB"),
    gate("bulk-down-64", "cpu_s_gib", HAPROXY, AtMost(0.85), Some(AtMost(0.25)), "bulk down, 64 streams: CPU per GiB"),
    gate("bulk-up-64", "gbit_s", HAPROXY, AtLeast(1.0), Some(AtLeast(1.6)), "bulk up, 64 streams: throughput"),
    gate("bulk-down-64", "gbit_s", HAPROXY, AtLeast(1.0), Some(AtLeast(1.6)), "bulk down, 64 streams: throughput"),
    gate(
        "messages",
        "p50_us",
        Smaller("haproxy", "nginx"),
        AtMost(1.05),
        Some(AtMost(0.95)),
        "64-byte request and response: p50",
    ),
    gate("calls", "calls_message", Itself, AtMost(3.05), None, "system calls per forwarded message"),
    gate("mixed", "p50_us", HAPROXY, AtMost(0.9), Some(AtMost(0.5)), "small messages beside 8 bulk streams: p50"),
    gate("mixed", "p99_us", HAPROXY, AtMost(1.2), Some(AtMost(0.8)), "small messages beside 8 bulk streams: p99"),
    gate("short", "conn_s", HAPROXY, AtLeast(0.95), Some(AtLeast(1.1)), "short connections: rate"),
    gate("short", "cpu_us_conn", HAPROXY, AtMost(1.05), Some(AtMost(0.8)), "short connections: CPU each"),
    framed("bulk-up", "bulk up, one stream, framed: throughput"),
    framed("bulk-down", "bulk down, one stream, framed: throughput"),
    sandboxed("bulk-up", "gbit_s", AtLeast(0.97), "bulk up, one stream, sandboxed: throughput"),
    sandboxed("bulk-down", "gbit_s", AtLeast(0.97), "bulk down, one stream, sandboxed: throughput"),
    sandboxed("messages", "p50_us", AtMost(1.03), "64-byte request and response, sandboxed: p50"),
    gate("idle", "kib_conn", Itself, AtMost(2.0), Some(AtMost(1.0)), "idle connections: resident KiB each"),
    gate("idle", "kib_conn", HAPROXY, AtMost(0.6), None, "idle connections: resident memory each"),
    gate("used", "kib_conn", Itself, AtMost(2.5), Some(AtMost(1.2)), "idle after 1 MiB each: resident KiB each"),
    gate("used", "held_kib_conn", Itself, AtMost(2.5), Some(AtMost(1.0)), "held after their close: KiB for each"),
    gate("idle", "held_kib_conn", Itself, AtMost(2.5), Some(AtMost(1.0)), "held after idle ones close: KiB for each"),
    gate("stalled-down", "kib_direction", Itself, AtMost(64.0), Some(AtMost(32.0)), "clients that stall: KiB each"),
    gate("stalled-down", "growth_kib", Itself, AtMost(0.1), None, "clients that stall: growth in KiB each"),
    gate("stalled-up", "kib_direction", Itself, AtMost(64.0), Some(AtMost(32.0)), "an enclave that stalls: KiB each"),
    gate("stalled-up", "growth_kib", Itself, AtMost(0.1), None, "an enclave that stalls: growth in KiB each"),
];

const DIRECT: Against = Target("direct");

/// Over AF_VSOCK in a guest.
pub(crate) const OVER_VSOCK: &[Gate] = &[
    gate("bulk-up", "gbit_s", DIRECT, AtLeast(0.90), Some(AtLeast(0.95)), "bulk up against direct vsock"),
    gate("bulk-down", "gbit_s", DIRECT, AtLeast(0.90), Some(AtLeast(0.95)), "bulk down against direct vsock"),
    gate("bulk-up", "gbit_s", Target("loop-1k"), AtLeast(5.0), None, "bulk up against a relay of 1 KiB"),
    gate("tiny", "writes_s", Itself, AtLeast(1.0), None, "64-byte writes: every byte arrives, no ENOBUFS, no reset"),
];

const fn gate(
    test: &'static str,
    metric: &'static str,
    against: Against,
    gate: Bound,
    aim: Option<Bound>,
    what: &'static str,
) -> Gate {
    Gate { of: BRIDGE, test, metric, against, gate, aim, what }
}

/// What framing may cost: a twentieth of the throughput.
const fn framed(test: &'static str, what: &'static str) -> Gate {
    let (against, gate) = (Target(BRIDGE), AtLeast(0.95));
    Gate { of: "bridge-framed", test, metric: "gbit_s", against, gate, aim: None, what }
}

/// What the sandbox may cost: three in a hundred of the throughput.
const fn sandboxed(test: &'static str, metric: &'static str, bound: Bound, what: &'static str) -> Gate {
    gate(test, metric, Target("bridge-open"), bound, None, what)
}

/// Every promise of the run's transport, judged.
pub(crate) fn judge(run: &Run) -> Vec<Judged> {
    let gates = if run.transport == "vsock" { OVER_VSOCK } else { GATES };
    gates.iter().map(|gate| gate.judge(run)).collect()
}

impl Gate {
    fn judge(&'static self, run: &Run) -> Judged {
        let ours = run.by_round(self.test, self.of, self.metric);
        let of = |target: &str| run.by_round(self.test, target, self.metric);
        let values: Vec<f64> = match self.against {
            Itself => ours.values().copied().collect(),
            Target(target) => ratios(&ours, &of(target)),
            Smaller(one, other) => ratios(&ours, &smaller(&of(one), &of(other))),
        };
        let measured = estimate(&values);
        let missing = if run.void(self.test, self.of).is_some() { Verdict::Void } else { Verdict::NotMeasured };
        let verdict = measured.map_or(missing, |measured| self.gate.verdict(measured));
        let aim = self.aim.map(|aim| measured.map_or(missing, |measured| aim.verdict(measured)));
        Judged { gate: self, measured, verdict, aim }
    }

    /// The bound with what it is a multiple of.
    pub(crate) fn spell(&self, bound: Bound) -> String {
        let (sign, number) = match bound {
            AtMost(number) => ('≤', number),
            AtLeast(number) => ('≥', number),
        };
        match self.against {
            Itself => format!("{sign} {number}"),
            Target(target) => format!("{sign} {number} × {target}"),
            Smaller(one, other) => format!("{sign} {number} × the better of {one}, {other}"),
        }
    }
}

impl Bound {
    fn verdict(self, measured: Estimate) -> Verdict {
        let (median, end) = match self {
            AtMost(limit) => (measured.median <= limit, measured.high <= limit),
            AtLeast(limit) => (measured.median >= limit, measured.low >= limit),
        };
        match (median, end) {
            (true, true) => Verdict::Met,
            (true, false) => Verdict::ByMedian,
            (false, _) => Verdict::Missed,
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Verdict::Met => "met",
            Verdict::ByMedian => "met by the median",
            Verdict::Missed => "missed",
            Verdict::Void => "void",
            Verdict::NotMeasured => "not measured",
        })
    }
}

/// The smaller value of each round; that of one where the other has none.
fn smaller(one: &BTreeMap<u32, f64>, other: &BTreeMap<u32, f64>) -> BTreeMap<u32, f64> {
    let mut all = one.clone();
    for (round, value) in other {
        all.entry(*round).and_modify(|least| *least = least.min(*value)).or_insert(*value);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{self, Metric};
    use crate::rows::tests::example;
    use crate::targets;

    #[test]
    fn every_gate_names_a_test_a_metric_and_targets_that_exist() {
        let sets = [(GATES, plan::TESTS, targets::ALL), (OVER_VSOCK, plan::OVER_VSOCK, targets::OVER_VSOCK)];
        for (gates, tests, all) in sets {
            for gate in gates {
                assert!(tests.iter().any(|test| test.name == gate.test), "{gate:?}");
                assert!(Metric::named(gate.metric).is_some(), "{gate:?}");
                let against: &[&str] = match &gate.against {
                    Itself => &[],
                    Target(one) => &[one],
                    Smaller(one, other) => &[one, other],
                };
                let named = against.iter().chain([&gate.of]);
                assert!(named.into_iter().all(|name| all.iter().any(|(known, _)| known == name)), "{gate:?}");
            }
        }
    }

    #[test]
    fn the_worse_end_decides_between_met_and_met_by_the_median() {
        let measured = Estimate { median: 0.7, low: 0.6, high: 0.8, count: 9 };
        assert_eq!(AtMost(0.8).verdict(measured), Verdict::Met);
        assert_eq!(AtMost(0.75).verdict(measured), Verdict::ByMedian);
        assert_eq!(AtMost(0.65).verdict(measured), Verdict::Missed);
        assert_eq!(AtLeast(0.6).verdict(measured), Verdict::Met);
        assert_eq!(AtLeast(0.65).verdict(measured), Verdict::ByMedian);
        assert_eq!(AtLeast(0.75).verdict(measured), Verdict::Missed);
    }

    #[test]
    fn a_run_is_judged_and_what_it_lacks_is_not_called_met() {
        let mut run = example();
        let judged = judge(&run);
        assert_eq!(judged.len(), GATES.len());
        assert_eq!((judged[0].verdict, judged[0].aim), (Verdict::Met, Some(Verdict::Missed)));
        assert_eq!(judged[1].verdict, Verdict::NotMeasured);
        run.rows[1].void = Some("lost".to_owned());
        assert_eq!(judge(&run)[0].verdict, Verdict::Void);
    }

    #[test]
    fn the_better_of_two_is_chosen_in_each_round() {
        let one = BTreeMap::from([(0, 1.0), (1, 5.0)]);
        let other = BTreeMap::from([(0, 2.0), (1, 4.0), (2, 3.0)]);
        assert_eq!(smaller(&one, &other), BTreeMap::from([(0, 1.0), (1, 4.0), (2, 3.0)]));
    }
}
