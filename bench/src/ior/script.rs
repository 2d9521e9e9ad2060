//! IOR's scripts: tests one after the other, each with the directives that stand before its `RUN`.
//!
//! ```text
//! IOR START
//!     transferSize=1m, blockSize=64m     # comments and blanks do not matter
//! RUN
//!     transferSize=47008                 # everything else stays as it was
//!     blockSize=47008
//! RUN
//! IOR STOP
//! ```

use super::directives;
use super::options::IorArgs;
use crate::error::{BenchError, Result};

/// The tests of a script, with `base` as defaults.
///
/// # Errors
/// [`BenchError::Options`] with the line that has no meaning.
pub fn read(path: &str, base: &IorArgs) -> Result<Vec<IorArgs>> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| BenchError::Options(format!("cannot read script {path}: {error}")))?;
    parse(&text, base).map_err(|(line, why)| BenchError::Options(format!("{path}:{line}: {why}")))
}

fn parse(text: &str, base: &IorArgs) -> std::result::Result<Vec<IorArgs>, (usize, String)> {
    let mut current = base.clone();
    let (mut tests, mut inside, mut pending) = (Vec::new(), false, false);
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        let words: Vec<String> = line.split_whitespace().map(str::to_ascii_lowercase).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match (&*words, inside) {
            ([], _) => {}
            (["ior", "start"], false) => inside = true,
            (["ior", "stop" | "end"], true) => inside = false,
            (["run"], true) => {
                tests.push(current.clone());
                pending = false;
            }
            (_, true) => {
                for directive in line.split(',').filter(|part| !part.trim().is_empty()) {
                    directives::apply_line(&mut current, directive).map_err(|e| (number, e.to_string()))?;
                }
                pending = true;
            }
            (_, false) => return Err((number, "this is before IOR START or after IOR STOP".to_owned())),
        }
    }
    // IOR runs what stands between the last RUN and the end too.
    if pending || tests.is_empty() {
        tests.push(current);
    }
    Ok(tests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        ior: IorArgs,
    }

    fn base(words: &[&str]) -> IorArgs {
        Program::parse_from(words).ior
    }

    /// The script of IOR's documentation, shortened: defaults from the command line, settings that stay, a run without RUN.
    #[test]
    fn a_documented_script_is_understood() {
        let text = "IOR START\n  api=POSIX\n  testFile=x  # a comment\n  repetitions=8, filePerProc=1\n  blockSize=32k\n\
                    transferSize=32\n  numTasks=32\n collective=1\n setAlignment=0\nRUN\n# more\n  transferSize=64\n  \
                    blockSize=64k\n  segmentcount=2\nRUN\n  transferSize=4K\nIOR STOP\n";
        let tests = parse(text, &base(&["ior", "-W", "-G", "3"])).expect("a script");
        let sizes: Vec<(u64, u64, u64)> =
            tests.iter().map(|t| (t.transfer_size, t.block_size, t.segments)).collect();
        assert_eq!(sizes, [(32, 32 << 10, 1), (64, 64 << 10, 2), (4096, 64 << 10, 2)]);
        assert!(
            tests
                .iter()
                .all(|t| t.check_write && t.file_per_process && t.collective && t.num.tasks == Some(32))
        );
    }

    #[test]
    fn nonsense_is_refused_with_its_line() {
        let refused = |text: &str| parse(text, &base(&["ior"])).expect_err("nonsense");
        assert_eq!(refused("IOR START\n\nblokSize=3\nRUN\nIOR STOP\n").0, 3);
        assert_eq!(refused("transferSize=3\n").0, 1);
        assert!(refused("IOR START\nsetAlignment=4k\nRUN").1.contains("no API here has it"));
        assert!(refused("IOR START\nblockSize=x\nRUN").1.contains("no size"));
    }
}
