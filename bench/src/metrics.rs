//! The figures of a run that can be compared with those of another: `hayate.metrics` in every JSON document.

use serde::{Deserialize, Serialize};

/// A figure, once for each repetition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// What it is.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// By repetition.
    pub values: Vec<f64>,
}

impl Metric {
    /// One of which more is better: a rate.
    pub fn higher(name: impl Into<String>, unit: &str, values: Vec<f64>) -> Self {
        Metric { name: name.into(), unit: unit.to_owned(), higher_is_better: true, values }
    }

    /// One of which less is better: a cost or a time.
    pub fn lower(name: impl Into<String>, unit: &str, values: Vec<f64>) -> Self {
        Metric { name: name.into(), unit: unit.to_owned(), higher_is_better: false, values }
    }
}
