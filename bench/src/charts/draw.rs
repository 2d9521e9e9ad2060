//! Curves and bars as SVG.
//!
//! Text is measured by plotters' estimate, not by a font of this machine: the page looks the same everywhere.

use plotters::coord::Shift;
use plotters::prelude::*;

const SIZE: (u32, u32) = (880, 380);

/// What is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Axes<'a> {
    /// Above the chart.
    pub title: &'a str,
    /// Below.
    pub x: &'a str,
    /// At the left.
    pub y: &'a str,
    /// The x axis is logarithmic.
    pub log_x: bool,
}

/// Named points.
pub type Series = (String, Vec<(f64, f64)>);

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// The document that `paint` draws, or one that says why not: a report must not fail for a chart.
fn document(paint: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>) -> Outcome) -> String {
    let mut svg = String::new();
    let outcome = {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        paint(&area).and_then(|()| Ok(area.present()?))
    };
    match outcome {
        Ok(()) => svg,
        Err(error) => format!("<p>no chart: {error}</p>"),
    }
}

fn bounds(series: &[Series], of: fn(&(f64, f64)) -> f64) -> (f64, f64) {
    let values = series.iter().flat_map(|(_, points)| points.iter().map(of));
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
    if low < high { (low, high) } else { (low.min(high) * 0.9, high.max(low) * 1.1 + 1e-9) }
}

/// A curve for each series; y begins at zero.
pub fn curves(axes: &Axes<'_>, series: &[Series]) -> String {
    let (x, y) = (bounds(series, |p| p.0), 0.0..bounds(series, |p| p.1).1 * 1.08);
    document(|area| {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(area);
        chart.caption(axes.title, ("sans-serif", 18)).margin(12).x_label_area_size(40).y_label_area_size(72);
        if axes.log_x {
            let low = x.0.max(x.1 * 1e-9);
            paint(chart.build_cartesian_2d((low..x.1).log_scale(), y)?, axes, series)
        } else {
            paint(chart.build_cartesian_2d(x.0..x.1, y)?, axes, series)
        }
    })
}

type Plane<'a, 'b, X> =
    ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, plotters::coord::types::RangedCoordf64>>;

fn paint<'a, 'b: 'a, X>(mut plane: Plane<'a, 'b, X>, axes: &Axes<'_>, series: &[Series]) -> Outcome
where
    X: plotters::coord::ranged1d::Ranged<ValueType = f64> + plotters::coord::ranged1d::ValueFormatter<f64>,
{
    plane
        .configure_mesh()
        .x_desc(axes.x)
        .y_desc(axes.y)
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .light_line_style(WHITE)
        .draw()?;
    for (index, (name, points)) in series.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let style = color.stroke_width(2);
        plane
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], style));
        if points.len() < 40 {
            plane.draw_series(points.iter().map(|point| Circle::new(*point, 3, color.filled())))?;
        }
    }
    plane
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    Ok(())
}

/// A bar for each name.
pub fn bars(axes: &Axes<'_>, values: &[(String, f64)]) -> String {
    let highest = values.iter().map(|(_, value)| *value).fold(0.0, f64::max).max(1e-9) * 1.1;
    document(|area| {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(area);
        chart.caption(axes.title, ("sans-serif", 18)).margin(12).x_label_area_size(40).y_label_area_size(72);
        let mut plane = chart.build_cartesian_2d(0.0..values.len() as f64, 0.0..highest)?;
        let name = |at: &f64| {
            values.get(*at as usize).filter(|_| at.fract() < 0.01).map_or(String::new(), |v| v.0.clone())
        };
        plane
            .configure_mesh()
            .x_desc(axes.x)
            .y_desc(axes.y)
            .disable_x_mesh()
            .light_line_style(WHITE)
            .x_labels(values.len().min(32))
            .x_label_formatter(&name)
            .y_label_formatter(&|value| short(*value))
            .draw()?;
        plane.draw_series(values.iter().enumerate().map(|(index, (_, value))| {
            let left = index as f64;
            Rectangle::new([(left + 0.1, 0.0), (left + 0.9, *value)], Palette99::pick(0).filled())
        }))?;
        Ok(())
    })
}

/// A number in few characters: `0.12`, `345`, `12k`, `4.5M`.
pub fn short(value: f64) -> String {
    let scaled = [(1e9, "G"), (1e6, "M"), (1e3, "k")].into_iter().find(|(unit, _)| value.abs() >= *unit);
    let (value, unit) = scaled.map_or((value, ""), |(unit, name)| (value / unit, name));
    let digits = match value.abs() {
        v if v >= 100.0 || v == 0.0 || v.fract() == 0.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}{unit}")
}
