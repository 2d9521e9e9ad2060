//! Starts killed servers again, by a process that was begun before any file on a mount was opened.
//!
//! A process that is started later inherits such files until it becomes another program, which closes them; closing asks servers what
//! was written there. If one of them is the server that is to be started, both wait until the mount gives up.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::common::Sandbox;

const LOOP: &str = r#"while read -r _; do "$0" up --restart </dev/null >restart.log 2>&1; echo $?; done"#;

/// The process.
pub struct Restarter {
    child: Child,
    /// A line of it is one start.
    orders: Option<ChildStdin>,
    codes: BufReader<ChildStdout>,
}

impl Restarter {
    /// Begins it.
    pub fn begin(sandbox: &Sandbox) -> Restarter {
        let mut command = Command::new("bash");
        command.args(["-c", LOOP, env!("CARGO_BIN_EXE_hayate")]).current_dir(sandbox.path(""));
        sandbox.environment(&mut command);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (orders, codes) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Restarter { child, orders, codes }
    }

    /// Starts the servers that do not run.
    pub fn restart(&mut self) {
        writeln!(self.orders.as_mut().unwrap()).unwrap();
        let mut code = String::new();
        self.codes.read_line(&mut code).unwrap();
        assert_eq!(code.trim(), "0", "hayate up --restart; see restart.log");
    }
}

impl Drop for Restarter {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.child.wait();
    }
}
