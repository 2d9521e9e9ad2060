//! Objects that single servers keep outside of the namespace, and chunks of a known server. Nothing here needs another server.

use std::time::Duration;

use bytes::Bytes;
use fs_proto::checksum::crc;
use fs_proto::msg::chunk::{SyncChunks, WriteChunk};
use fs_proto::msg::vault::{VaultDrop, VaultList, VaultPut};
use fs_proto::{InodeId, Layout, ServerId};

use super::Core;
use super::call::Patience;
use super::data::WINDOW;
use super::inodes::FAN_OUT;
use crate::client::{Kept, Spot};
use crate::error::{Error, Result};
use crate::router::Target;
use crate::stripe::{Piece, pieces};
use crate::window;

/// How long a server may take to answer a read, unless the client has less time: what it keeps is a copy, and there are others.
const ANSWER_TIME: Duration = Duration::from_secs(10);

impl Core {
    /// See [`crate::Client::vault_put`].
    pub async fn vault_put(&self, server: ServerId, key: Bytes, value: Bytes) -> Result<InodeId> {
        self.ask(&self.caller, Target::Server(server), &VaultPut { key, value }).await
    }

    /// See [`crate::Client::vault_list`].
    pub async fn vault_list(&self, server: ServerId, prefix: Bytes) -> Result<Kept> {
        let (mut objects, mut after) = (Vec::new(), Bytes::new());
        loop {
            let request = VaultList { prefix: prefix.clone(), after };
            let target = Target::Server(server);
            let answer =
                self.exchange(&self.caller, target, &request, Bytes::new(), self.patience_once(ANSWER_TIME));
            let page = answer.await?.body;
            objects.extend(page.objects);
            match objects.last() {
                Some(last) if !page.end => after = last.key.clone(),
                _ => return Ok((page.store, objects)),
            }
        }
    }

    /// See [`crate::Client::write_spot`].
    pub async fn write_spot(&self, spot: Spot, data: &[u8], offset: u64) -> Result<()> {
        let sent = pieces(Layout::default(), offset, data.len(), self.piece_bytes);
        let sent = sent.map(|piece| self.write_spot_piece(spot, piece, &data[piece.range()]));
        window::each(sent, WINDOW, drop).await
    }

    async fn write_spot_piece(&self, spot: Spot, piece: Piece, data: &[u8]) -> Result<()> {
        let target = Target::Server(spot.server);
        // No file has these chunks, so nobody asks how far it was written.
        let (ino, chunk, offset) = (spot.ino, piece.chunk, piece.offset);
        let request = WriteChunk { ino, chunk, offset, file_end: 0, since: 0, crc: crc(data) };
        let bulk = self.copied(target, data).await?;
        self.exchange(&self.caller, target, &request, bulk, self.patience()).await.map(drop)
    }

    /// See [`crate::Client::read_spot`].
    pub async fn read_spot(&self, spot: Spot, buf: &mut [u8], offset: u64) -> Result<()> {
        let asked = pieces(Layout::default(), offset, buf.len(), self.piece_bytes);
        let asked = asked.map(async |piece| Ok((piece, self.read_spot_piece(spot, piece).await?)));
        window::each(asked, WINDOW, |(piece, bytes): (Piece, Bytes)| {
            let part = &mut buf[piece.range()];
            part[..bytes.len()].copy_from_slice(&bytes);
            part[bytes.len()..].fill(0);
        })
        .await
    }

    async fn read_spot_piece(&self, spot: Spot, piece: Piece) -> Result<Bytes> {
        let (ino, target, patience) =
            (spot.ino, Target::Server(spot.server), self.patience_once(ANSWER_TIME));
        let server = match self.read_chunk(&self.caller, target, (ino, piece), patience).await? {
            Ok(answer) if answer.bulk.len() <= piece.len as usize => return Ok(answer.bulk),
            Ok(answer) => answer.server,
            Err(server) => server,
        };
        Err(Error::Corrupt { ino, offset: u64::from(piece.offset), server })
    }

    /// See [`crate::Client::write_spots`].
    pub async fn write_spots(&self, parts: &[(Spot, &[u8], u64)]) -> Result<()> {
        let sent = parts.iter().map(|(spot, data, offset)| self.write_spot(*spot, data, *offset));
        window::each(sent, WINDOW, drop).await
    }

    /// See [`crate::Client::read_spots`].
    pub async fn read_spots(&self, parts: &mut [(Spot, &mut [u8], u64)]) -> Vec<Result<()>> {
        let asked = parts.iter_mut().map(|(spot, buf, offset)| self.read_spot(*spot, buf, *offset));
        window::all(asked, WINDOW).await
    }

    /// See [`crate::Client::vault_list_all`].
    pub async fn vault_list_all(&self, prefix: Bytes) -> Vec<(ServerId, Result<Kept>)> {
        let view = self.shared().view();
        let asked = view.stores().iter().map(|server| {
            let prefix = prefix.clone();
            async move { (*server, self.vault_list(*server, prefix).await) }
        });
        window::all(asked, FAN_OUT).await
    }

    /// See [`crate::Client::vault_drop_all`].
    pub async fn vault_drop_all(&self, prefix: Bytes) -> Result<()> {
        let view = self.shared().view();
        let asked = view.stores().iter().map(|server| self.vault_drop(*server, prefix.clone()));
        window::all(asked, FAN_OUT).await.into_iter().collect()
    }

    /// Removes a server's objects, however many requests that takes.
    async fn vault_drop(&self, server: ServerId, prefix: Bytes) -> Result<()> {
        let request = VaultDrop { prefix };
        loop {
            // A server that starts again is waited for a little: what stays is found by nobody before the next removal.
            let patience = Patience::up_to(ANSWER_TIME.min(self.insists_for.get()));
            let target = Target::Server(server);
            if self.exchange(&self.caller, target, &request, Bytes::new(), patience).await?.body {
                return Ok(());
            }
        }
    }

    /// See [`crate::Client::near`].
    pub fn near(&self) -> Vec<ServerId> {
        let view = self.shared().view();
        view.stores().iter().copied().filter(|server| view.is_near(*server)).collect()
    }

    /// See [`crate::Client::sync_spot`].
    pub async fn sync_spot(&self, spot: Spot) -> Result<()> {
        self.ask(&self.caller, Target::Server(spot.server), &SyncChunks { ino: spot.ino }).await
    }

    /// See [`crate::Client::stores`].
    pub fn stores(&self) -> Vec<ServerId> {
        self.shared().view().stores().to_vec()
    }
}
