//! Layouts as users give and see them: `striped`, `local` or `writer`, and maybe `,chunk=4M`.

use crate::attr::{CHUNK_LOG2, Layout, Placement};
use crate::wire::wire_struct;

/// The extended attribute that shows and sets the layout of a file, or of what is made in a directory.
pub const LAYOUT_ATTRIBUTE: &[u8] = b"user.hayate.layout";

wire_struct! {
    /// What somebody wants of a layout; what is absent is left to the directory and to Hayate.
    #[derive(Copy, Default)]
    pub struct LayoutWish {
        /// Where chunks go.
        pub placement: Option<Placement>,
        /// Chunk size as a power of two, within [`CHUNK_LOG2`].
        pub chunk_log2: Option<u8>,
        /// Bytes that the file is expected to get, for the chunk size; 0 if nothing is known.
        pub expected_bytes: u64,
    }
}

/// Why a text is not a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a layout is striped, local or writer, and maybe a chunk size that is a power of two from 64K to 16M, as in local,chunk=4M"
)]
pub struct NotALayout;

impl LayoutWish {
    /// What a text asks for. A chunk size that is not named is left to Hayate.
    ///
    /// # Errors
    /// [`NotALayout`].
    pub fn parse(text: &[u8]) -> Result<LayoutWish, NotALayout> {
        let text = std::str::from_utf8(text).map_err(|_| NotALayout)?;
        let (placement, chunk) = match text.split_once(',') {
            Some((placement, chunk)) => (placement, Some(chunk)),
            None => (text, None),
        };
        let placement = match placement {
            "striped" => Placement::Striped,
            "local" => Placement::Local(None),
            "writer" => Placement::Writer,
            _ => return Err(NotALayout),
        };
        let chunk_log2 = chunk.map(parse_chunk).transpose()?;
        Ok(LayoutWish { placement: Some(placement), chunk_log2, expected_bytes: 0 })
    }

    /// Whether the chunk size is one that there can be.
    pub fn is_possible(&self) -> bool {
        self.chunk_log2.is_none_or(|log2| CHUNK_LOG2.contains(&log2))
    }

    /// The layout that becomes of `layout`. With a placement the wish is for a whole layout, so a chunk size that was given before goes.
    pub fn applied(&self, layout: Layout) -> Layout {
        let base = match self.placement {
            Some(placement) => Layout { placement, ..Layout::default() },
            None => layout,
        };
        match self.chunk_log2 {
            Some(chunk_log2) => Layout { chunk_log2, given: true, ..base },
            None if self.expected_bytes > 0 => base.sized_for(self.expected_bytes),
            None => base,
        }
    }
}

fn parse_chunk(text: &str) -> Result<u8, NotALayout> {
    let size = text.strip_prefix("chunk=").ok_or(NotALayout)?;
    let (digits, unit) = match size.as_bytes().last() {
        Some(b'K') => (&size[..size.len() - 1], 1 << 10),
        Some(b'M') => (&size[..size.len() - 1], 1 << 20),
        _ => (size, 1),
    };
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(NotALayout);
    }
    let bytes = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit)).ok_or(NotALayout)?;
    let log2 = bytes.checked_ilog2().filter(|_| bytes.is_power_of_two()).ok_or(NotALayout)? as u8;
    if CHUNK_LOG2.contains(&log2) { Ok(log2) } else { Err(NotALayout) }
}

/// The text of a layout, which gives the same layout again; with `sized` it names the chunk size also if that was not asked for.
pub fn layout_text(layout: Layout, sized: bool) -> String {
    let name = layout.placement.name();
    if !layout.given && !sized {
        return name.to_owned();
    }
    match layout.chunk_bytes() {
        bytes if bytes >= 1 << 20 => format!("{name},chunk={}M", bytes >> 20),
        bytes => format!("{name},chunk={}K", bytes >> 10),
    }
}

#[cfg(test)]
mod tests {
    //! Goal: what is shown can be set, and nothing else can. Method: all layouts there and back; texts that are none.
    use super::*;

    #[test]
    fn what_is_shown_can_be_set() {
        for placement in [Placement::Striped, Placement::Local(None), Placement::Writer] {
            for chunk_log2 in CHUNK_LOG2 {
                let layout = Layout { placement, chunk_log2, given: true };
                let wish = LayoutWish::parse(layout_text(layout, false).as_bytes()).expect("a layout");
                assert_eq!(wish.applied(Layout::default()), layout);
            }
            let layout = Layout { placement, ..Layout::default() };
            let wish = LayoutWish::parse(layout_text(layout, false).as_bytes()).expect("a layout");
            assert_eq!(wish.applied(Layout { chunk_log2: 22, given: true, ..layout }), layout);
        }
        assert_eq!(layout_text(Layout::default(), true), "striped,chunk=1M");
    }

    #[test]
    fn other_texts_are_refused() {
        let texts: &[&[u8]] = &[
            b"",
            b"Local",
            b"local,",
            b"local,chunk=",
            b"local,chunk=3M",
            b"local,chunk=32K",
            b"local,chunk=32M",
            b"local,chunk=+1M",
            b"local,chunk=1M,chunk=1M",
            b"striped,size=1M",
            b"local,chunk=99999999999999999999M",
            b"local,chunk=18014398509481984K",
            b"local\0",
            b"\xff",
            b"writer,chunk=0",
        ];
        for text in texts {
            assert_eq!(LayoutWish::parse(text), Err(NotALayout), "{}", String::from_utf8_lossy(text));
        }
        assert_eq!(LayoutWish::parse(b"writer,chunk=65536").expect("bytes").chunk_log2, Some(16));
    }

    #[test]
    fn chunks_grow_with_what_is_expected() {
        let sized = |bytes| Layout::default().sized_for(bytes).chunk_log2;
        assert_eq!([0, 1, 1 << 20, 4 << 30].map(sized), [20; 4]);
        assert_eq!([(4 << 30) + 1, 8 << 30, 64 << 30, u64::MAX >> 1].map(sized), [21, 21, 24, 24]);
        let given = Layout { chunk_log2: 16, given: true, ..Layout::default() };
        assert_eq!(given.sized_for(1 << 40), given);
    }

    #[test]
    fn a_local_file_without_a_node_is_striped() {
        let local = Placement::Local(None);
        assert_eq!(local.settled(None), Placement::Striped);
        assert_eq!(local.settled(Some(crate::ServerId(3))), Placement::Local(Some(crate::ServerId(3))));
        assert_eq!(Placement::Writer.settled(None), Placement::Writer);
    }
}
