//! The chart: a panel for each metric, a bar with its interval for each target. Drawn here, so that it needs no program.

use crate::plan::Metric;
use crate::rows::Run;
use crate::stats::Estimate;

/// A panel: test, metric, title, and whether less is better.
struct Panel {
    test: &'static str,
    metric: &'static str,
    title: &'static str,
    less: bool,
}

const PANELS: &[Panel] = &[
    panel("bulk-up", "gbit_s", "Bulk up, 1 stream: Gbit/s", false),
    panel("bulk-up", "cpu_s_gib", "Bulk up, 1 stream: CPU s/GiB", true),
    panel("bulk-down", "cpu_s_gib", "Bulk down, 1 stream: CPU s/GiB", true),
    panel("bulk-up-64", "gbit_s", "Bulk up, 64 streams: Gbit/s", false),
    panel("bulk-up-64", "cpu_s_gib", "Bulk up, 64 streams: CPU s/GiB", true),
    panel("bulk-down-64", "cpu_s_gib", "Bulk down, 64 streams: CPU s/GiB", true),
    panel("messages", "p50_us", "64 B there and back: p50, µs", true),
    panel("mixed", "p50_us", "64 B beside 8 bulk streams: p50, µs", true),
    panel("mixed", "p99_us", "64 B beside 8 bulk streams: p99, µs", true),
    panel("short", "conn_s", "Short connections per second", false),
    panel("short", "cpu_us_conn", "CPU per short connection, µs", true),
    panel("calls", "calls_message", "System calls per message", true),
    panel("idle", "kib_conn", "Idle connection: KiB", true),
    panel("used", "kib_conn", "Idle after 1 MiB each way: KiB", true),
    panel("stalled-down", "kib_direction", "Stalled client: KiB", true),
];

const fn panel(test: &'static str, metric: &'static str, title: &'static str, less: bool) -> Panel {
    Panel { test, metric, title, less }
}

const COLUMNS: usize = 3;
const PANEL_WIDTH: f64 = 430.0;
const MARGIN: f64 = 20.0;
const NAME_WIDTH: f64 = 104.0;
const BAR_WIDTH: f64 = 170.0;
const ROW_HEIGHT: f64 = 20.0;
const HEAD_HEIGHT: f64 = 72.0;
const TITLE_HEIGHT: f64 = 30.0;
const AXIS_HEIGHT: f64 = 34.0;

/// A picture of the run.
pub(crate) fn chart(run: &Run) -> String {
    let drawn = draw(run);
    let (width, height) = (drawn.width, drawn.height);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" font-family=\"DejaVu Sans, Verdana, sans-serif\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    svg.push_str(&drawn.shapes);
    for text in &drawn.texts {
        let anchor = match text.anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let weight = if text.bold { " font-weight=\"bold\"" } else { "" };
        let Text { x, y, size, colour, .. } = text;
        let words = escaped(&text.words);
        put(
            &mut svg,
            &format!(
                "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" fill=\"{colour}\" text-anchor=\"{anchor}\"{weight}>{words}</text>"
            ),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Anchor {
    Start,
    Middle,
    End,
}

#[derive(Debug, Clone)]
struct Text {
    x: f64,
    y: f64,
    size: f64,
    anchor: Anchor,
    bold: bool,
    colour: &'static str,
    words: String,
}

/// Everything before it is written out: texts apart, so that a test can see that none stands on another.
#[derive(Debug, Default)]
struct Drawn {
    width: f64,
    height: f64,
    shapes: String,
    texts: Vec<Text>,
}

impl Drawn {
    fn say(&mut self, x: f64, y: f64, size: f64, anchor: Anchor, words: impl Into<String>) -> &mut Text {
        let at = self.texts.len();
        self.texts.push(Text { x, y, size, anchor, bold: false, colour: "#222222", words: words.into() });
        // The one that was just pushed.
        #[expect(clippy::indexing_slicing, reason = "the index of the element pushed in the line above")]
        &mut self.texts[at]
    }
}

fn draw(run: &Run) -> Drawn {
    let panels: Vec<(&Panel, Vec<(String, Estimate)>)> =
        PANELS.iter().map(|panel| (panel, bars(run, panel))).filter(|(_, bars)| !bars.is_empty()).collect();
    let tallest = panels.iter().map(|(_, bars)| bars.len()).max().unwrap_or(0);
    let panel_height = TITLE_HEIGHT + tallest as f64 * ROW_HEIGHT + AXIS_HEIGHT;
    let rows = panels.len().div_ceil(COLUMNS);
    let mut drawn = Drawn {
        width: 2.0 * MARGIN + COLUMNS as f64 * PANEL_WIDTH,
        height: HEAD_HEIGHT + rows as f64 * panel_height + MARGIN,
        ..Drawn::default()
    };
    drawn.say(MARGIN, 30.0, 18.0, Anchor::Start, "enclave-bridge beside other relays").bold = true;
    let place = &run.place;
    let under = format!(
        "{}, Linux {}, {} cores, {}; medians, whiskers: 95 % bootstrap intervals of the median",
        place.date, place.kernel, place.cores, place.processor
    );
    drawn.say(MARGIN, 50.0, 11.0, Anchor::Start, under).colour = "#666666";
    for (number, (panel, bars)) in panels.iter().enumerate() {
        let left = MARGIN + (number % COLUMNS) as f64 * PANEL_WIDTH;
        let top = HEAD_HEIGHT + (number / COLUMNS) as f64 * panel_height;
        draw_panel(&mut drawn, left, top, panel, bars);
    }
    drawn
}

fn bars(run: &Run, panel: &Panel) -> Vec<(String, Estimate)> {
    let of = |name: &str| run.value(panel.test, name, panel.metric).map(|value| (name.to_owned(), value));
    run.targets.iter().filter_map(|target| of(&target.name)).collect()
}

fn draw_panel(drawn: &mut Drawn, left: f64, top: f64, panel: &Panel, bars: &[(String, Estimate)]) {
    let digits = Metric::named(panel.metric).map_or(2, |metric| metric.digits);
    let scale = Scale::of(bars.iter().map(|(_, value)| value), panel);
    let better = if panel.less { "less is better" } else { "more is better" };
    drawn.say(left, top + 12.0, 12.0, Anchor::Start, panel.title).bold = true;
    drawn.say(left + PANEL_WIDTH - MARGIN, top + 12.0, 9.0, Anchor::End, better).colour = "#666666";
    let origin = left + NAME_WIDTH;
    let rows_top = top + TITLE_HEIGHT - 6.0;
    let rows_bottom = rows_top + bars.len() as f64 * ROW_HEIGHT;
    for tick in scale.ticks() {
        let x = origin + scale.place(tick) * BAR_WIDTH;
        put(
            &mut drawn.shapes,
            &format!(
                "<line x1=\"{x:.1}\" y1=\"{rows_top:.1}\" x2=\"{x:.1}\" y2=\"{rows_bottom:.1}\" stroke=\"#dddddd\" stroke-width=\"1\"/>"
            ),
        );
        drawn.say(x, rows_bottom + 12.0, 9.0, Anchor::Middle, short(tick)).colour = "#666666";
    }
    if matches!(scale, Scale::Log { .. }) {
        let beside = origin + BAR_WIDTH + 30.0;
        drawn.say(beside, rows_bottom + 12.0, 9.0, Anchor::Start, "log axis").colour = "#666666";
    }
    for (number, (name, value)) in bars.iter().enumerate() {
        let y = rows_top + number as f64 * ROW_HEIGHT;
        let middle = y + ROW_HEIGHT / 2.0;
        let ours = name == "bridge";
        let colour = match name.as_str() {
            "bridge" => "#2b6cb0",
            "direct" => "#d4d4d4",
            _ => "#a9b7c6",
        };
        let length = scale.place(value.median) * BAR_WIDTH;
        let (low, high) = (origin + scale.place(value.low) * BAR_WIDTH, origin + scale.place(value.high) * BAR_WIDTH);
        put(
            &mut drawn.shapes,
            &format!(
                "<rect x=\"{origin:.1}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
                y + 3.0,
                ROW_HEIGHT - 6.0
            ),
        );
        put(
            &mut drawn.shapes,
            &format!(
                "<path d=\"M{low:.1} {middle:.1}H{high:.1}M{low:.1} {0:.1}V{1:.1}M{high:.1} {0:.1}V{1:.1}\" stroke=\"#222222\" stroke-width=\"1\" fill=\"none\"/>",
                middle - 3.0,
                middle + 3.0
            ),
        );
        drawn.say(origin - 6.0, middle + 4.0, 11.0, Anchor::End, name.as_str()).bold = ours;
        drawn.say(origin + BAR_WIDTH + 8.0, middle + 3.5, 9.5, Anchor::Start, super::spelled(*value, digits)).bold =
            ours;
    }
}

/// Values that lie further apart than this leave bars of nothing on a linear axis.
const WIDE: f64 = 12.0;

/// From values to the width of the bars, 0 to 1.
enum Scale {
    Linear { most: f64 },
    Log { least: f64, most: f64 },
}

impl Scale {
    /// Logarithmic for processor time per GiB, and for other costs that lie far apart, where they have logarithms.
    fn of<'a>(values: impl Iterator<Item = &'a Estimate> + Clone, panel: &Panel) -> Scale {
        let most = values.clone().map(|value| value.high).fold(f64::MIN_POSITIVE, f64::max);
        let least = values.map(|value| value.low).fold(f64::MAX, f64::min);
        let wanted = panel.metric == "cpu_s_gib" || (panel.less && most / least >= WIDE);
        if least <= 0.0 || !wanted {
            return Scale::Linear { most };
        }
        // The smallest bar is still a bar: the axis begins at half of it.
        Scale::Log { least: (least / 2.0).min(most / 10.0), most }
    }

    fn place(&self, value: f64) -> f64 {
        let place = match self {
            Scale::Linear { most } => value / most,
            Scale::Log { least, most } => (value / least).ln() / (most / least).ln(),
        };
        place.clamp(0.0, 1.0)
    }

    /// Marks that are far enough apart for their numbers.
    fn ticks(&self) -> Vec<f64> {
        match self {
            Scale::Linear { most } => {
                let decade = 10_f64.powf(most.log10().floor());
                let steps = [0.2, 0.5, 1.0, 2.0, 5.0].map(|step| step * decade);
                let step = steps.into_iter().find(|step| most / step <= 4.0).unwrap_or(*most);
                (0..=4_u32).map(|number| f64::from(number) * step).filter(|tick| tick <= most).collect()
            }
            Scale::Log { least, most } => {
                let decades = most.log10().floor() - least.log10().floor();
                let marks: &[f64] = if decades < 2.5 { &[1.0, 3.0] } else { &[1.0] };
                let mut ticks = Vec::new();
                let mut decade = 10_f64.powf(least.log10().floor());
                while decade <= *most {
                    ticks.extend(marks.iter().map(|mark| mark * decade).filter(|tick| tick >= least && tick <= most));
                    decade *= 10.0;
                }
                ticks
            }
        }
    }
}

/// As few digits as say it.
fn short(value: f64) -> String {
    if value >= 10_000.0 { format!("{:.0}k", value / 1000.0) } else { format!("{}", (value * 1e4).round() / 1e4) }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn put(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{Row, Told, tests::example};
    use crate::targets;
    use std::collections::BTreeMap;

    /// A wide face's letters: no text is wider than this.
    const LETTER: f64 = 0.66;

    fn full(scale: f64, spread: f64) -> Run {
        let mut run = example();
        run.targets = targets::ALL
            .iter()
            .map(|(name, _)| Told { name: (*name).to_owned(), version: String::new(), settings: String::new() })
            .collect();
        run.rows.clear();
        for panel in PANELS {
            for (place, (name, _)) in targets::ALL.iter().enumerate() {
                for round in 0..5_u32 {
                    let value = scale * (1.0 + place as f64 * spread) * (1.0 + f64::from(round) / 5.0);
                    let row = Row {
                        round,
                        test: panel.test.to_owned(),
                        target: (*name).to_owned(),
                        values: BTreeMap::from([(panel.metric.to_owned(), value)]),
                        void: None,
                        busy: 0.5,
                        load: 1.0,
                    };
                    run.rows.push(row);
                }
            }
        }
        run
    }

    fn box_of(text: &Text) -> (f64, f64, f64, f64) {
        let width = text.words.chars().count() as f64 * text.size * LETTER;
        let left = match text.anchor {
            Anchor::Start => text.x,
            Anchor::Middle => text.x - width / 2.0,
            Anchor::End => text.x - width,
        };
        (left, text.y - text.size * 0.8, left + width, text.y + text.size * 0.2)
    }

    #[test]
    fn no_text_stands_on_another_or_outside_whatever_the_values() {
        for (scale, spread) in [(0.01, 0.1), (1.0, 100.0), (700.0, 3.0), (40_000.0, 0.5)] {
            let drawn = draw(&full(scale, spread));
            let boxes: Vec<_> = drawn.texts.iter().map(|text| (box_of(text), text)).collect();
            for (number, (one, text)) in boxes.iter().enumerate() {
                assert!(one.0 >= 0.0 && one.2 <= drawn.width && one.3 <= drawn.height, "{text:?} leaves the picture");
                for (other, beside) in &boxes[number + 1..] {
                    let apart = one.2 <= other.0 || other.2 <= one.0 || one.3 <= other.1 || other.3 <= one.1;
                    assert!(apart, "{text:?} stands on {beside:?} at {scale} and {spread}");
                }
            }
        }
    }

    #[test]
    fn a_bar_on_a_logarithmic_axis_is_as_long_as_its_logarithm() {
        let scale = Scale::Log { least: 0.1, most: 10.0 };
        assert!((scale.place(1.0) - 0.5).abs() < 1e-9);
        assert!((scale.place(0.01)).abs() < 1e-9 && (scale.place(100.0) - 1.0).abs() < 1e-9);
        assert_eq!(scale.ticks().len(), 5);
    }

    #[test]
    fn the_chart_is_well_formed_and_has_a_bar_for_every_value() {
        let run = full(1.0, 0.3);
        let svg = chart(&run);
        let bars = svg.matches("<rect x=").count();
        assert_eq!(bars, PANELS.len() * targets::ALL.len());
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert_eq!(escaped("a<b>&c"), "a&lt;b&gt;&amp;c");
    }
}
