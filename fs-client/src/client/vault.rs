//! Objects that single servers keep outside of the namespace: what must be found when another server is lost.

use bytes::Bytes;
use fs_proto::msg::vault::VaultObject;
use fs_proto::{InodeId, ServerId};

use super::Client;
use crate::error::Result;

/// Chunks of 1 MiB at one server, of an object or of a file in layout `local`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    /// Who has them.
    pub server: ServerId,
    /// Under which number.
    pub ino: InodeId,
}

/// The number of a server's store, and objects that it keeps.
pub type Kept = (u64, Vec<VaultObject>);

impl Client {
    /// The servers that keep data.
    pub fn stores(&self) -> Result<Vec<ServerId>> {
        self.run(async |core| Ok(core.stores()))
    }

    /// Makes a server keep an object of up to 1,024 bytes of key, which is text, and 4 KiB of value; answers the number of its chunks. Of one that is
    /// there the value is replaced.
    pub fn vault_put(&self, server: ServerId, key: &str, value: &[u8]) -> Result<InodeId> {
        let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value));
        self.run(async |core| core.vault_put(server, key, value).await)
    }

    /// The number of a server's store, and its objects whose keys begin so. Asks once: a server that is away is an error at once, or within 10 s (the time-out, if that is shorter).
    pub fn vault_list(&self, server: ServerId, prefix: &str) -> Result<Kept> {
        let prefix = Bytes::copy_from_slice(prefix.as_bytes());
        self.run(async |core| core.vault_list(server, prefix).await)
    }

    /// [`Client::vault_list`] of all servers with a store.
    pub fn vault_list_all(&self, prefix: &str) -> Result<Vec<(ServerId, Result<Kept>)>> {
        let prefix = Bytes::copy_from_slice(prefix.as_bytes());
        self.run(async |core| Ok(core.vault_list_all(prefix).await))
    }

    /// Removes the objects of all servers whose keys begin so, with their chunks. Fails if a server is away, after all others were asked.
    pub fn vault_drop_all(&self, prefix: &str) -> Result<()> {
        let prefix = Bytes::copy_from_slice(prefix.as_bytes());
        self.run(async |core| core.vault_drop_all(prefix).await)
    }

    /// [`Client::write_spot`] of several at once.
    pub fn write_spots(&self, parts: &[(Spot, &[u8], u64)]) -> Result<()> {
        self.run(async |core| core.write_spots(parts).await)
    }

    /// [`Client::read_spot`] of several at once: how each ended, in their order.
    pub fn read_spots(&self, parts: &mut [(Spot, &mut [u8], u64)]) -> Result<Vec<Result<()>>> {
        self.run(async |core| Ok(core.read_spots(parts).await))
    }

    /// The servers with a store on this node, or the one that everything goes through.
    pub fn near(&self) -> Result<Vec<ServerId>> {
        self.run(async |core| Ok(core.near()))
    }

    /// Writes into an object. The bytes are at the server when this returns.
    pub fn write_spot(&self, spot: Spot, data: &[u8], offset: u64) -> Result<()> {
        self.run(async |core| core.write_spot(spot, data, offset).await)
    }

    /// Reads from an object, or a file in layout `local` that lies in chunks of 1 MiB; zeros where nothing is. Asks once, as [`Client::vault_list`].
    pub fn read_spot(&self, spot: Spot, buf: &mut [u8], offset: u64) -> Result<()> {
        self.run(async |core| core.read_spot(spot, buf, offset).await)
    }

    /// Makes what was written at a server durable.
    pub fn sync_spot(&self, spot: Spot) -> Result<()> {
        self.run(async |core| core.sync_spot(spot).await)
    }
}
