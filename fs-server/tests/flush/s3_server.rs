//! An S3 server in this process: s3s-fs on a temporary directory.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use fs_server::ServerConfig;
use fs_server::tier::s3::S3;
use fs_server::tier::s3::client::Client;
use fs_server::tier::s3::target::Target;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rusty_s3::Credentials;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::sync::{oneshot, watch};

const KEY: &str = "a-key";
const SECRET: &str = "a-secret";
const BUCKET: &str = "bucket";

/// The server; ends when dropped.
pub struct S3Server {
    dir: tempfile::TempDir,
    address: SocketAddr,
    faults: Faults,
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl S3Server {
    /// Starts one with one bucket.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(BUCKET)).unwrap();
        let root = dir.path().to_owned();
        let faults = Faults::default();
        faults.copies.store(i64::MAX, Ordering::SeqCst);
        let obeyed = faults.clone();
        let mut server = S3Server::serving(dir, move |listener| serve(listener, root, obeyed));
        server.faults = faults;
        server
    }

    /// One that answers as `serve` does.
    pub fn serving<F: Future<Output = ()>>(
        dir: tempfile::TempDir,
        serve: impl FnOnce(std::net::TcpListener) -> F + Send + 'static,
    ) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ended) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener) => {}
                    _ = ended => {}
                }
            });
        });
        S3Server { dir, address, faults: Faults::default(), end: Some(end), thread: Some(thread) }
    }

    /// Copies of objects fail after the next `count`, on one that [`S3Server::start`] made.
    pub fn allow_copies(&self, count: i64) {
        self.faults.copies.store(count, Ordering::SeqCst);
    }

    /// From now on everything is refused, or nothing, on one that [`S3Server::start`] made.
    pub fn go_away(&self, is_away: bool) {
        self.faults.is_away.store(is_away, Ordering::SeqCst);
    }

    /// From now on requests are taken and nothing is answered, or everything is, on one that [`S3Server::start`] made.
    pub fn hang(&self, hangs: bool) {
        self.faults.hangs.send_replace(hangs);
    }

    fn target(&self) -> Target {
        Target {
            bucket: BUCKET.to_owned(),
            prefix: "run/".to_owned(),
            endpoint: format!("http://{}", self.address),
            region: "us-east-1".to_owned(),
            by_path: true,
        }
    }

    /// A client of the bucket.
    pub fn client(&self) -> Client {
        Client::new(&self.target()).unwrap().with_credentials(Credentials::new(KEY, SECRET))
    }

    /// What programs need to find it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.target().endpoint),
            ("AWS_REGION", self.target().region),
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ]
    }

    /// The adapter of a server.
    pub fn tier(&self, config: &ServerConfig) -> S3 {
        S3::open("s3://bucket/run".as_ref(), self.client(), self.target(), config).unwrap()
    }

    /// The adapter of a server that moves away from it, and what it is known by.
    pub fn old_tier(&self, config: &ServerConfig) -> (S3, u64) {
        (S3::reading(self.client(), self.target(), config), self.target().number())
    }

    /// All keys below the prefix, without it.
    pub fn keys(&self) -> Vec<String> {
        let all = self.client().list("run/", "", 1_000).unwrap();
        all.into_iter().map(|(key, _)| key["run/".len()..].to_owned()).collect()
    }

    /// Files that the server keeps for uploads which are not complete.
    pub fn open_uploads(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(".upload")).collect()
    }
}

/// What a test may do to a server.
#[derive(Clone, Default)]
struct Faults {
    /// Copies that are made yet; all after them are refused.
    copies: Arc<AtomicI64>,
    is_away: Arc<AtomicBool>,
    hangs: Arc<watch::Sender<bool>>,
}

async fn serve(listener: std::net::TcpListener, root: PathBuf, faults: Faults) {
    let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
    service.set_auth(SimpleAuth::from_single(KEY, SECRET));
    let service = service.build().into_shared();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let socket = accept(&listener).await;
        let (service, faults) = (service.clone(), faults.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let is_copy = request.headers().contains_key("x-amz-copy-source");
            let is_refused = is_copy && faults.copies.fetch_sub(1, Ordering::SeqCst) <= 0
                || faults.is_away.load(Ordering::SeqCst);
            let answer = (!is_refused).then(|| service.call(request));
            let mut hangs = faults.hangs.subscribe();
            async move {
                // The test has ended, if this fails.
                let _ = hangs.wait_for(|hangs| !hangs).await;
                let Some(answer) = answer else {
                    let mut refused = Response::new(Body::empty());
                    *refused.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                    return Ok(refused);
                };
                answer.await
            }
        });
        tokio::spawn(async move {
            // A client that goes away is no fault.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

/// The next client, whose answers are sent as they are written: of heads and bodies in two packets the second would wait 40 ms for the first to be acknowledged.
pub async fn accept(listener: &tokio::net::TcpListener) -> tokio::net::TcpStream {
    let (socket, _) = listener.accept().await.unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

impl Drop for S3Server {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
