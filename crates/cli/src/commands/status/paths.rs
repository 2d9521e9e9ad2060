//! `hayate status PATH`: whether something, with all below, is in the shared tier as it is now.

use crate::args::Global;
use crate::below::{self, Name, When};
use crate::error::{CliError, Result, failed};
use crate::{out, probe, side};
use fs_client::{Caller, Client, InodeId};
use serde_json::json;
use std::path::PathBuf;

/// Names that are listed of those that are not there.
const SHOWN: usize = 20;

/// What is known of a path.
#[derive(Debug, Default)]
struct State {
    /// Names at and below it.
    names: u64,
    /// Those of them that are not in the shared tier as they are now.
    missing: u64,
    /// The first of those.
    first: Vec<String>,
    /// The policy that holds.
    policy: String,
}

/// Tells it of each path; fails if something is not there.
pub fn run(global: &Global, paths: &[PathBuf], as_json: bool) -> Result<()> {
    let (client, caller) = (global.connect()?, probe::caller());
    let mut missing = 0;
    for path in paths {
        let top = Name::find(&client, &side::in_cluster(path))?;
        let state = look(&client, &caller, &top)?;
        missing += state.missing;
        let path = top.path.to_string_lossy();
        if as_json {
            out::line(in_json(&path, &state))?;
        } else {
            out::line(in_words(&path, &state))?;
        }
    }
    if missing == 0 {
        Ok(())
    } else {
        Err(CliError::Unsafe("not everything is in the shared tier".to_owned()))
    }
}

fn look(client: &Client, caller: &Caller, top: &Name) -> Result<State> {
    let policy = get(client, caller, top.attr.ino, "user.hayate.flush")?.unwrap_or_default();
    let mut state = State { policy, ..State::default() };
    below::each(client, top, &mut |name, when| {
        if when == When::After {
            return Ok(());
        }
        let Some(durable) = get(client, caller, name.attr.ino, "user.hayate.durable")? else { return Ok(()) };
        state.names += 1;
        if durable != "yes" {
            state.missing += 1;
            if state.first.len() < SHOWN {
                state.first.push(name.path.to_string_lossy().into_owned());
            }
        }
        Ok(())
    })?;
    Ok(state)
}

/// An attribute; None if the inode has gone.
fn get(client: &Client, caller: &Caller, ino: InodeId, name: &str) -> Result<Option<String>> {
    match client.getxattr(caller, ino, name.as_bytes()) {
        Err(error) if error.is_not_found() => Ok(None),
        value => Ok(Some(String::from_utf8_lossy(&value.map_err(failed)?).into_owned())),
    }
}

fn in_json(path: &str, state: &State) -> String {
    json!({
        "path": path, "durable": state.missing == 0, "flush": state.policy,
        "names": state.names, "missing": state.missing, "first": state.first,
    })
    .to_string()
}

fn in_words(path: &str, state: &State) -> String {
    let State { names, missing, first, policy } = state;
    match (missing, names) {
        (0, 0 | 1) => format!("{path}: in the shared tier, flush {policy}"),
        (0, _) => format!("{path}: in the shared tier with all below ({names} names), flush {policy}"),
        (_, 0 | 1) => format!("{path}: NOT in the shared tier, flush {policy}"),
        _ => {
            let mut lines = vec![format!(
                "{path}: NOT in the shared tier: {missing} of {names} names at and below it, flush {policy}"
            )];
            lines.extend(first.iter().map(|name| format!("  {name}")));
            if *missing > first.len() as u64 {
                lines.push(format!("  and {} more", missing - first.len() as u64));
            }
            lines.join("\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_counted_and_named() {
        let state = |names, missing, first: &[&str]| State {
            names,
            missing,
            first: first.iter().map(ToString::to_string).collect(),
            policy: "close".to_owned(),
        };
        assert_eq!(in_words("/a", &state(1, 0, &[])), "/a: in the shared tier, flush close");
        assert_eq!(in_words("/a", &state(1, 1, &["/a"])), "/a: NOT in the shared tier, flush close");
        assert!(in_words("/d", &state(7, 0, &[])).contains("with all below (7 names)"));
        let text = in_words("/d", &state(9, 3, &["/d/x"]));
        assert!(text.contains("3 of 9 names") && text.ends_with("  /d/x\n  and 2 more"), "{text}");
        let told: serde_json::Value = serde_json::from_str(&in_json("/d", &state(9, 3, &["/d/x"]))).unwrap();
        assert_eq!((&told["durable"], &told["missing"]), (&json!(false), &json!(3)));
    }
}
