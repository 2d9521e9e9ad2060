//! A list of changes that is committed as one: two allocations, whatever its length.

/// One change of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// Set `key` to `value`.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
    },
    /// Remove `key`; it need not exist.
    Delete {
        /// The key.
        key: &'a [u8],
    },
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    key_end: usize,
    value_end: usize,
    is_delete: bool,
}

/// Changes in the order in which they apply. Keys and values lie in one buffer.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Batch::default()
    }

    /// An empty batch with room for `changes` changes of `bytes` bytes together.
    pub(super) fn with_capacity(changes: usize, bytes: usize) -> Self {
        Batch { bytes: Vec::with_capacity(bytes + 4 * changes), slots: Vec::with_capacity(changes) }
    }

    /// Sets `key` to `value`, followed by what `check` says of the two.
    pub(super) fn put_checked(&mut self, key: &[u8], value: &[u8], check: impl Fn(&[u8], &[u8]) -> [u8; 4]) {
        let check = check(key, value);
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(&check);
        self.slots.push(Slot { key_end, value_end: self.bytes.len(), is_delete: false });
    }

    /// Appends all of `other`, its values followed by what `check` says of them.
    pub(super) fn append_checked(&mut self, other: &Batch, check: impl Fn(&[u8], &[u8]) -> [u8; 4]) {
        for change in other.changes() {
            match change {
                Change::Put { key, value } => self.put_checked(key, value, &check),
                Change::Delete { key } => self.delete(key),
            }
        }
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.push(key.as_ref(), value.as_ref(), false);
    }

    /// Removes `key`; it need not exist.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) {
        self.push(key.as_ref(), &[], true);
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of all keys and values.
    pub fn payload_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets the changes and keeps the buffers for the next use.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.slots.clear();
    }

    /// The changes in order.
    pub fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        let mut at = 0;
        self.slots.iter().map(move |slot| {
            let key = &self.bytes[at..slot.key_end];
            let value = &self.bytes[slot.key_end..slot.value_end];
            at = slot.value_end;
            if slot.is_delete { Change::Delete { key } } else { Change::Put { key, value } }
        })
    }

    fn push(&mut self, key: &[u8], value: &[u8], is_delete: bool) {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.slots.push(Slot { key_end, value_end: self.bytes.len(), is_delete });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_back_in_order() {
        // Goal: what goes in comes out, with empty values and deletes told apart; a cleared batch starts anew.
        let mut batch = Batch::new();
        batch.put(b"a", b"1");
        batch.delete(b"bb");
        batch.put(b"c", b"");
        let want = [
            Change::Put { key: b"a", value: b"1" },
            Change::Delete { key: b"bb" },
            Change::Put { key: b"c", value: b"" },
        ];
        assert_eq!(batch.changes().collect::<Vec<_>>(), want);
        assert_eq!((batch.len(), batch.payload_bytes()), (3, 5));
        batch.clear();
        batch.put(b"z", b"26");
        assert_eq!(batch.changes().collect::<Vec<_>>(), [Change::Put { key: b"z", value: b"26" }]);
    }
}
