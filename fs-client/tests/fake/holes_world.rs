//! Holes of the fake file system: a chunk's data are its bytes that are not zero.

use fs_proto::msg::chunk::{ChunkMap, ChunkMapPage, ChunkRanges, PunchChunk};
use fs_proto::msg::small::{InlineWritten, PunchInline};
use fs_proto::placement::chunk_partition;
use fs_proto::{ChunkIndex, Flags, Header, ServerId, Wire};

use super::{Answer, World};

/// Chunks in one answer: few, so that there are several.
const PAGE: usize = 6;

impl World {
    pub fn punch_chunk(&mut self, header: &Header, request: &PunchChunk) {
        assert_eq!(header.target, chunk_partition(request.ino, request.chunk).0);
        assert!(request.len > 0 && request.offset + request.len <= 1 << self.chunk_log2);
        if let Some(data) = self.chunks.get_mut(&(request.ino, request.chunk.0)) {
            let end = data.len().min((request.offset + request.len) as usize);
            data[(request.offset as usize).min(end)..end].fill(0);
        }
    }

    pub fn chunk_ranges(&self, header: &Header, request: &ChunkRanges) -> Vec<(u32, u32)> {
        assert_eq!(header.target, chunk_partition(request.ino, request.chunk).0);
        self.chunks.get(&(request.ino, request.chunk.0)).map(|data| data_of(data)).unwrap_or_default()
    }

    pub fn chunk_map(&self, header: &Header, server: ServerId, request: &ChunkMap) -> ChunkMapPage {
        assert!(header.flags.has(Flags::TO_SERVER));
        let here = |chunk: u64| {
            self.map.owner(chunk_partition(request.ino, ChunkIndex(chunk))) == server
                && chunk >= request.from.0
        };
        let mut chunks: Vec<(ChunkIndex, Vec<(u32, u32)>)> = self
            .chunks
            .iter()
            .filter(|((ino, chunk), _)| *ino == request.ino && here(*chunk))
            .map(|((_, chunk), data)| (ChunkIndex(*chunk), data_of(data)))
            .filter(|(_, data)| !data.is_empty())
            .collect();
        chunks.sort_unstable();
        let end = chunks.len() <= PAGE.min(request.limit as usize);
        chunks.truncate(PAGE.min(request.limit as usize));
        ChunkMapPage { chunks, end }
    }

    pub fn punch_inline(&mut self, header: &Header, request: &PunchInline) -> Answer {
        let limit = self.inline_limit;
        let attr = self.home(header, request.ino)?;
        let written = attr.inline;
        if written {
            attr.mtime = request.mtime;
            attr.version += 1;
        }
        let attr = attr.clone();
        if let Some(content) = self.contents.get_mut(&request.ino) {
            let end = content.len().min((request.offset + request.len) as usize);
            content[(request.offset as usize).min(end)..end].fill(0);
        }
        Ok(InlineWritten { attr, written, limit }.to_bytes())
    }
}

fn data_of(data: &[u8]) -> Vec<(u32, u32)> {
    let (mut ranges, mut at) = (Vec::new(), 0);
    while let Some(begin) = data[at..].iter().position(|byte| *byte != 0).map(|begin| at + begin) {
        at = data[begin..].iter().position(|byte| *byte == 0).map_or(data.len(), |len| begin + len);
        ranges.push((begin as u32, at as u32));
    }
    ranges
}
