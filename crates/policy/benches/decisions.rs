//! The decisions of the policy, with few rules and with many: `cargo bench -p enclave-bridge-policy`. Not run by `cargo xtask
//! ci`, which only builds it: times of a shared machine guard nothing.
#![allow(clippy::unwrap_used, reason = "the inputs are in order, or there is nothing to measure")]

use std::hint::black_box;
use std::net::IpAddr;

use criterion::Criterion;
use enclave_bridge_policy::{EgressPolicy, EnvPolicy, Judged, OwnAddresses, Rule, classify};
use enclave_bridge_proto::Target;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    egress(&mut criterion);
    parsing(&mut criterion);
    criterion.final_summary();
}

fn own() -> OwnAddresses {
    OwnAddresses {
        addresses: ["127.0.0.1", "::1", "10.0.0.5"].map(|text| text.parse().unwrap()).to_vec(),
        listeners: vec!["0.0.0.0:8888".parse().unwrap()],
    }
}

/// So many rules of each kind, none of which says anything about the targets, and the one that does.
fn policy(others: usize) -> EgressPolicy {
    let names = (0..others).map(|number| format!("*.zone-{number}.example.net:443"));
    let networks = (0..others).map(|number| format!("192.0.{}.0/24", number % 256));
    let allow: Vec<Rule> = names
        .chain(networks)
        .chain(["*.example.org:443".to_owned(), "203.0.113.0/24".to_owned()])
        .map(|rule| rule.parse().unwrap())
        .collect();
    EgressPolicy::new(allow, Vec::new())
}

fn egress(criterion: &mut Criterion) {
    let own = own();
    for others in [0, 100] {
        let policy = policy(others);
        let mut group = criterion.benchmark_group(format!("egress, {} rules", 2 * others + 2));
        for line in ["service.example.org:443", "203.0.113.7:443", "10.0.0.5:22"] {
            let target = Target::parse(line.as_bytes()).unwrap();
            group.bench_function(line, |bencher| {
                bencher.iter(|| black_box(policy.judge(black_box(&target), &own)).is_ok());
            });
        }
        let target = Target::parse(b"service.example.org:443").unwrap();
        let Ok(Judged::Resolve(name)) = policy.judge(&target, &own) else { continue };
        let address: IpAddr = "203.0.113.7".parse().unwrap();
        group.bench_function("an address of a name", |bencher| {
            bencher.iter(|| black_box(policy.judge_address(&name, black_box(address), &own)).is_ok());
        });
        group.finish();
    }
}

fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parsing");
    for rule in ["*.example.org:443", "2001:db8::/32", "public"] {
        group.bench_function(format!("rule {rule}"), |bencher| {
            bencher.iter(|| black_box(rule).parse::<Rule>().unwrap());
        });
    }
    let address: IpAddr = "203.0.113.7".parse().unwrap();
    group.bench_function("class of an address", |bencher| bencher.iter(|| classify(black_box(address))));
    let environment =
        EnvPolicy::new(vec!["APP_*".parse().unwrap(), "*_URL".parse().unwrap()], vec!["*SECRET*".parse().unwrap()]);
    group.bench_function("name of a variable", |bencher| {
        bencher.iter(|| environment.allows(black_box("APP_DATABASE_URL")));
    });
    group.finish();
}
