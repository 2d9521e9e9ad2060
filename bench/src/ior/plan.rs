//! What one command measures, and how it is shown.

use super::spec::IorSpec;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// IOR's text.
    #[default]
    Text,
    /// IOR's JSON.
    Json,
    /// IOR's CSV.
    Csv,
}

/// Where results go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Output {
    /// Of the file, or without one of the standard output.
    pub format: Format,
    /// Where `format` goes to; the text then goes to the standard output.
    pub file: Option<String>,
    /// Where the times of each task are added to.
    pub rank_csv: Option<String>,
    /// More lines, as with IOR's `-v`.
    pub verbose: u8,
    /// The command line, for the header.
    pub command_line: String,
}

impl Output {
    /// Whether the text goes to the standard output.
    pub fn shows_text(&self) -> bool {
        self.format == Format::Text || self.file.is_some()
    }
}

/// One test of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Test {
    /// Its number, from 0.
    pub id: u32,
    /// What is done.
    pub spec: IorSpec,
    /// The user's own number of it (`-A`).
    pub reference: i64,
    /// Collective I/O was asked for.
    pub collective: bool,
    /// What is worth a warning ends the run.
    pub warnings_are_errors: bool,
    /// Memory to take away on each node, in bytes.
    pub hog_per_node: u64,
    /// Where a write phase notes how far it came, and reads find it.
    pub status_file: Option<String>,
}

impl Test {
    /// A test by its specification only.
    pub fn new(spec: IorSpec) -> Self {
        Test {
            id: 0,
            spec,
            reference: 0,
            collective: false,
            warnings_are_errors: false,
            hog_per_node: 0,
            status_file: None,
        }
    }
}

/// All tests of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The tests in their order.
    pub tests: Vec<Test>,
    /// Where results go.
    pub output: Output,
}

impl Plan {
    /// The largest number of tasks of a test.
    pub fn tasks(&self) -> u32 {
        self.tests.iter().map(|test| test.spec.tasks).max().unwrap_or(1)
    }
}
