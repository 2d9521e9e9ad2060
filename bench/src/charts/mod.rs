//! `hayate bench report OUT.html RUN.json...`: one page that works offline, with charts as SVG inside.
//!
//! | module | what |
//! |---|---|
//! | [`draw`] | curves and bars as SVG, by the crate plotters |
//! | [`data`] | the series of the documents |
//!
//! Rejected: charts by a script in the page (another engine to carry, nothing without it), bitmaps (they need fonts of the system).

pub mod data;
pub mod draw;
#[cfg(test)]
mod tests;

use std::io::Write;

use clap::Args;
use serde_json::Value;

use crate::compare;
use crate::error::Result;
use crate::ior::write_file;
use data::Chart;

/// Options of `hayate bench report`.
#[derive(Debug, Clone, Args)]
pub struct ReportArgs {
    /// The page to write
    pub page: String,
    /// JSON documents of runs: of ior, mdtest, io500, checkpoint, dataset
    #[arg(required = true)]
    pub runs: Vec<String>,
    /// Write each chart also as a file of its own into this directory
    #[arg(long, value_name = "DIR")]
    pub svg: Option<String>,
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "body{font:15px/1.4 sans-serif;margin:2em auto;max-width:62em;color:#222}table{border-collapse:collapse;margin:1em 0}\
    td,th{padding:.15em .8em;border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child{text-align:left}\
    svg{max-width:100%;height:auto}.note{color:#a40}";

fn table(name: &str, document: &Value) -> String {
    let hayate = &document["hayate"];
    let machine = &hayate["machine"];
    let text = |value: &Value| escape(value.as_str().unwrap_or("?"));
    let mut html = format!(
        "<h2>{}</h2><p>{} x {}, {}, commit {}; {}</p>",
        escape(name),
        machine["cpus"],
        text(&machine["cpu"]),
        text(&machine["kernel"]),
        text(&machine["commit"]),
        text(&document["Command line"])
    );
    for note in hayate["warnings"].as_array().into_iter().flatten() {
        html += &["<p class=note>", &text(note), "</p>"].concat();
    }
    html += "<table><tr><th>figure<th>unit<th>mean<th>min<th>max<th>runs</tr>";
    for metric in hayate["metrics"].as_array().into_iter().flatten() {
        let values: Vec<f64> =
            metric["values"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let spread = crate::results::Spread::of(&values);
        let cells = [spread.mean, spread.min, spread.max].map(|value| format!("<td>{value:.2}")).concat();
        html +=
            &["<tr><td>", &text(&metric["name"]), "<td>", &text(&metric["unit"]), &cells, "<td>"].concat();
        html += &values.len().to_string();
    }
    html + "</table>"
}

/// The page of named documents.
pub fn page(runs: &[(String, Value)]) -> String {
    let charts: String = data::charts(runs).iter().map(Chart::svg).collect();
    let tables: String = runs.iter().map(|(name, document)| table(name, document)).collect();
    format!(
        "<!DOCTYPE html><html lang=en><head><meta charset=utf-8><title>hayate bench</title><style>{STYLE}</style></head>\
         <body><h1>hayate bench</h1>{charts}{tables}</body></html>\n"
    )
}

/// Writes the page, and the charts if asked for.
///
/// # Errors
/// If a document cannot be read, or a file cannot be written.
pub fn run(args: &ReportArgs, out: &mut dyn Write) -> Result<()> {
    let runs =
        args.runs.iter().map(|path| Ok((path.clone(), compare::read(path)?))).collect::<Result<Vec<_>>>()?;
    write_file(&args.page, false, |file| file.write_all(page(&runs).as_bytes()))?;
    let charts = data::charts(&runs);
    if let Some(dir) = &args.svg {
        std::fs::create_dir_all(dir)?;
        for (number, chart) in charts.iter().enumerate() {
            let path = format!("{dir}/{number:02}-{}.svg", chart.slug());
            write_file(&path, false, |file| file.write_all(chart.svg().as_bytes()))?;
        }
    }
    writeln!(out, "{}: {} runs, {} charts", args.page, runs.len(), charts.len())?;
    Ok(())
}
