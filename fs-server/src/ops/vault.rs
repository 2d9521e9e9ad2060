//! Objects outside of the namespace: kept, listed, removed. Their bytes come and go as chunks.

use std::rc::Rc;

use fs_proto::msg::vault::{VAULT_KEY_MAX, VAULT_VALUE_MAX, VaultDrop, VaultList, VaultPage, VaultPut};
use fs_proto::placement::{entry_partition, name_hash};
use fs_proto::{InodeId, Status};

use crate::error::{OpError, OpResult};
use crate::store::ChunkStore;
use crate::worker::{Context, Worker};

/// Objects of one page, or removed at once.
const PAGE: usize = 128;
/// Pages that one request removes: it must be answered before it is given up.
const PAGES: usize = 16;

/// Keeps an object. It survives what a synced write survives.
pub async fn put(worker: &Rc<Worker>, context: &Context, request: VaultPut) -> OpResult<InodeId> {
    let VaultPut { key, value } = request;
    if !(1..=VAULT_KEY_MAX).contains(&key.len()) || value.len() > VAULT_VALUE_MAX || key.contains(&u8::MAX) {
        return Err(OpError::new(Status::Invalid, "no such key or value can be kept"));
    }
    let namespace = &worker.node.namespace;
    // Any partition will do: no name ever leads there.
    let partition = entry_partition(InodeId::ROOT, name_hash(InodeId::ROOT, &key), true);
    let number = || namespace.allocator().inode(partition);
    let ino = worker.node.vault.put(&**namespace.kv(), &context.caller, &key, value, number)?;
    if worker.node.syncs_device() {
        crate::sync::group_sync(&worker.node).await?;
    }
    Ok(ino)
}

/// A page of objects.
pub async fn list(worker: &Rc<Worker>, _: &Context, request: VaultList) -> OpResult<VaultPage> {
    let (kv, vault) = (&**worker.node.namespace.kv(), &worker.node.vault);
    let store = vault.store(kv)?;
    if !vault.is_settled() {
        if worker.node.syncs_device() {
            crate::sync::group_sync(&worker.node).await?;
        }
        vault.settle();
    }
    let found = vault.list(kv, &request.prefix, &request.after, PAGE)?;
    let end = found.len() < PAGE;
    let objects = found.into_iter().map(|(_, object)| object).collect();
    Ok(VaultPage { store, objects, end })
}

/// Removes objects, some thousands; answers whether there are none left. The chunks go first: an object without chunks is found again, chunks without an
/// object would not be.
pub async fn remove(worker: &Rc<Worker>, context: &Context, request: VaultDrop) -> OpResult<bool> {
    if request.prefix.is_empty() {
        return Err(OpError::new(Status::Invalid, "all objects are not removed at once"));
    }
    let (kv, vault) = (&**worker.node.namespace.kv(), &worker.node.vault);
    for _ in 0..PAGES {
        let some = vault.list(kv, &request.prefix, b"", PAGE)?;
        if some.is_empty() {
            return Ok(true);
        }
        vault.check(&context.caller, &some)?;
        let inos: Vec<InodeId> = some.iter().map(|(_, object)| object.ino).collect();
        for ino in &inos {
            worker.node.backing.evictor().dirty().note_copy(*ino);
        }
        worker.node.store.remove(&inos)?;
        vault.forget(kv, &context.caller, &some)?;
        // Others have their turn between two pages.
        tokio::task::yield_now().await;
    }
    Ok(false)
}
