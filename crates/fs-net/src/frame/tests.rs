//! The reader over scripted streams: every cut, damage and lie that a peer may send.

use super::*;
use fs_proto::{Op, Partition};
use proptest::prelude::*;
use std::io;
use std::task::Waker;

/// A stream that gives its bytes in steps of given sizes, then ends.
struct Script {
    bytes: Vec<u8>,
    at: usize,
    steps: Vec<usize>,
    reads: usize,
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let step = self.steps[self.reads % self.steps.len()].max(1);
        self.reads += 1;
        let end = (self.at + step.min(to.remaining())).min(self.bytes.len());
        to.put_slice(&self.bytes[self.at..end]);
        self.at = end;
        Poll::Ready(Ok(()))
    }
}

fn script(bytes: Vec<u8>, steps: &[usize]) -> Script {
    Script { bytes, at: 0, steps: steps.to_vec(), reads: 0 }
}

fn frame(tag: u32, meta: usize, bulk: usize) -> Frame {
    let mut header = Header::request(Op::WriteChunk, Partition(7));
    header.tag = tag;
    header.meta_bytes = meta as u32;
    header.bulk_bytes = bulk as u32;
    let fill = |len: usize, salt: u32| {
        (0..len as u32).map(|i| (i.wrapping_mul(31) ^ salt ^ tag) as u8).collect::<Vec<_>>()
    };
    Frame { header, meta: fill(meta, 1).into(), bulk: fill(bulk, 2).into() }
}

fn encoded(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        bytes.extend_from_slice(&frame.header.encode());
        bytes.extend_from_slice(&frame.meta);
        bytes.extend_from_slice(&frame.bulk);
    }
    bytes
}

/// All frames of a stream and why it ended.
fn read_all(reader: &mut FrameReader, stream: &mut Script) -> (Vec<Frame>, NetError) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut frames = VecDeque::new();
    loop {
        match reader.poll_frames(&mut cx, stream, &mut frames) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(reason)) => return (frames.into(), reason),
            Poll::Pending => panic!("nothing to wait for: the pool is large enough"),
        }
    }
}

fn trusted() -> (FrameReader, Rc<NetEnv>) {
    let env = Rc::new(NetEnv::new(256 << 20));
    let mut reader = FrameReader::new(env.clone());
    reader.trust(BufferClass::PeerRequest, None);
    (reader, env)
}

/// Goal: what waits for the next message costs nothing, what has half of one costs that half. Method: a stream cut after every length.
#[test]
fn an_idle_reader_holds_nothing() {
    let bytes = encoded(&[frame(1, 300, 5_000), frame(2, 10, 0)]);
    for cut in 0..=bytes.len() {
        let (mut reader, _env) = trusted();
        let (received, _) = read_all(&mut reader, &mut script(bytes[..cut].to_vec(), &[7_000]));
        let taken: usize =
            received.iter().map(|frame| HEADER_BYTES + frame.meta.len() + frame.bulk.len()).sum();
        let has_header = cut - taken >= HEADER_BYTES;
        let rest = cut - taken - if has_header { HEADER_BYTES } else { 0 };
        assert_eq!(reader.buffer.len(), rest, "cut at {cut}");
        assert!(
            reader.buffer.capacity() <= rest.next_multiple_of(64) + 64,
            "cut at {cut}: {}",
            reader.buffer.capacity()
        );
        assert_eq!(reader.owed_since().is_some(), cut > taken, "cut at {cut}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn frames_do_not_depend_on_how_reads_are_cut(
        sizes in prop::collection::vec((0..40_000usize, 0..200_000usize), 1..12),
        steps in prop::collection::vec(64..150_000usize, 1..6),
    ) {
        let sent: Vec<_> = sizes.iter().enumerate().map(|(i, &(meta, bulk))| frame(i as u32, meta, bulk)).collect();
        let (mut reader, env) = trusted();
        let (received, reason) = read_all(&mut reader, &mut script(encoded(&sent), &steps));
        prop_assert!(matches!(reason, NetError::Closed));
        prop_assert!(received == sent);
        prop_assert_eq!(NetCounters::read(&env.counters.messages_received), sent.len() as u64);
        drop(received);
        prop_assert_eq!(env.pool.stats().used, 0);
    }

    /// Goal: totality. Method: noise, and valid streams with bytes changed anywhere.
    #[test]
    fn any_bytes_give_frames_or_an_error(
        noise in prop::collection::vec(any::<u8>(), 0..2000),
        sizes in prop::collection::vec((0..300usize, 0..20_000usize), 1..6),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        trust in any::<bool>(),
    ) {
        let mut bytes = encoded(&sizes.iter().map(|&(meta, bulk)| frame(1, meta, bulk)).collect::<Vec<_>>());
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.extend(noise);
        let env = Rc::new(NetEnv::new(64 << 20));
        let mut reader = FrameReader::new(env.clone());
        if trust {
            reader.trust(BufferClass::ClientRequest, None);
        }
        let (frames, reason) = read_all(&mut reader, &mut script(bytes, &[997]));
        prop_assert!(matches!(reason, NetError::Closed | NetError::Protocol(_) | NetError::WrongVersion(_)));
        drop((frames, reader));
        prop_assert_eq!(env.pool.stats().used, 0);
    }
}

#[test]
fn a_byte_at_a_time_is_enough() {
    let sent = [frame(1, 0, 0), frame(2, 100, 20_000), frame(3, 20_000, 3), frame(4, 1, 0)];
    let (mut reader, _) = trusted();
    assert_eq!(read_all(&mut reader, &mut script(encoded(&sent), &[1])).0, sent);
}

#[test]
fn the_largest_frame_arrives() {
    let sent = [frame(1, META_MAX as usize, BULK_MAX as usize), frame(2, 10, 10)];
    let (mut reader, env) = trusted();
    let (received, _) = read_all(&mut reader, &mut script(encoded(&sent), &[1 << 20]));
    assert!(received == sent);
    assert_eq!(env.pool.stats().used, u64::from(BULK_MAX));
    assert!(reader.buffer.capacity() <= 4 * READ_BUFFER_BYTES, "the grown read buffer is kept");
}

#[test]
fn many_small_frames_come_with_one_read() {
    let sent: Vec<_> = (0..500).map(|tag| frame(tag, 20, 0)).collect();
    let (mut reader, env) = trusted();
    assert!(read_all(&mut reader, &mut script(encoded(&sent), &[1 << 20])).0 == sent);
    assert!(NetCounters::read(&env.counters.read_calls) <= 3);
}

/// A large bulk part is read in place: at most what came with its header is copied.
#[test]
fn large_parts_are_not_copied() {
    let sent: Vec<_> = (0..8).map(|tag| frame(tag, 40, 1 << 20)).collect();
    let (mut reader, env) = trusted();
    assert!(read_all(&mut reader, &mut script(encoded(&sent), &[1 << 20])).0 == sent);
    let copied = NetCounters::read(&env.counters.copied_bytes) as usize;
    assert!(copied <= READ_BUFFER_BYTES + 8 * HEAD_READ_BYTES, "{copied} bytes were copied");
}

#[test]
fn a_stranger_gets_no_memory() {
    let env = Rc::new(NetEnv::new(64 << 20));
    for (meta, bulk) in [(STRANGER_BYTES + 1, 0), (0, 1), (0, 1 << 20)] {
        let mut reader = FrameReader::new(env.clone());
        let bytes = encoded(&[frame(1, meta, bulk)]);
        let (frames, reason) = read_all(&mut reader, &mut script(bytes, &[64]));
        assert!(frames.is_empty() && reason.to_string().contains("above the limit"), "{reason}");
        assert!(reader.buffer.capacity() <= 2 * STRANGER_BYTES);
    }
    assert_eq!(env.pool.stats().peak, 0);
}

#[test]
fn bad_headers_are_told_apart() {
    let resigned = |change: fn(&mut [u8; HEADER_BYTES])| {
        let mut raw = frame(1, 0, 0).header.encode();
        change(&mut raw);
        let sum = fs_proto::checksum::crc(&raw[..60]);
        raw[60..].copy_from_slice(&sum.to_le_bytes());
        raw.to_vec()
    };
    let reason = |bytes: Vec<u8>| read_all(&mut trusted().0, &mut script(bytes, &[1 << 20])).1;
    let damaged = |at: usize| {
        let mut raw = frame(1, 0, 0).header.encode().to_vec();
        raw[at] ^= 1;
        raw
    };
    assert!(reason(damaged(0)).to_string().contains("bad magic"));
    assert!(reason(damaged(20)).to_string().contains("checksum"));
    assert!(
        reason(resigned(|raw| raw[40..44].copy_from_slice(&u32::MAX.to_le_bytes())))
            .to_string()
            .contains("above the limit")
    );
    assert!(
        reason(resigned(|raw| raw[44..48].copy_from_slice(&(BULK_MAX + 1).to_le_bytes())))
            .to_string()
            .contains("above the limit")
    );
    assert!(
        matches!(reason(resigned(|raw| raw[4] = 99)), NetError::WrongVersion(text) if text.contains("99"))
    );
    assert!(matches!(reason(resigned(|raw| raw[6] = 250)), NetError::Protocol(_)));
}

/// Goal: back-pressure. Method: an exhausted pool; the reader must not read on, and go on when a buffer is back.
#[test]
fn an_exhausted_pool_stops_reading() {
    let env = Rc::new(NetEnv::new(16 << 20));
    let mut reader = FrameReader::new(env.clone());
    reader.trust(BufferClass::PeerRequest, None);
    let sent = [frame(1, 10, 1 << 20), frame(2, 10, 1 << 20)];
    let mut stream = script(encoded(&sent), &[1 << 20]);
    let whole = env.pool.try_get(16 << 20).expect("room");
    let mut frames = VecDeque::new();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(reader.poll_frames(&mut cx, &mut stream, &mut frames).is_pending());
    let reads = stream.reads;
    assert!(reader.poll_frames(&mut cx, &mut stream, &mut frames).is_pending());
    assert_eq!((stream.reads, frames.len(), env.pool.stats().waits), (reads, 0, 1));
    drop(whole);
    assert!(read_all(&mut reader, &mut stream).0 == sent);
}
