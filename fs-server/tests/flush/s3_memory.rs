//! An S3 server in memory that does what Amazon's does and s3s-fs does not: ETags and times with every answer, what is stored with an object
//! replaced with it, listings by delimiter in pages, copies with other metadata. It can fail and be slow. Signatures are not checked.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use crate::s3_server::{S3Server, accept};

type Answer = Response<Full<Bytes>>;
type Meta = BTreeMap<String, String>;

/// What happens to a request.
pub enum Fate {
    /// It is answered.
    Served,
    /// It is answered after a while.
    After(Duration),
    /// The server says that it is overloaded.
    Refused,
    /// It answers with this status and code.
    Denied(u16, &'static str),
}

#[derive(Clone)]
struct Object {
    data: Bytes,
    meta: Meta,
    tag: String,
    modified: SystemTime,
}

/// What is to be stored with the object, and the parts so far.
type Upload = (Meta, BTreeMap<u32, Bytes>);
type Hook = Box<dyn Fn(&Method, &str) -> Fate + Send + Sync>;

/// The bucket.
#[derive(Default)]
pub struct Bucket {
    objects: Mutex<BTreeMap<String, Object>>,
    uploads: Mutex<BTreeMap<String, Upload>>,
    hook: Mutex<Option<Hook>>,
}

/// Starts one.
pub fn start() -> (S3Server, Arc<Bucket>) {
    let bucket = Arc::new(Bucket::default());
    let served = Arc::clone(&bucket);
    let server = S3Server::serving(tempfile::tempdir().unwrap(), move |listener| serve(listener, served));
    (server, bucket)
}

async fn serve(listener: std::net::TcpListener, bucket: Arc<Bucket>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let socket = accept(&listener).await;
        let bucket = Arc::clone(&bucket);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let bucket = Arc::clone(&bucket);
                async move { Ok::<_, Infallible>(bucket.answer(request).await) }
            });
            // A client that goes away is no fault.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

fn unescape(text: &str) -> String {
    let (mut out, mut bytes) = (Vec::new(), text.bytes());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).unwrap()
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

fn refused(status: StatusCode, code: &str) -> Answer {
    let mut answer = empty(status);
    *answer.body_mut() = Full::from(format!("<Error><Code>{code}</Code></Error>"));
    answer
}

fn xml(text: String) -> Answer {
    Response::new(Full::from(text))
}

fn meta_of(headers: &HeaderMap) -> Meta {
    let all = headers.iter().filter_map(|(name, value)| {
        Some((name.as_str().strip_prefix("x-amz-meta-")?.to_owned(), value.to_str().ok()?.to_owned()))
    });
    all.collect()
}

fn escaped(key: &str) -> String {
    key.replace('&', "&amp;").replace('<', "&lt;")
}

fn object(data: Bytes, meta: Meta, parts: usize) -> Object {
    let suffix = if parts > 0 { format!("-{parts}") } else { String::new() };
    let tag = format!("\"{:016x}{suffix}\"", xxh3_64(&data));
    Object { data, meta, tag, modified: SystemTime::now() }
}

impl Bucket {
    /// Asked before each request, by method and key.
    pub fn hook(&self, hook: impl Fn(&Method, &str) -> Fate + Send + Sync + 'static) {
        *self.hook.lock() = Some(Box::new(hook));
    }

    /// All requests are served from now on.
    pub fn unhook(&self) {
        *self.hook.lock() = None;
    }

    /// An object as other tools make it, below the tier's prefix; `parts` of an upload or 0.
    pub fn put(&self, key: &str, data: &[u8], meta: &[(&str, &str)], parts: usize) {
        let meta = meta.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let object = object(Bytes::copy_from_slice(data), meta, parts);
        self.objects.lock().insert(format!("run/{key}"), object);
    }

    /// The content of an object below the tier's prefix.
    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.objects.lock().get(&format!("run/{key}")).map(|object| object.data.clone())
    }

    /// What is stored with an object below the tier's prefix.
    pub fn meta(&self, key: &str) -> Option<Meta> {
        self.objects.lock().get(&format!("run/{key}")).map(|object| object.meta.clone())
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else { return empty(StatusCode::BAD_REQUEST) };
        let path = unescape(head.uri.path());
        let key = path.strip_prefix("/bucket").unwrap().trim_start_matches('/').to_owned();
        let fate = self.hook.lock().as_ref().map_or(Fate::Served, |hook| hook(&head.method, &key));
        match fate {
            Fate::Served => {}
            Fate::After(time) => tokio::time::sleep(time).await,
            Fate::Refused => return refused(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
            Fate::Denied(status, _) if head.method == Method::HEAD => {
                return empty(StatusCode::from_u16(status).unwrap());
            }
            Fate::Denied(status, code) => return refused(StatusCode::from_u16(status).unwrap(), code),
        }
        let pairs = head.uri.query().unwrap_or_default().split('&');
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let query: BTreeMap<String, String> = pairs.map(|(a, b)| (unescape(a), unescape(b))).collect();
        let body = body.to_bytes();
        match (head.method.as_str(), query.get("uploadId")) {
            ("GET", _) if key.is_empty() => self.list(&query),
            ("GET", Some(upload)) => self.parts(upload),
            ("GET" | "HEAD", _) => self.read(&key, &head.method, &head.headers),
            ("PUT", Some(upload)) => self.put_part(upload, &query, body),
            ("PUT", None) if head.headers.contains_key("x-amz-copy-source") => self.copy(&key, &head.headers),
            ("PUT", None) => {
                if !self.holds(&key, &head.headers) {
                    return refused(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
                }
                self.objects.lock().insert(key, object(body, meta_of(&head.headers), 0));
                empty(StatusCode::OK)
            }
            ("POST", Some(_)) if !self.holds(&key, &head.headers) => {
                refused(StatusCode::PRECONDITION_FAILED, "PreconditionFailed")
            }
            ("POST", Some(upload)) => self.complete(&key, upload),
            ("POST", None) => self.begin(&head.headers),
            ("DELETE", Some(upload)) => {
                self.uploads.lock().remove(upload);
                empty(StatusCode::NO_CONTENT)
            }
            ("DELETE", None) => {
                self.objects.lock().remove(&key);
                empty(StatusCode::NO_CONTENT)
            }
            _ => empty(StatusCode::METHOD_NOT_ALLOWED),
        }
    }

    /// Whether the conditions of a request hold.
    fn holds(&self, key: &str, headers: &HeaderMap) -> bool {
        let tag = self.objects.lock().get(key).map(|object| object.tag.clone());
        let wanted = headers.get("if-match").map(|tag| tag.to_str().unwrap());
        let none = headers.contains_key("if-none-match");
        (!none || tag.is_none()) && wanted.is_none_or(|wanted| tag.as_deref() == Some(wanted))
    }

    fn read(&self, key: &str, method: &Method, headers: &HeaderMap) -> Answer {
        let Some(object) = self.objects.lock().get(key).cloned() else {
            return refused(StatusCode::NOT_FOUND, "NoSuchKey");
        };
        let size = object.data.len() as u64;
        let mut answer = Response::builder().header("etag", object.tag).header(
            "last-modified",
            jiff::fmt::rfc2822::DateTimePrinter::new()
                .timestamp_to_rfc9110_string(&jiff::Timestamp::try_from(object.modified).unwrap())
                .unwrap(),
        );
        for (name, value) in object.meta {
            answer = answer.header(format!("x-amz-meta-{name}"), value);
        }
        if *method == Method::HEAD {
            return answer.header("content-length", size).body(Full::default()).unwrap();
        }
        let range = headers.get("range").map(|range| range.to_str().unwrap()["bytes=".len()..].to_owned());
        let Some(range) = range else { return answer.body(Full::from(object.data)).unwrap() };
        let (first, last) = range.split_once('-').unwrap();
        let (first, last) =
            (first.parse::<u64>().unwrap(), last.parse::<u64>().unwrap().min(size.max(1) - 1));
        if first >= size {
            return refused(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
        }
        answer
            .status(StatusCode::PARTIAL_CONTENT)
            .header("content-range", format!("bytes {first}-{last}/{size}"))
            .body(Full::from(object.data.slice(first as usize..=last as usize)))
            .unwrap()
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Answer {
        let text = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        let (prefix, most) = (text("prefix"), text("max-keys").parse().unwrap_or(1_000));
        let after = [text("start-after"), text("continuation-token")].into_iter().max().unwrap();
        let (mut found, mut last, mut more) = (String::new(), String::new(), false);
        let mut count = 0;
        for (key, object) in self.objects.lock().range(prefix.to_owned()..) {
            let Some(rest) = key.strip_prefix(prefix) else { break };
            let below = (text("delimiter") == "/").then(|| rest.split_once('/')).flatten();
            let name = below.map_or_else(|| key.clone(), |(first, _)| format!("{prefix}{first}/"));
            if *name <= *after || name == last {
                continue;
            }
            if count == most {
                more = true;
                break;
            }
            count += 1;
            let (size, key) = (object.data.len(), escaped(&name));
            if below.is_some() {
                write!(found, "<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>").unwrap();
            } else {
                write!(
                    found,
                    "<Contents><ETag>x</ETag><Key>{key}</Key><LastModified>2020-01-01T00:00:00.000Z\
                     </LastModified><Size>{size}</Size></Contents>"
                )
                .unwrap();
            }
            last = name;
        }
        let token = if more {
            format!("<NextContinuationToken>{}</NextContinuationToken>", escaped(&last))
        } else {
            String::new()
        };
        xml(format!(
            "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <IsTruncated>{more}</IsTruncated>{found}{token}</ListBucketResult>"
        ))
    }

    fn copy(&self, key: &str, headers: &HeaderMap) -> Answer {
        let source = unescape(headers["x-amz-copy-source"].to_str().unwrap());
        let mut objects = self.objects.lock();
        let Some(from) = objects.get(source.trim_start_matches("/bucket/")).cloned() else {
            return refused(StatusCode::NOT_FOUND, "NoSuchKey");
        };
        let replaces = headers.get("x-amz-metadata-directive").is_some_and(|value| value == "REPLACE");
        let meta = if replaces { meta_of(headers) } else { from.meta };
        // Whatever it was uploaded in, it is one piece now.
        objects.insert(key.to_owned(), object(from.data, meta, 0));
        xml("<CopyObjectResult></CopyObjectResult>".to_owned())
    }

    fn begin(&self, headers: &HeaderMap) -> Answer {
        let name = format!("{:016x}", rand::random::<u64>());
        self.uploads.lock().insert(name.clone(), (meta_of(headers), BTreeMap::new()));
        xml(format!(
            "<InitiateMultipartUploadResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <Bucket>bucket</Bucket><Key>x</Key><UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
        ))
    }

    fn put_part(&self, upload: &str, query: &BTreeMap<String, String>, body: Bytes) -> Answer {
        let mut uploads = self.uploads.lock();
        let Some((_, parts)) = uploads.get_mut(upload) else {
            return refused(StatusCode::NOT_FOUND, "NoSuchUpload");
        };
        parts.insert(query["partNumber"].parse().unwrap(), body);
        Response::builder().header("etag", "\"part\"").body(Full::default()).unwrap()
    }

    fn parts(&self, upload: &str) -> Answer {
        let uploads = self.uploads.lock();
        let Some((_, parts)) = uploads.get(upload) else {
            return refused(StatusCode::NOT_FOUND, "NoSuchUpload");
        };
        let parts = parts.keys().map(|number| format!("<Part><PartNumber>{number}</PartNumber></Part>"));
        xml(format!("<ListPartsResult>{}</ListPartsResult>", parts.collect::<Vec<_>>().concat()))
    }

    fn complete(&self, key: &str, upload: &str) -> Answer {
        let Some((meta, parts)) = self.uploads.lock().remove(upload) else {
            return refused(StatusCode::NOT_FOUND, "NoSuchUpload");
        };
        let data: Vec<u8> = parts.values().flat_map(|part| part.to_vec()).collect();
        self.objects.lock().insert(key.to_owned(), object(data.into(), meta, parts.len()));
        xml("<CompleteMultipartUploadResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <Location>x</Location><Bucket>bucket</Bucket><Key>x</Key><ETag>x</ETag></CompleteMultipartUploadResult>"
            .to_owned())
    }
}
