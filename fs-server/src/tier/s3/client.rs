//! Requests to an S3 server: signed by rusty-s3, sent by ureq on the calling thread.
//!
//! A body is not hashed for the signature: it goes over TLS, or within the site. Deliberately absent: retries (the flusher's, and those of who fetches).
//!
//! # Invariants
//! - What the server refuses is this object's fault only if its answer says so, or if it takes another object at that time (`tests/flush`,
//!   `what_a_bucket_refuses_of_one_object_is_refused`, `what_a_bucket_refuses_of_all_is_a_failure`).

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use fs_proto::TimeNs;
use parking_lot::Mutex;

use rusty_s3::actions::{
    AbortMultipartUpload, CompleteMultipartUpload, CompleteMultipartUploadResponse, CreateMultipartUpload,
    DeleteObject, GetObject, HeadObject, ListObjectsV2, ListParts, PutObject, UploadPart,
};
use rusty_s3::{Bucket, Credentials, Method, S3Action, UrlStyle};
use ureq::http::{Request, Response};
use ureq::{Agent, Body};

use super::fault::{Fault, fault_of};
use super::target::Target;
use crate::tier::{TierError, TierResult};

/// How long a signed request may wait before it is sent.
const SIGNED_FOR: Duration = Duration::from_secs(900);
/// Time for a connection, for each answer to begin, and for it to end; what is sent takes as long as it moves.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(300);
/// Longest answer that is read, in bytes: much more than a page of a listing.
const ANSWER_MAX: u64 = 64 << 20;
/// Connections that are kept.
const IDLE: usize = 64;
/// How long it holds that the bucket takes other objects, or does not.
const TRIED_LASTS: Duration = Duration::from_secs(1);
/// Codes of conditions that do not hold, in answers that began well.
const FAILED_CONDITIONS: [&str; 2] = ["PreconditionFailed", "ConditionalRequestConflict"];
/// Before the names of what a user stores with an object.
const META: &str = "x-amz-meta-";

/// What is stored with an object, by name without [`META`].
pub type Meta = BTreeMap<String, String>;

/// An object as it is described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Bytes.
    pub size: u64,
    /// What is stored with it.
    pub meta: Meta,
    /// What the server tells contents apart by (ETag); empty if it does not.
    pub tag: String,
    /// When the server took it, to the second.
    pub modified: TimeNs,
}

/// When an object is made or replaced: only while what is there is this. A server that knows no conditions ignores them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Only {
    /// Whatever is there.
    Always,
    /// While nothing is.
    IfNone,
    /// While it is what has this tag.
    IfTag(String),
}

impl Only {
    /// While an object is what it was when it was looked at.
    pub fn if_still(head: Option<&Head>) -> Self {
        match head {
            None => Only::IfNone,
            Some(head) if head.tag.is_empty() => Only::Always,
            Some(head) => Only::IfTag(head.tag.clone()),
        }
    }

    fn headers(&self) -> Vec<(String, String)> {
        match self {
            Only::Always => Vec::new(),
            Only::IfNone => vec![("if-none-match".to_owned(), "*".to_owned())],
            Only::IfTag(tag) => vec![("if-match".to_owned(), tag.clone())],
        }
    }
}

/// Part of a listing.
#[derive(Debug, Default)]
pub struct Page {
    /// Keys, in order, with their sizes.
    pub objects: Vec<(String, u64)>,
    /// With a delimiter: beginnings of keys up to the next slash, which there are more below.
    pub prefixes: Vec<String>,
    /// What to ask for the next part with; None: this is the last.
    pub next: Option<String>,
}

/// A bucket of a server.
pub struct Client {
    bucket: Bucket,
    credentials: Option<Credentials>,
    agent: Agent,
    /// The key of an object that may be made and removed at any time; none: nothing may.
    probe: OnceLock<String>,
    /// When that was tried last, and whether it was taken.
    tried: Mutex<Option<(Instant, bool)>>,
}

impl Client {
    /// Nothing is asked of the server yet.
    pub fn new(target: &Target) -> Result<Self, String> {
        let endpoint = target.endpoint.parse().map_err(|error| {
            format!("the endpoint {:?} is no address ({error}); set AWS_ENDPOINT_URL", target.endpoint)
        })?;
        let style = if target.by_path { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let bucket = Bucket::new(endpoint, style, target.bucket.clone(), target.region.clone())
            .map_err(|error| format!("the endpoint {:?} cannot be used: {error}", target.endpoint))?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .timeout_recv_body(Some(ANSWER))
            .max_idle_connections(IDLE)
            .max_idle_connections_per_host(IDLE)
            .build();
        let (credentials, agent) = (Credentials::from_env(), config.into());
        Ok(Client { bucket, credentials, agent, probe: OnceLock::new(), tried: Mutex::default() })
    }

    /// At this key an object may be made and removed to see whether the bucket takes any.
    pub fn may_probe_at(&self, key: String) {
        self.probe.get_or_init(|| key);
    }

    /// Uses these credentials instead of the environment's.
    pub fn with_credentials(self, credentials: Credentials) -> Self {
        Client { credentials: Some(credentials), ..self }
    }

    fn keys(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// What the server has under a key; None if nothing.
    pub fn head(&self, key: &str) -> TierResult<Option<Head>> {
        let answer = self.send("look at", key, HeadObject::new(&self.bucket, self.keys(), key), &[], &[])?;
        Ok(self.found("look at", key, answer)?.map(|answer| head_of(&answer)))
    }

    /// Fills `out` from byte `offset` of an object, if `is_wanted` says so of what it is; false if not, or if there is none, or it is shorter.
    pub fn read(
        &self,
        key: &str,
        offset: u64,
        out: &mut [u8],
        is_wanted: impl Fn(&Head) -> bool,
    ) -> TierResult<bool> {
        let range = format!("bytes={offset}-{}", offset + out.len() as u64 - 1);
        let headers = [("range".to_owned(), range)];
        let answer = self.send("read", key, GetObject::new(&self.bucket, self.keys(), key), &headers, &[])?;
        if answer.status().as_u16() == 416 {
            return Ok(false);
        }
        let Some(answer) = self.found("read", key, answer)? else { return Ok(false) };
        if answer.status().as_u16() != 206 {
            return Err(failed("read", key, "the server does not give parts of objects"));
        }
        if !is_wanted(&head_of(&answer)) {
            return Ok(false);
        }
        let read = answer.into_body().into_reader().read_exact(out);
        read.map(|()| true).map_err(|error| failed("read", key, &error.to_string()))
    }

    /// The content of a small object; None if there is none.
    pub fn get(&self, key: &str) -> TierResult<Option<Vec<u8>>> {
        let answer = self.send("read", key, GetObject::new(&self.bucket, self.keys(), key), &[], &[])?;
        self.found("read", key, answer)?.map(|answer| content("read", key, answer)).transpose()
    }

    /// Makes an object, or replaces it.
    pub fn put(&self, key: &str, meta: &Meta, body: &[u8]) -> TierResult<()> {
        let action = PutObject::new(&self.bucket, self.keys(), key);
        self.done("write", key, self.send("write", key, action, &headers_of(meta), body)?).map(drop)
    }

    /// As [`Client::put`], under a condition; false if it does not hold.
    pub fn put_if(&self, key: &str, meta: &Meta, body: &[u8], only: &Only) -> TierResult<bool> {
        let action = PutObject::new(&self.bucket, self.keys(), key);
        let headers = [headers_of(meta), only.headers()].concat();
        Ok(self.if_done("write", key, only, self.send("write", key, action, &headers, body)?)?.is_some())
    }

    /// Removes an object; one that is not there is no error.
    pub fn delete(&self, key: &str) -> TierResult<()> {
        let action = DeleteObject::new(&self.bucket, self.keys(), key);
        self.found("remove", key, self.send("remove", key, action, &[], &[])?).map(drop)
    }

    /// Copies an object within the bucket, with what is stored with it, or with `meta` instead; the server does it. At most 5 GiB.
    pub fn copy(&self, from: &str, to: &str, meta: Option<&Meta>) -> TierResult<()> {
        let source = format!("/{}/{}", self.bucket.name(), super::keys::percent(from.as_bytes()));
        let mut headers = meta.map(headers_of).unwrap_or_default();
        headers.push(("x-amz-copy-source".to_owned(), source));
        if meta.is_some() {
            headers.push(("x-amz-metadata-directive".to_owned(), "REPLACE".to_owned()));
        }
        let action = PutObject::new(&self.bucket, self.keys(), to);
        let answer = self.done("copy", to, self.send("copy", to, action, &headers, &[])?)?;
        // A copy that takes long answers that all is well before it fails.
        self.refuse_error("copy", to, &content("copy", to, answer)?)
    }

    /// Up to `most` keys that begin with `prefix` and come after `after`, in order, with their sizes.
    pub fn list(&self, prefix: &str, after: &str, most: usize) -> TierResult<Vec<(String, u64)>> {
        let mut action = ListObjectsV2::new(&self.bucket, self.keys());
        if !after.is_empty() {
            action.with_start_after(after);
        }
        Ok(self.page(prefix, action, most)?.objects)
    }

    /// Up to `most` of what is directly below `prefix`; `from` is the page before's [`Page::next`].
    pub fn list_below(&self, prefix: &str, from: Option<String>, most: usize) -> TierResult<Page> {
        let mut action = ListObjectsV2::new(&self.bucket, self.keys());
        action.with_delimiter("/");
        if let Some(token) = from {
            action.with_continuation_token(token);
        }
        self.page(prefix, action, most)
    }

    fn page(&self, prefix: &str, mut action: ListObjectsV2<'_>, most: usize) -> TierResult<Page> {
        action.with_prefix(prefix.to_owned());
        action.with_max_keys(most);
        // Keys as they are: servers that are asked to escape them do that in several ways, or only say so.
        action.query_mut().remove("encoding-type");
        let answer = self.done("list", prefix, self.send("list", prefix, action, &[], &[])?)?;
        let text = String::from_utf8_lossy(&content("list", prefix, answer)?).into_owned();
        let page = ListObjectsV2::parse_response(&text)
            .map_err(|error| failed("list", prefix, &format!("the answer is unreadable: {error}")))?;
        let objects = page.contents.into_iter();
        Ok(Page {
            objects: objects.map(|object| (object.key, object.size.unwrap_or_default())).collect(),
            prefixes: page.common_prefixes.into_iter().map(|below| below.prefix).collect(),
            next: page.next_continuation_token,
        })
    }

    /// Begins an object that is written in parts; returns the upload's name.
    pub fn create_upload(&self, key: &str, meta: &Meta) -> TierResult<String> {
        let action = CreateMultipartUpload::new(&self.bucket, self.keys(), key);
        let answer = self.done("begin", key, self.send("begin", key, action, &headers_of(meta), &[])?)?;
        let text = String::from_utf8_lossy(&content("begin", key, answer)?).into_owned();
        CreateMultipartUpload::parse_response(&text)
            .map(|created| created.upload_id().to_owned())
            .map_err(|error| failed("begin", key, &format!("the answer is unreadable: {error}")))
    }

    /// Writes part `number`, from 1; returns its tag.
    pub fn put_part(&self, key: &str, upload: &str, number: u16, body: &[u8]) -> TierResult<String> {
        let action = UploadPart::new(&self.bucket, self.keys(), key, number, upload);
        let answer = self.done("write", key, self.send("write", key, action, &[], body)?)?;
        let tag = answer.headers().get("etag").and_then(|tag| tag.to_str().ok());
        tag.map(str::to_owned).ok_or_else(|| failed("write", key, "the answer has no ETag"))
    }

    /// Makes the object of all parts: whole under its key from now on. Under a condition; false if it does not hold.
    pub fn complete(&self, key: &str, upload: &str, tags: &[String], only: &Only) -> TierResult<bool> {
        let action = CompleteMultipartUpload::new(
            &self.bucket,
            self.keys(),
            key,
            upload,
            tags.iter().map(String::as_str),
        );
        let body = action.clone().body();
        let mut answer = self.send("publish", key, action.clone(), &only.headers(), body.as_bytes())?;
        // Some servers know conditions for whole objects only.
        if answer.status().as_u16() == 501 && *only != Only::Always {
            answer = self.send("publish", key, action, &[], body.as_bytes())?;
        }
        let Some(answer) = self.if_done("publish", key, only, answer)? else { return Ok(false) };
        let text = content("publish", key, answer)?;
        if code_of(&text).is_some_and(|code| FAILED_CONDITIONS.contains(&code.as_str())) {
            return Ok(false);
        }
        self.refuse_error("publish", key, &text)?;
        CompleteMultipartUploadResponse::parse(&String::from_utf8_lossy(&text))
            .map(|_| true)
            .map_err(|error| failed("publish", key, &format!("the answer is unreadable: {error}")))
    }

    /// Gives up an upload; one that is not there is no error.
    pub fn abort(&self, key: &str, upload: &str) -> TierResult<()> {
        let action = AbortMultipartUpload::new(&self.bucket, self.keys(), key, upload);
        let given_up = self.found("give up", key, self.send("give up", key, action, &[], &[])?).map(drop);
        // Some servers deny what they do not know.
        let is_gone = given_up.is_err() && !self.has_parts(key, upload).unwrap_or(true);
        if is_gone { Ok(()) } else { given_up }
    }

    /// Whether anything is stored for an upload.
    fn has_parts(&self, key: &str, upload: &str) -> TierResult<bool> {
        let mut action = ListParts::new(&self.bucket, self.keys(), key, upload);
        action.set_max_parts(1);
        let answer = self.send("list the parts of", key, action, &[], &[])?;
        let Some(answer) = self.found("list the parts of", key, answer)? else { return Ok(false) };
        let text = content("list the parts of", key, answer)?;
        Ok(String::from_utf8_lossy(&text).contains("<Part>"))
    }

    /// The answer, if the request succeeded.
    fn done(&self, doing: &str, key: &str, answer: Response<Body>) -> TierResult<Response<Body>> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let text = content(doing, key, answer).unwrap_or_default();
        let code = code_of(&text).unwrap_or_default();
        Err(self.error(status.as_u16(), &code, format!("{}: {status} {code}", cannot(doing, key))))
    }

    /// As [`Client::done`]; None if there is no such object.
    fn found(&self, doing: &str, key: &str, answer: Response<Body>) -> TierResult<Option<Response<Body>>> {
        match self.done(doing, key, answer) {
            Ok(answer) => Ok(Some(answer)),
            Err(TierError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`Client::done`]; None if a condition does not hold, or somebody changes the object at this moment.
    fn if_done(
        &self,
        doing: &str,
        key: &str,
        only: &Only,
        answer: Response<Body>,
    ) -> TierResult<Option<Response<Body>>> {
        match answer.status().as_u16() {
            409 | 412 if *only != Only::Always => Ok(None),
            _ => self.done(doing, key, answer).map(Some),
        }
    }

    /// Fails if an answer that began well tells of an error after all.
    fn refuse_error(&self, doing: &str, key: &str, text: &[u8]) -> TierResult<()> {
        if !String::from_utf8_lossy(text).contains("<Error>") {
            return Ok(());
        }
        let code = code_of(text).unwrap_or_default();
        Err(self.error(200, &code, format!("{}: {code}", cannot(doing, key))))
    }

    fn error(&self, status: u16, code: &str, text: String) -> TierError {
        match fault_of(status, code) {
            Fault::Absent => TierError::Missing(text),
            Fault::Space => TierError::Full(text),
            Fault::Object => TierError::Refused(text),
            Fault::Unclear if self.takes_others() => TierError::Refused(text),
            Fault::Unclear | Fault::Server => TierError::Failed(text),
        }
    }

    /// Whether the bucket takes another object now: bad credentials, and a bucket that may only be read, refuse all of them.
    fn takes_others(&self) -> bool {
        let Some(key) = self.probe.get() else { return false };
        // Held meanwhile: who is refused at the same moment takes this one's outcome.
        let mut tried = self.tried.lock();
        if let Some((when, is_taken)) = *tried
            && when.elapsed() < TRIED_LASTS
        {
            return is_taken;
        }
        let is_done =
            |answer: TierResult<Response<Body>>| answer.is_ok_and(|answer| answer.status().is_success());
        let is_taken =
            is_done(self.send("write", key, PutObject::new(&self.bucket, self.keys(), key), &[], &[]));
        if is_taken {
            let _ = self.send("remove", key, DeleteObject::new(&self.bucket, self.keys(), key), &[], &[]);
        }
        *tried = Some((Instant::now(), is_taken));
        is_taken
    }

    fn send<'a, A: S3Action<'a>>(
        &self,
        doing: &str,
        key: &str,
        mut action: A,
        headers: &[(String, String)],
        body: &[u8],
    ) -> TierResult<Response<Body>> {
        for (name, value) in headers {
            action.headers_mut().insert(name.clone(), value.clone());
        }
        let url = action.sign(SIGNED_FOR);
        let mut request = Request::builder().method(A::METHOD.to_str()).uri(url.as_str());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let sent = match A::METHOD {
            Method::Put | Method::Post => request.body(body).map(|request| self.agent.run(request)),
            Method::Head | Method::Get | Method::Delete => {
                request.body(()).map(|request| self.agent.run(request))
            }
        };
        sent.map_err(|error| failed(doing, key, &error.to_string()))?
            .map_err(|error| failed(doing, key, &error.to_string()))
    }
}

fn head_of<B>(answer: &Response<B>) -> Head {
    let text =
        |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // Of a part of an object, the whole is behind the slash.
    let size = text("content-range").rsplit('/').next().filter(|size| !size.is_empty());
    let meta = answer.headers().iter().filter_map(|(name, value)| {
        let name = name.as_str().strip_prefix(META)?;
        Some((name.to_owned(), value.to_str().ok()?.to_owned()))
    });
    Head {
        size: size.unwrap_or_else(|| text("content-length")).parse().unwrap_or_default(),
        meta: meta.collect(),
        tag: text("etag").to_owned(),
        modified: time_of(text("last-modified")),
    }
}

/// A date as HTTP has it; 0 if it is none.
fn time_of(text: &str) -> TimeNs {
    let parsed = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text);
    parsed.map_or(0, |time| time.as_second().saturating_mul(1_000_000_000))
}

fn headers_of(meta: &Meta) -> Vec<(String, String)> {
    meta.iter().map(|(name, value)| (format!("{META}{name}"), value.clone())).collect()
}

/// What could not be done with `key`: `doing` is a verb.
pub fn cannot(doing: &str, key: &str) -> String {
    format!("cannot {doing} {key:?} in the shared tier")
}

/// The error of a request about `key`.
pub fn failed(doing: &str, key: &str, reason: &str) -> TierError {
    TierError::Failed(format!("{}: {reason}", cannot(doing, key)))
}

fn content(doing: &str, key: &str, mut answer: Response<Body>) -> TierResult<Vec<u8>> {
    let body = answer.body_mut().with_config().limit(ANSWER_MAX).read_to_vec();
    body.map_err(|error| failed(doing, key, &error.to_string()))
}

/// The code in an error's document.
fn code_of(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let (_, rest) = text.split_once("<Code>")?;
    rest.split_once("</Code>").map(|(code, _)| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_http() {
        assert_eq!(time_of("Wed, 21 Oct 2015 07:28:00 GMT"), 1_445_412_480_000_000_000);
        assert_eq!(time_of("yesterday"), 0);
    }
}
