//! Pictures of how figures grow: `docs/scale-*.svg`, drawn from what `docs/benchmarks.json` holds, so that nothing needs measuring again.
//!
//! Both axes are logarithmic: a line that goes flat does not grow, one that goes up as steeply as the diagonal grows with the size.
//! Ladon's lines are whole, the peer's are dashed; a colour is one thing that was measured.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use crate::figure::Figure;

/// A picture, and the lines in it, by the names of their points.
struct Plot {
    file: &'static str,
    title: &'static str,
    unit: &'static str,
    lines: &'static [&'static str],
}

const PLOTS: [Plot; 4] = [
    Plot { file: "scale-start.svg", title: "Fresh start of a node", unit: "ms", lines: &["fresh start of a node"] },
    Plot {
        file: "scale-latency.svg",
        title: "From the write to flows in force",
        unit: "ms (p50)",
        lines: &[
            "add and bind a local port",
            "plug an existing port",
            "add a security rule",
            "add a router",
            "add a network with a subnet",
            "add a router interface",
        ],
    },
    Plot {
        file: "scale-memory.svg",
        title: "Resident memory",
        unit: "MB",
        lines: &["memory of the node's program", "memory of everything central"],
    },
    Plot {
        file: "scale-cpu.svg",
        title: "Processor time of the control plane",
        unit: "ms per operation",
        lines: &[
            "processor time: add and bind a local port",
            "processor time: plug an existing port",
            "processor time: add a security rule",
            "processor time: add a router interface",
            "processor time: a local port, added and removed",
            "processor time: a security rule, added and removed",
        ],
    },
];

const COLOURS: [RGBColor; 6] = [
    RGBColor(0x1f, 0x6f, 0xb4),
    RGBColor(0xd9, 0x5f, 0x02),
    RGBColor(0x1b, 0x8a, 0x5a),
    RGBColor(0x7a, 0x4f, 0xb5),
    RGBColor(0xc2, 0x2f, 0x5a),
    RGBColor(0x6b, 0x6b, 0x6b),
];
const SIZE: (u32, u32) = (900, 560);
/// Of a dashed line.
const DASH: i32 = 6;
const GAP: i32 = 5;

/// One line: values by size.
type Line = BTreeMap<usize, f64>;

/// Draws what there are figures for; a picture without figures is removed.
pub fn draw(figures: &[&Figure], folder: &Path) -> Result<()> {
    for plot in &PLOTS {
        let path = folder.join(plot.file);
        let lines: Vec<[Line; 2]> = plot.lines.iter().map(|name| both(figures, name)).collect();
        if lines.iter().all(|[ladon, _]| ladon.is_empty()) {
            drop(fs::remove_file(&path));
        } else {
            let picture = plot.picture(&lines).with_context(|| format!("drawing {}", plot.file))?;
            fs::write(&path, picture).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    Ok(())
}

/// Ladon's line of that name, and the peer's.
fn both(figures: &[&Figure], name: &str) -> [Line; 2] {
    let mut lines = [Line::new(), Line::new()];
    for figure in figures {
        let Some(point) = figure.point.as_ref().filter(|point| point.of == name) else { continue };
        lines[0].insert(point.size, figure.ladon.value);
        lines[1].extend(figure.peer.as_ref().map(|peer| (point.size, peer.measured.value)));
    }
    lines
}

impl Plot {
    fn picture(&self, lines: &[[Line; 2]]) -> Result<String> {
        let points = || lines.iter().flatten().flatten();
        let sizes = points().map(|(size, _)| *size as f64);
        let values = points().map(|(_, value)| value.max(LEAST));
        let (left, right) = (sizes.clone().fold(f64::MAX, f64::min), sizes.fold(0.0, f64::max));
        let (bottom, top) = (values.clone().fold(f64::MAX, f64::min), values.fold(0.0, f64::max));
        let mut picture = String::new();
        {
            let area = SVGBackend::with_string(&mut picture, SIZE).into_drawing_area();
            area.fill(&WHITE)?;
            let mut chart = ChartBuilder::on(&area)
                .caption(self.title, ("sans-serif", 22))
                .margin(14)
                .x_label_area_size(44)
                .y_label_area_size(64)
                .build_cartesian_2d((left * 0.8..right * 1.25).log_scale(), (bottom * 0.6..top * 1.6).log_scale())?;
            let size = |size: &f64| crate::figure::thousands(*size as usize);
            chart
                .configure_mesh()
                .x_desc("ports")
                .y_desc(self.unit)
                .x_label_formatter(&size)
                .y_label_formatter(&|value| crate::figure::shown(*value))
                .label_style(("sans-serif", 14))
                .light_line_style(WHITE)
                .draw()?;
            for ((name, [ladon, peer]), colour) in self.lines.iter().zip(lines).zip(COLOURS) {
                let name = name.rsplit(": ").next().unwrap_or(name);
                if !ladon.is_empty() {
                    let whole = LineSeries::new(placed(ladon), colour.stroke_width(2)).point_size(3);
                    let legend = move |(x, y)| PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(2));
                    chart.draw_series(whole)?.label(format!("Ladon: {name}")).legend(legend);
                }
                if !peer.is_empty() {
                    let dashed = DashedLineSeries::new(placed(peer), DASH, GAP, colour.stroke_width(2));
                    let legend = move |(x, y)| DashedPathElement::new([(x, y), (x + 24, y)], DASH, GAP, colour.stroke_width(2));
                    chart.draw_series(dashed)?.label(format!("OVN 25.03: {name}")).legend(legend);
                }
            }
            let position = SeriesLabelPosition::UpperLeft;
            let box_style = WHITE.mix(0.85);
            chart
                .configure_series_labels()
                .position(position)
                .legend_area_size(30)
                .background_style(box_style)
                .label_font(("sans-serif", 13))
                .draw()?;
            area.present()?;
        }
        Ok(picture)
    }
}

/// What a logarithmic axis shows of nothing.
const LEAST: f64 = 0.01;

fn placed(line: &Line) -> impl Iterator<Item = (f64, f64)> + Clone + '_ {
    line.iter().map(|(size, value)| (*size as f64, value.max(LEAST)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Reach;

    #[test]
    fn a_picture_has_a_line_for_each_system() {
        let figure = |size, ours, theirs| {
            let figure = Figure::new("x", "MB", ours, Reach::AtMost(1.0)).against("other", theirs);
            figure.at("memory of the node's program", size)
        };
        let figures = [figure(1_000, 20.0, 70.0), figure(10_000, 60.0, 500.0)];
        let lines = both(&figures.iter().collect::<Vec<_>>(), "memory of the node's program");
        assert_eq!(lines[1], Line::from([(1_000, 70.0), (10_000, 500.0)]));
        let picture = PLOTS[2].picture(&[lines, [Line::new(), Line::new()]]).unwrap();
        for text in ["Ladon: memory of the node", "OVN 25.03: memory of the node", "10,000", "Resident memory"] {
            assert!(picture.contains(text), "{text}: {picture}");
        }
    }
}
