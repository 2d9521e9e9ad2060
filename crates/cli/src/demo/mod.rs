//! Parts of the demonstration: what is written, through what, by whom, and the table at the end.

pub mod burst;
pub mod content;
pub mod report;
pub mod target;
pub mod tier;
