//! What an operator asks: state, space, end.

use std::os::unix::fs::MetadataExt;
use std::rc::Rc;

use fs_proto::InodeId;
use fs_proto::msg::admin::{ServerStatus, Shutdown, ShutdownMode};
use fs_proto::msg::inode::{Space, Statfs};
use fs_proto::msg::session::Ping;
use fs_proto::placement::name_hash;

use crate::error::OpResult;
use crate::metrics;
use crate::node::Node;
use crate::store::ChunkStore;
use crate::worker::{Context, Worker};

/// The server's state as JSON.
#[allow(clippy::unused_async)] // One signature for all operations.
pub async fn server_status(worker: &Rc<Worker>, _: &Context, _: ServerStatus) -> OpResult<String> {
    Ok(metrics::status_json(&worker.node))
}

/// Space of this server's store.
#[allow(clippy::unused_async)]
pub async fn statfs(worker: &Rc<Worker>, _: &Context, _: Statfs) -> OpResult<Space> {
    let stats = worker.node.store.stats();
    let inodes = worker.node.namespace.inode_count();
    let (total_bytes, free_bytes) = (stats.total_bytes, stats.free_bytes);
    Ok(Space { total_bytes, free_bytes, inodes, device: device(&worker.node) })
}

/// Ends the server after this answer has left.
#[allow(clippy::unused_async)]
pub async fn shutdown(worker: &Rc<Worker>, context: &Context, request: Shutdown) -> OpResult<()> {
    tracing::info!(client = ?context.client(), mode = ?request.mode, "asked to end");
    worker.node.request_stop(request.mode == ShutdownMode::Discard);
    Ok(())
}

/// Answers.
#[allow(clippy::unused_async)]
pub async fn ping(_: &Rc<Worker>, _: &Context, _: Ping) -> OpResult<()> {
    Ok(())
}

/// The file system of the store, told apart from those of other hosts.
fn device(node: &Node) -> u64 {
    let number =
        node.store_dirs().first().and_then(|dir| std::fs::metadata(dir).ok()).map_or(0, |meta| meta.dev());
    name_hash(InodeId(number), fs_net::host_name().as_bytes())
}
