//! What `bench/limits.py` puts on servers: `limits SCENARIO CLUSTER_FILE ...`.
//!
//! Each scenario reads how far it shall go from standard input, a number a line, does so, says `N done SECONDS` and waits for more; at the end of its
//! input it ends. So the script can look at the servers' memory in between.

mod client;
mod clients;
mod creates;
mod flight;
mod idle;
mod opens;
mod writers;

use fs_net::{Address, ClusterFile, Connection, Identity, NetEnv};
use fs_proto::msg::Caller;
use fs_proto::msg::session::Role;
use fs_proto::{ClientId, Header, Partition, Request, ServerId, Status, Wire};
use std::io::BufRead;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const LONG: Duration = Duration::from_secs(120);
/// Handshakes under way at once.
const AT_ONCE: usize = 64;

fn main() -> Outcome {
    raise_descriptors();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let load = |file: &str| ClusterFile::load(Path::new(file));
    match words[..] {
        ["clients", file, first, servers, transport] => {
            let (first, servers) = (first.parse()?, servers.parse()?);
            block(clients::run(&load(file)?, (first, servers), transport == "unix"))
        }
        ["idle", file, transport] => block(idle::run(&load(file)?, transport == "unix")),
        ["client", file, memory_mib, what] => client::run(&load(file)?, memory_mib.parse()?, what),
        ["opens", file, mode] => block(opens::run(&load(file)?, mode == "write")),
        ["creates", file, connections] => block(creates::run(&load(file)?, connections.parse()?)),
        ["flight", file, mode, seconds] => block(flight::run(&load(file)?, mode == "write", seconds.parse()?)),
        ["writers", file, writers, seconds] => writers::run(&load(file)?, writers.parse()?, seconds.parse()?),
        _ => Err("limits clients FILE FIRST SERVERS unix|tcp, idle FILE unix|tcp, client FILE MIB io|opens|names, opens FILE read|write, creates FILE N, flight FILE read|write SECONDS, writers FILE N SECONDS".into()),
    }
}

fn block(scenario: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, scenario)
}

/// Makes connections until there are `target`; `one` is told the number of each.
async fn open_until<F: Future<Output = Outcome<Connection>>>(
    open: &mut Vec<Connection>,
    target: usize,
    one: impl Fn(usize) -> F,
) -> Outcome {
    while open.len() < target {
        let numbers = open.len()..target.min(open.len() + AT_ONCE);
        for connection in futures_util::future::join_all(numbers.map(&one)).await {
            open.push(connection?);
        }
    }
    Ok(())
}

fn none_lost(open: &[Connection]) -> Outcome {
    let lost = open.iter().filter(|connection| connection.is_closed()).count();
    if lost > 0 { Err(format!("{lost} connections were lost").into()) } else { Ok(()) }
}

/// A descriptor for each connection.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = Rlimit { current: Some(1 << 17), maximum: Some(1 << 17) };
    if setrlimit(Resource::Nofile, wanted).is_err() {
        let most = getrlimit(Resource::Nofile).maximum;
        let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
    }
}

/// The numbers of standard input, as they come. Blocks the thread: nothing is under way meanwhile.
fn targets() -> impl Iterator<Item = usize> {
    std::io::stdin().lock().lines().map_while(|line| line.ok()?.trim().parse().ok())
}

fn say(done: usize, began: Instant) {
    println!("{done} done {:.3}", began.elapsed().as_secs_f64());
}

/// Does what blocks on a thread of its own: the client library refuses to wait inside an event loop.
fn apart<T: Send>(work: impl FnOnce() -> Result<T, fs_client::Error> + Send) -> Outcome<T> {
    Ok(std::thread::scope(|scope| scope.spawn(work).join().expect("no panic"))?)
}

/// A client of its own with one connection to a server.
async fn connect(
    cluster: &ClusterFile,
    server: u16,
    client: u64,
    unix: bool,
    env: &Rc<NetEnv>,
) -> Outcome<Connection> {
    let member = cluster.member(ServerId(server)).ok_or("no such server")?;
    let address: Address = if unix { member.unix_address() } else { member.tcp_address() };
    let role = Role::Client { id: ClientId(client) };
    let who = Identity { role, job: cluster.job.clone(), secret: cluster.secret.clone() };
    Ok(Connection::connect(&address, &who, env, LONG).await?)
}

/// One request on a connection, as `client`.
async fn ask<R: Request>(
    connection: &Connection,
    who: (u64, u64),
    to: Partition,
    request: &R,
) -> Outcome<(R::Reply, Bytes)> {
    send(connection, who, to, request, Bytes::new()).await
}

/// As [`ask`], with data.
async fn send<R: Request>(
    connection: &Connection,
    (client, sequence): (u64, u64),
    to: Partition,
    request: &R,
    data: Bytes,
) -> Outcome<(R::Reply, Bytes)> {
    let mut header = Header::request(R::OP, to);
    (header.client, header.sequence, header.epoch) = (ClientId(client), sequence, connection.epoch());
    let mut meta = BytesMut::new();
    Caller::ROOT.put(&mut meta);
    request.put(&mut meta);
    let answer = connection.call(header, meta.freeze(), data).await?;
    if answer.header.status != Status::Ok {
        let why = String::from_bytes(answer.meta).unwrap_or_default();
        return Err(format!("{:?}: {:?} {why}", R::OP, answer.header.status).into());
    }
    Ok((R::Reply::from_bytes(answer.meta)?, answer.bulk))
}
