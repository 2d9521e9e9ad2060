//! The two ways of a session beside each other.

use super::super::bell::{Ear, Rope, bell};
use super::super::budget::ShareBudget;
use super::super::region::ARENA_MIN;
use super::super::spin::Spin;
use super::*;
use fs_proto::Partition;
use std::task::Waker;
use std::time::Duration;

/// A socket with one frame, and another each time that it is looked at.
struct Full;

impl Transport for Full {
    fn poll_receive(
        &mut self,
        _cx: &mut Context<'_>,
        frames: &mut VecDeque<Frame>,
    ) -> Poll<Result<(), NetError>> {
        let header = Header::request(Op::WriteChunk, Partition(0));
        frames.push_back(Frame { header, meta: Bytes::new(), bulk: Bytes::new() });
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, _cx: &mut Context<'_>, _queue: &mut SendQueue) -> Poll<Result<(), NetError>> {
        Poll::Ready(Ok(()))
    }

    fn trust(&mut self, _class: BufferClass, _share: Option<Account>) {}

    fn owed_since(&self) -> Option<u64> {
        None
    }

    fn credentials(&self) -> Option<Credentials> {
        None
    }

    fn describe(&self) -> String {
        String::new()
    }
}

/// A server's end over that socket, and the client's link to it.
fn ends() -> (SharedTransport, Link) {
    let (_, grant) = ShareBudget::new(64 << 20).grant().expect("room");
    let region = Arc::new(Region::create(ARENA_MIN, grant).expect("made").0);
    let (server_ear, client_rope) = bell(Side::Client).expect("a bell");
    let (client_ear, server_rope) = bell(Side::Server).expect("a bell");
    let link = |side, ear, rope| {
        let bells = (Ear::new(ear).expect("an ear"), Rope::new(rope).expect("a rope"));
        Link::new(region.clone(), side, bells, Spin::new(Duration::ZERO))
    };
    let (ours, theirs) =
        (link(Side::Server, server_ear, server_rope), link(Side::Client, client_ear, client_rope));
    let arena = Arena::new(region.clone(), Side::Server.outward());
    let env = Rc::new(NetEnv::new(1 << 20));
    (SharedTransport::new(Box::new(Full), ours, arena, (region, Side::Server), |_| false, env), theirs)
}

/// Goal: neither way waits for the other to be empty. Method: a client that always has something in the ring, and a socket that always has
/// something, too; both must be received from, the socket far less often.
#[test]
fn a_busy_ring_does_not_starve_the_socket() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    let (mut server, mut client) = ends();
    let raw = Header::request(Op::Ping, Partition(0)).encode();
    let (mut frames, mut cx) = (VecDeque::new(), Context::from_waker(Waker::noop()));
    for _ in 0..10 * UNHEARD_MAX {
        client.put(&record::head(Kind::Frame, raw.len(), 0));
        client.put(&raw);
        client.publish();
        assert!(server.poll_receive(&mut cx, &mut frames).is_ready());
    }
    let from_socket = frames.iter().filter(|frame| frame.header.op == Op::WriteChunk).count();
    assert!((8..=10).contains(&from_socket), "{from_socket} of {}", frames.len());
}
