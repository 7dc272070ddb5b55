//! What is counted, as it is shown when somebody scrapes. Which metrics there are: in the table above this, not here.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use enclave_bridge_proto::NakCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::{Counter, GaugeSource, Label, Metrics, NAMES, StreamCounters, StreamResult};

pub(super) struct Exposition {
    pub(super) metrics: Arc<Metrics>,
    pub(super) source: Arc<dyn GaugeSource>,
}

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exposition")
    }
}

/// Writes metrics to an encoder; the help of each comes from [`NAMES`].
struct Writer<'a>(DescriptorEncoder<'a>);

type Labels<'a> = &'a [(&'static str, &'static str)];

impl Writer<'_> {
    fn put(&mut self, name: &str, kind: MetricType, rows: &[(Labels<'_>, u64)]) -> fmt::Result {
        let suffix = if matches!(kind, MetricType::Counter) { "_total" } else { "" };
        let help = NAMES
            .iter()
            .find(|(full, ..)| full.strip_prefix("enclave_bridge_").and_then(|n| n.strip_suffix(suffix)) == Some(name))
            .map_or("", |(_, _, help)| help);
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in rows {
            let row = if labels.is_empty() { None } else { Some(metric.encode_family(labels)?) };
            if matches!(kind, MetricType::Counter) {
                let value = ConstCounter::new(*value);
                match row {
                    Some(row) => value.encode(row)?,
                    None => return value.encode(metric),
                }
            } else {
                let value = ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX));
                match row {
                    Some(row) => value.encode(row)?,
                    None => return value.encode(metric),
                }
            }
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, value: &AtomicU64) -> fmt::Result {
        self.put(name, MetricType::Counter, &[(&[], value.load(Ordering::Relaxed))])
    }

    fn gauge(&mut self, name: &str, value: usize) -> fmt::Result {
        self.put(name, MetricType::Gauge, &[(&[], value as u64)])
    }

    fn labelled<L: Label>(&mut self, name: &str, counter: &Counter<L>) -> fmt::Result {
        let labels: Vec<_> = L::ALL.iter().map(|l| ([(L::KEY, l.text())], counter.get(*l))).collect();
        let rows: Vec<(Labels<'_>, u64)> = labels.iter().map(|(l, v)| (l.as_slice(), *v)).collect();
        self.put(name, MetricType::Counter, &rows)
    }
}

const INGRESS: (&str, &str) = ("direction", "ingress");
const EGRESS: (&str, &str) = ("direction", "egress");

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (m, g) = (&*self.metrics, self.source.gauges());
        let both = |f: fn(&StreamCounters) -> u64| [(INGRESS, f(&m.ingress)), (EGRESS, f(&m.egress))];
        let mut w = Writer(encoder);

        let version: Labels<'_> = &[("version", env!("CARGO_PKG_VERSION"))];
        w.put("build_info", MetricType::Gauge, &[(version, 1)])?;
        w.gauge("sessions", g.sessions)?;
        w.counter("sessions_started", &m.sessions_started)?;
        w.labelled("sessions_ended", &m.sessions_ended)?;
        w.labelled("handshakes", &m.handshakes)?;
        let codes: Vec<_> = NakCode::ALL
            .iter()
            .zip(&m.refusals.0)
            .map(|(code, value)| ([("code", code.as_str())], value.load(Ordering::Relaxed)))
            .collect();
        let rows: Vec<(Labels<'_>, u64)> = codes.iter().map(|(l, v)| (l.as_slice(), *v)).collect();
        w.put("refusals", MetricType::Counter, &rows)?;
        w.counter("peers_refused", &m.peers_refused)?;
        w.counter("init_unknown", &m.init_unknown)?;
        w.counter("init_evicted", &m.init_evicted)?;
        w.counter("beats_received", &m.beats_received)?;
        w.counter("beats_bad", &m.beats_bad)?;

        let streams = [(INGRESS, g.streams_ingress as u64), (EGRESS, g.streams_egress as u64)];
        let directed = |rows: [((&'static str, &'static str), u64); 2]| rows.map(|(label, value)| ([label], value));
        let rows = |rows: &[([(&'static str, &'static str); 1], u64); 2]| -> Vec<_> { rows.to_vec() };
        let mut put = |name: &str, kind: MetricType, values| {
            let owned = rows(&directed(values));
            let borrowed: Vec<(Labels<'_>, u64)> = owned.iter().map(|(l, v)| (l.as_slice(), *v)).collect();
            w.put(name, kind, &borrowed)
        };
        put("streams", MetricType::Gauge, streams)?;
        put("streams_started", MetricType::Counter, both(|c| c.started.load(Ordering::Relaxed)))?;
        put("streams_refused", MetricType::Counter, both(|c| c.refused.load(Ordering::Relaxed)))?;
        w.gauge("streams_limit", g.streams_limit)?;

        let ended: Vec<_> = [(INGRESS, &m.ingress), (EGRESS, &m.egress)]
            .iter()
            .flat_map(|(direction, counters)| {
                StreamResult::ALL
                    .iter()
                    .map(|result| ([*direction, (StreamResult::KEY, result.text())], counters.ended.get(*result)))
            })
            .collect();
        let rows: Vec<(Labels<'_>, u64)> = ended.iter().map(|(l, v)| (l.as_slice(), *v)).collect();
        w.put("streams_ended", MetricType::Counter, &rows)?;
        // Downstream is the world for ingress and the enclave for egress.
        let flows = [
            ([INGRESS, ("flow", "in")], m.ingress.meter.a_to_b()),
            ([INGRESS, ("flow", "out")], m.ingress.meter.b_to_a()),
            ([EGRESS, ("flow", "in")], m.egress.meter.b_to_a()),
            ([EGRESS, ("flow", "out")], m.egress.meter.a_to_b()),
        ];
        let rows: Vec<(Labels<'_>, u64)> = flows.iter().map(|(l, v)| (l.as_slice(), *v)).collect();
        w.put("stream_bytes", MetricType::Counter, &rows)?;

        w.labelled("server_names_refused", &m.server_names)?;
        w.counter("accept_pauses", &m.accept_pauses)?;
        w.counter("log_lines_received", &m.log.received)?;
        w.counter("log_lines_printed", &m.log.printed)?;
        w.labelled("log_lines_dropped", &m.log.dropped)?;
        w.counter("log_lines_cut", &m.log.cut)?;
        w.put("log_connections", MetricType::Gauge, &[(&[], m.log.connections.load(Ordering::Relaxed))])?;
        w.gauge("tasks", g.tasks)?;
        w.put("task_panics", MetricType::Counter, &[(&[], g.panics)])
    }
}
