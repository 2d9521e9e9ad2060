//! Which bucket of which server: `s3://BUCKET/PREFIX`, and the environment that other S3 tools know.

use xxhash_rust::xxh3::xxh3_64;

/// A place in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Bucket.
    pub bucket: String,
    /// Beginning of all keys: empty, or ends with a slash.
    pub prefix: String,
    /// Address of the server.
    pub endpoint: String,
    /// Region, as the server knows it.
    pub region: String,
    /// Buckets are the first part of the path, not of the host's name.
    pub by_path: bool,
}

/// Whether a tier is an object store's.
pub fn is_s3(tier: &str) -> bool {
    tier.starts_with("s3://")
}

impl Target {
    /// `text` is `s3://BUCKET/PREFIX`; `env` knows `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, `AWS_REGION` and `AWS_DEFAULT_REGION`.
    pub fn parse(text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let rest = text.strip_prefix("s3://").ok_or("an object store is named s3://BUCKET/PREFIX")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err("an object store is named s3://BUCKET/PREFIX".to_owned());
        }
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let region = env("AWS_REGION").or_else(|| env("AWS_DEFAULT_REGION"));
        let region = region.unwrap_or_else(|| "us-east-1".to_owned());
        let endpoint = env("AWS_ENDPOINT_URL_S3").or_else(|| env("AWS_ENDPOINT_URL"));
        let by_path = endpoint.is_some();
        let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        Ok(Target { bucket: bucket.to_owned(), prefix, endpoint, region, by_path })
    }

    /// Stands for the place: servers that have the same number have the same place.
    pub fn number(&self) -> u64 {
        let Target { bucket, prefix, .. } = self;
        xxh3_64(format!("{}\n{bucket}\n{prefix}", self.server()).as_bytes()) | 1
    }

    /// The endpoint, however it was written.
    fn server(&self) -> String {
        self.endpoint.trim_end_matches('/').to_ascii_lowercase()
    }

    /// Whether this place lies in another, or is the same.
    pub fn is_within(&self, outer: &Target) -> bool {
        self.server() == outer.server()
            && self.bucket == outer.bucket
            && self.prefix.starts_with(&outer.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_with_and_without_prefix_and_endpoint() {
        let none = |_: &str| None;
        let amazon = Target::parse("s3://data/run7/", none).unwrap();
        assert_eq!((&amazon.bucket[..], &amazon.prefix[..], amazon.by_path), ("data", "run7/", false));
        assert_eq!(amazon.endpoint, "https://s3.us-east-1.amazonaws.com");
        let own = |name: &str| (name == "AWS_ENDPOINT_URL").then(|| "http://ceph:7480".to_owned());
        let ceph = Target::parse("s3://data", own).unwrap();
        assert_eq!((&ceph.endpoint[..], &ceph.prefix[..], ceph.by_path), ("http://ceph:7480", "", true));
        let place = |text: &str| Target::parse(text, own).unwrap();
        assert!(place("s3://data/run7/a").is_within(&place("s3://data/run7")) && ceph.is_within(&ceph));
        assert!(!place("s3://data/run77").is_within(&place("s3://data/run7")));
        assert!(!place("s3://other/run7").is_within(&ceph) && !amazon.is_within(&ceph));
        assert_eq!(place("s3://data/run7/").number(), place("s3://data/run7").number());
        let shouted = Target::parse("s3://data/run7", |name| {
            (name == "AWS_ENDPOINT_URL").then(|| "http://CEPH:7480/".to_owned())
        });
        assert_eq!(shouted.unwrap().number(), place("s3://data/run7").number());
        assert_ne!(amazon.number(), place("s3://data/run7").number());
        for wrong in ["s3://", "s3:///x", "/lustre"] {
            assert!(Target::parse(wrong, none).is_err(), "{wrong}");
        }
    }
}
