//! A client of the node that says what a test wants it to, and renews nothing by itself.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fs_client::{Attr, Caller, ServerId};
use fs_net::{Connection, Identity, NetEnv};
use fs_proto::msg::inode::{Getattr, Open, OpenInode, Release, Renew};
use fs_proto::msg::name::OpenMode;
use fs_proto::msg::session::Role;
use fs_proto::{ClientId, Header, InodeId, Request, Status, Wire};
use hayate_tests::Cluster;

use super::GATEWAY;

/// See the module.
pub struct Raw {
    runtime: tokio::runtime::Runtime,
    local: tokio::task::LocalSet,
    connection: Connection,
    id: ClientId,
    sequence: Cell<u64>,
}

pub const READS: OpenMode = OpenMode::Read {};
pub const WRITES: OpenMode = OpenMode::Write { via: Some(ServerId(GATEWAY)) };

impl Raw {
    pub fn on_node(cluster: &Cluster, id: u64) -> Raw {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let local = tokio::task::LocalSet::new();
        let file = cluster.file();
        let id = ClientId(id);
        let who = Identity { role: Role::Client { id }, job: file.job.clone(), secret: file.secret.clone() };
        let env = Rc::new(NetEnv::new(64 << 20));
        let address = file.member(ServerId(GATEWAY)).expect("a member").tcp_address();
        let connection = local.block_on(&runtime, async {
            Connection::connect(&address, &who, &env, Duration::from_secs(30)).await
        });
        let connection = connection.expect("a connection");
        // Others of the same number have been there before, in another life of the server.
        Raw { runtime, local, connection, id, sequence: Cell::new(0) }
    }

    fn ask<R: Request>(&self, mut header: Header, request: &R) -> Result<R::Reply, Status> {
        self.sequence.set(self.sequence.get() + 1);
        (header.client, header.sequence, header.deadline_ms) = (self.id, self.sequence.get(), 10_000);
        header.epoch = 1;
        let mut meta = BytesMut::new();
        Caller::ROOT.put(&mut meta);
        request.put(&mut meta);
        let answer = self.local.block_on(&self.runtime, async {
            self.connection.call(header, meta.freeze(), Bytes::new()).await.expect("an answer")
        });
        match answer.header.status {
            Status::Ok => Ok(R::Reply::from_bytes(answer.meta).expect("a reply of this operation")),
            status => Err(status),
        }
    }

    pub fn open(&self, ino: InodeId, mode: OpenMode) -> Attr {
        self.ask(Header::request(Open::OP, ino.partition()), &Open { ino, mode }).expect("open")
    }

    pub fn getattr(&self, ino: InodeId) -> Result<Attr, Status> {
        self.ask(Header::request(Getattr::OP, ino.partition()), &Getattr { ino })
    }

    pub fn renew(&self, home: ServerId, ino: InodeId, mode: OpenMode) {
        let renew = Renew { open: vec![OpenInode { ino, mode }] };
        // A home that is being restarted answers later.
        let _ = self.ask(Header::request_to_server(Renew::OP, home), &renew);
    }

    pub fn release(&self, home: ServerId, ino: InodeId) {
        self.ask(Header::request_to_server(Release::OP, home), &Release { inos: vec![ino] })
            .expect("release");
    }
}
