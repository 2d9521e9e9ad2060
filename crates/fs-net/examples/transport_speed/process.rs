//! The other process, and CPU time.

use std::process::{Child, Command, Stdio};

/// A server process, ended when dropped.
pub struct Server(Child);

impl Server {
    /// This program again, with other arguments; its first line on standard output says that it is ready.
    pub fn start(args: &[&str]) -> (Server, String) {
        use std::io::{BufRead, BufReader};
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a server starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut line).expect("it says that it is ready");
        (Server(child), line.trim().to_owned())
    }

    /// CPU time of the server, and of this process, in microseconds.
    pub fn cpu_us(&self) -> f64 {
        cpu_us(self.0.id()) + cpu_us(std::process::id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it is ours");
    }
}

fn cpu_us(pid: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("proc");
    let of_task = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e3
    };
    tasks.flatten().map(of_task).sum()
}
