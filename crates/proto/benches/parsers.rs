//! The wire's parsers, each over what a well-behaved peer sends and over the most that a bad one may: `cargo bench -p
//! enclave-bridge-proto`. Not run by `cargo xtask ci`, which only builds it: times of a shared machine guard nothing.
#![allow(clippy::unwrap_used, reason = "the inputs are in order, or there is nothing to measure")]

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{BatchSize, Criterion, Throughput};
use enclave_bridge_proto::{
    ADDRESS_LINE_MAX_BYTES, Announcement, BeatReader, ClientRequest, EnclaveId, Environment, Feature, LineReader, Nak,
    NakCode, ProxyV2Reader, RECORD_MAX_BYTES, RecordReader, SETTINGS_MAX_BYTES, SETTINGS_TUNNELS_MAX, ServerRequest,
    Settings, Target, encode_beat, encode_proxy_v2, next_record, parse_hybrid_connect,
};

const ID: &str = "be9c0102-0304-4a05-8607-08090b0c0d0e";

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    settings(&mut criterion);
    environment(&mut criterion);
    lines(&mut criterion);
    beats(&mut criterion);
    records(&mut criterion);
    criterion.final_summary();
}

fn announcement() -> Announcement {
    Announcement::v1_1(&[Feature::ProxyV2, Feature::Bind, Feature::Framed])
}

/// The settings of an enclave with so many servers and as many clients.
fn settings_line(tunnels: u16) -> Vec<u8> {
    let plain = format!(r#"{{"watchdog":{{"enclaveId":"{ID}","interval":30000000000}},"logger":{{"level":"info"}}}}"#);
    let mut settings: Settings = Settings::parse(plain.as_bytes(), &announcement()).unwrap().settings;
    for number in 1..=tunnels {
        settings.servers.push(ServerRequest::new(16, number.into(), number));
        settings.clients.push(ClientRequest::new(u32::from(number) + 1000));
    }
    let mut line = settings.encode_line();
    line.pop();
    line
}

fn settings(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("settings");
    for tunnels in [1, u16::try_from(SETTINGS_TUNNELS_MAX).unwrap()] {
        let line = settings_line(tunnels);
        group.throughput(Throughput::Bytes(line.len() as u64));
        group.bench_function(format!("{tunnels} servers and clients"), |bencher| {
            bencher.iter(|| Settings::parse(black_box(&line), &announcement()).unwrap());
        });
    }
    let nested = vec![b'['; SETTINGS_MAX_BYTES];
    group.throughput(Throughput::Bytes(nested.len() as u64));
    group.bench_function("nothing but brackets", |bencher| {
        bencher.iter(|| Settings::parse(black_box(&nested), &announcement()).unwrap_err());
    });
    group.finish();
}

fn environment(criterion: &mut Criterion) {
    let mut environment = Environment::new();
    for number in 0..50 {
        environment.insert(format!("NAME_{number}"), "a value of usual length");
    }
    let mut line = environment.encode_line(&announcement()).unwrap();
    line.pop();
    let mut group = criterion.benchmark_group("environment");
    group.throughput(Throughput::Bytes(line.len() as u64));
    group.bench_function("50 names", |bencher| bencher.iter(|| Environment::parse(black_box(&line)).unwrap()));
    group.finish();
}

fn lines(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lines");
    for (name, line) in [("name", "service.example.org:443"), ("IPv6", "[2001:db8::17]:443"), ("no target", "a b:c")] {
        group.bench_function(format!("target, {name}"), |bencher| {
            bencher.iter(|| black_box(Target::parse(black_box(line.as_bytes()))).is_ok());
        });
    }
    let nak = Nak::new(NakCode::Denied, "no rule allows service.example.org:443").encode();
    let nak = nak.strip_suffix(b"\n").unwrap();
    group.bench_function("refusal", |bencher| bencher.iter(|| Nak::parse(black_box(nak)).unwrap()));
    group.bench_function("CONNECT", |bencher| {
        bencher.iter(|| parse_hybrid_connect(black_box(b"CONNECT 4294967295")).unwrap());
    });
    let endless = vec![b'x'; 2 * ADDRESS_LINE_MAX_BYTES];
    group.bench_function("a line without an end, byte by byte", |bencher| {
        bencher.iter_batched_ref(
            || LineReader::new(ADDRESS_LINE_MAX_BYTES),
            |reader| {
                for byte in endless.chunks(1) {
                    black_box(reader.push(byte));
                }
            },
            BatchSize::SmallInput,
        );
    });
    let (client, server): (SocketAddr, SocketAddr) =
        ("203.0.113.7:1234".parse().unwrap(), "198.51.100.1:443".parse().unwrap());
    let header = encode_proxy_v2(client, server);
    group.bench_function("PROXY header", |bencher| {
        bencher.iter(|| ProxyV2Reader::new().push(black_box(&header)));
    });
    group.finish();
}

fn beats(criterion: &mut Criterion) {
    let id: EnclaveId = ID.parse().unwrap();
    let beat = encode_beat(&id);
    let mut reader = BeatReader::new(id);
    criterion.bench_function("beats/one", |bencher| bencher.iter(|| reader.push(black_box(&beat)).unwrap()));
}

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("records");
    for payload in [64, 1400, RECORD_MAX_BYTES] {
        // As much as one read takes.
        let bytes = vec![0x5a; payload];
        let mut records = Vec::new();
        while records.len() + payload <= 128 * 1024 {
            let (header, payload, _) = next_record(&bytes).unwrap();
            records.extend_from_slice(&header);
            records.extend_from_slice(payload);
        }
        group.throughput(Throughput::Bytes(records.len() as u64));
        group.bench_function(format!("128 KiB of {payload} bytes each"), |bencher| {
            bencher.iter_batched_ref(
                || records.clone(),
                |records| RecordReader::new().decode(black_box(records)),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}
