//! Work that may outlive the request that it came from: carried out on a thread of its own. The thread of a request may stop driving its tasks as
//! soon as that is answered (`inside.rs`), or give up waiting, and others wait for what such work claims.
//!
//! # Invariants
//! - An errand that was begun runs to its end, whatever becomes of who waits for it: it is a task of the errands' thread.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::worker::Worker;

type Errand = Box<dyn FnOnce(Rc<Worker>) + Send>;

/// Errands of one server.
pub struct Errands {
    sender: mpsc::UnboundedSender<Errand>,
    receiver: Mutex<Option<mpsc::UnboundedReceiver<Errand>>>,
}

impl Default for Errands {
    fn default() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Errands { sender, receiver: Mutex::new(Some(receiver)) }
    }
}

impl Errands {
    /// Has `errand` carried out. After the server's end nothing is.
    pub fn send<F: Future<Output = ()> + 'static>(
        &self,
        errand: impl FnOnce(Rc<Worker>) -> F + Send + 'static,
    ) {
        let begin = move |worker| drop(tokio::task::spawn_local(errand(worker)));
        // Only a server that has ended does not receive.
        let _ = self.sender.send(Box::new(begin));
    }

    /// As [`Errands::send`], and waits for the outcome; None if the server ends.
    pub async fn run<R: Send + 'static, F: Future<Output = R> + 'static>(
        &self,
        errand: impl FnOnce(Rc<Worker>) -> F + Send + 'static,
    ) -> Option<R> {
        let (answer, answered) = oneshot::channel();
        self.send(move |worker| async move {
            // Who waited may have given up.
            let _ = answer.send(errand(worker).await);
        });
        answered.await.ok()
    }
}

/// Carries out errands until the server ends.
pub async fn serve(worker: Rc<Worker>) {
    let node = Arc::clone(&worker.node);
    let Some(mut errands) = node.errands.receiver.lock().take() else { return };
    loop {
        tokio::select! {
            errand = errands.recv() => match errand {
                Some(errand) => errand(Rc::clone(&worker)),
                None => return,
            },
            () = node.stopped() => return,
        }
    }
}
