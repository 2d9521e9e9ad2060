//! Launching by ssh: one command a host. A server is put in the background there, so ssh returns at once.

use super::{CommandLine, Work};

/// Seconds until an unreachable host is an error.
const CONNECT_SECONDS: u32 = 15;

/// One ssh a host.
pub fn command_lines(work: &Work) -> Vec<CommandLine> {
    work.hosts
        .iter()
        .enumerate()
        .map(|(index, host)| {
            let timeout = format!("ConnectTimeout={CONNECT_SECONDS}");
            let script = script(work, index);
            CommandLine::new("ssh", ["-n", "-o", "BatchMode=yes", "-o", &timeout, host, &script])
        })
        .collect()
}

/// What the remote shell runs. It says itself when the program is missing: a background job could not.
fn script(work: &Work, index: usize) -> String {
    let exe = quote(work.exe);
    let words: Vec<String> = (work.args)(Some(index)).iter().map(|arg| quote(arg)).collect();
    let command = format!("{exe} {}", words.join(" "));
    let Some(log) = work.log else { return command };
    format!(
        "command -v {exe} >/dev/null || {{ echo {exe} is not on this host >&2; exit 127; }}; \
         cd / && nohup {command} >>{} 2>&1 </dev/null &",
        quote(&log(index))
    )
}

/// `word` so that a shell takes it literally.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_command_a_host_with_its_number() {
        let hosts = ["a".to_owned(), "b".to_owned()];
        let args = |index: Option<usize>| {
            vec!["server".to_owned(), "--id".to_owned(), format!("{}", index.unwrap())]
        };
        let log = |index: usize| format!("/d/server-{index}.log");
        let lines = command_lines(&Work { exe: "/opt/hayate", hosts: &hosts, args: &args, log: Some(&log) });
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1].program, "ssh");
        assert_eq!(lines[1].args[..6], ["-n", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "b"]);
        assert_eq!(
            lines[1].args[6],
            "command -v /opt/hayate >/dev/null || { echo /opt/hayate is not on this host >&2; exit 127; }; \
             cd / && nohup /opt/hayate server --id 1 >>/d/server-1.log 2>&1 </dev/null &"
        );
    }

    #[test]
    fn short_work_runs_in_the_foreground() {
        let hosts = ["a".to_owned()];
        let args = |_| vec!["umount".to_owned(), "/mnt/my dir".to_owned()];
        let lines = command_lines(&Work { exe: "hayate", hosts: &hosts, args: &args, log: None });
        assert_eq!(lines[0].args[6], "hayate umount '/mnt/my dir'");
    }

    /// Goal: no argument can leave its quotes. Method: a real shell echoes them back.
    #[test]
    fn shell_gives_back_what_was_quoted() {
        for word in ["", "a b", "it's", "$HOME `x` \"q\" \\", "*", ";rm", "ünï", "a\nb"] {
            let shell =
                std::process::Command::new("sh").arg("-c").arg(format!("printf %s {}", quote(word))).output();
            assert_eq!(String::from_utf8(shell.unwrap().stdout).unwrap(), word);
        }
    }
}
