//! The commands, one a file: its arguments and what it does.

pub mod bench;
pub mod cat;
pub mod ckpt;
pub mod cp;
pub mod demo;
pub mod df;
pub mod down;
pub mod flush;
pub mod ls;
pub mod migrate;
pub mod mkdir;
pub mod mount;
pub mod rm;
pub mod scrub;
pub mod server;
pub mod stage;
pub mod stat;
pub mod status;
pub mod umount;
pub mod up;

use crate::args::{Cli, Command};
use crate::error::Result;

/// Does what the command line says.
pub fn run(cli: Cli) -> Result<()> {
    let global = &cli.global;
    match cli.command {
        Command::Up(args) => up::run(global, &args),
        Command::Down(args) => down::run(global, &args),
        Command::Status(args) => status::run(global, &args),
        Command::Server(args) => server::run(global, &args),
        Command::Mount(args) => mount::run(global, &args),
        Command::Umount(args) => umount::run(&args),
        Command::Ls(args) => ls::run(global, &args),
        Command::Cat(args) => cat::run(global, &args),
        Command::Ckpt(args) => ckpt::run(global, &args),
        Command::Cp(args) => cp::run(global, &args),
        Command::Stat(args) => stat::run(global, &args),
        Command::Df(args) => df::run(global, &args),
        Command::Mkdir(args) => mkdir::run(global, &args),
        Command::Rm(args) => rm::run(global, &args),
        Command::Flush(args) => flush::run(global, &args),
        Command::Stage(args) => stage::run(global, &args),
        Command::Migrate(args) => migrate::run(global, &args),
        Command::Scrub(args) => scrub::run(global, &args),
        Command::Bench(args) => bench::run(global, args),
        Command::Demo(args) => demo::run(global, &args),
    }
}
