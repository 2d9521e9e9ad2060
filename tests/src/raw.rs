//! One message as it is, where a test makes up what no client would send.

use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fs_client::Caller;
use fs_net::{Connection, Identity, NetEnv};
use fs_proto::msg::session::Role;
use fs_proto::{ClientId, Flags, Header, Partition, Request, ServerId, Status, Wire};

use crate::Cluster;

/// Sends a request to server `to`, for the owner of `target`; answers body and data.
pub fn send_raw<R: Request>(
    cluster: &Cluster,
    to: ServerId,
    target: Partition,
    request: &R,
    data: Bytes,
) -> Result<(Bytes, Bytes), Status> {
    send(cluster, to, target, request, data, Flags::default())
}

/// As [`ask_raw`], when the same was asked before and its answer got lost.
pub fn ask_again<R: Request>(
    cluster: &Cluster,
    to: ServerId,
    target: Partition,
    request: &R,
) -> Result<R::Reply, Status> {
    let (body, _) = send(cluster, to, target, request, Bytes::new(), Flags::default().with(Flags::RETRY))?;
    Ok(R::Reply::from_bytes(body).expect("a reply of this operation"))
}

fn send<R: Request>(
    cluster: &Cluster,
    to: ServerId,
    target: Partition,
    request: &R,
    data: Bytes,
    flags: Flags,
) -> Result<(Bytes, Bytes), Status> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    let id = ClientId(0x7e57);
    let file = cluster.file();
    let who = Identity { role: Role::Client { id }, job: file.job.clone(), secret: file.secret.clone() };
    let env = Rc::new(NetEnv::new(64 << 20));
    local.block_on(&runtime, async {
        let address = file.member(to).expect("a member").tcp_address();
        let connection = Connection::connect(&address, &who, &env, Duration::from_secs(30)).await;
        let connection = connection.expect("a connection");
        let mut header = Header::request(R::OP, target);
        (header.client, header.sequence, header.epoch, header.deadline_ms) = (id, 1, file.epoch, 3000);
        header.flags = flags;
        let mut meta = BytesMut::new();
        Caller::ROOT.put(&mut meta);
        request.put(&mut meta);
        let answer = connection.call(header, meta.freeze(), data).await.expect("an answer");
        match answer.header.status {
            Status::Ok => Ok((answer.meta, answer.bulk)),
            status => Err(status),
        }
    })
}

/// As [`send_raw`] without data; answers the reply.
pub fn ask_raw<R: Request>(
    cluster: &Cluster,
    to: ServerId,
    target: Partition,
    request: &R,
) -> Result<R::Reply, Status> {
    let (body, _) = send_raw(cluster, to, target, request, Bytes::new())?;
    Ok(R::Reply::from_bytes(body).expect("a reply of this operation"))
}
