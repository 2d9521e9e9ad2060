//! The two ways of a session beside each other.

use super::super::link::tests::links_over;
use super::*;
use fs_proto::Partition;
use std::task::Waker;

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
    let region = Region::small();
    let (theirs, ours) = links_over(&region);
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
