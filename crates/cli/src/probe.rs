//! Asking one server directly whether it lives and accepts us, without a client of the whole cluster.

use bytes::{Bytes, BytesMut};
use fs_net::{ClusterFile, Connection, Identity, MemberEntry, NetEnv, NetError};
use fs_proto::msg::Caller;
use fs_proto::msg::admin::{Shutdown, ShutdownMode};
use fs_proto::msg::session::{Ping, Role};
use fs_proto::{ClientId, Header, Request, Status, Wire};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;

/// Budget of buffers of a probe: its messages are tiny.
const POOL_BYTES: usize = 1 << 20;

/// Asks `member` for a sign of life.
pub fn ping(cluster: &ClusterFile, member: &MemberEntry, limit: Duration) -> Result<(), NetError> {
    run(ask(cluster, member, limit, Ping {}))
}

/// Asks `member` to end.
pub fn shutdown(
    cluster: &ClusterFile,
    member: &MemberEntry,
    limit: Duration,
    mode: ShutdownMode,
) -> Result<(), NetError> {
    run(ask(cluster, member, limit, Shutdown { mode }))
}

/// Whether somebody answered who will never accept us: another job, secret or release. Asking again is of no use.
pub fn is_refusal(error: &NetError) -> bool {
    matches!(error, NetError::Rejected(_) | NetError::WrongVersion(_))
}

async fn ask<R: Request>(
    cluster: &ClusterFile,
    member: &MemberEntry,
    limit: Duration,
    request: R,
) -> Result<(), NetError> {
    let id = ClientId(rand::random::<u64>() | 1);
    let who =
        Identity { role: Role::Client { id }, job: cluster.job.clone(), secret: cluster.secret.clone() };
    let env = Rc::new(NetEnv::new(POOL_BYTES));
    let connection = Connection::connect(&member.address(), &who, &env, limit).await?;
    let mut meta = BytesMut::new();
    caller().put(&mut meta);
    request.put(&mut meta);
    let mut header = Header::request_to_server(R::OP, member.id);
    header.client = id;
    header.deadline_ms = limit.as_millis() as u32;
    let reply = connection.call(header, meta.freeze(), Bytes::new()).await?;
    match reply.header.status {
        Status::Ok => Ok(()),
        other => {
            let said = String::from_bytes(reply.meta).unwrap_or_default();
            Err(NetError::Protocol(format!("server {} answered {other:?}: {said}", member.id)))
        }
    }
}

pub fn caller() -> Caller {
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        groups: Vec::new(),
    }
}

fn run<T>(work: impl Future<Output = Result<T, NetError>>) -> Result<T, NetError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| NetError::Protocol(format!("cannot make an event loop: {error}")))?;
    LocalSet::new().block_on(&runtime, work)
}
