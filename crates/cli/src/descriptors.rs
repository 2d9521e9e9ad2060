//! The limit of open files, raised: a server has a descriptor for each connection (four with shared memory) and for segments it keeps open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is asked for, where the system lets us.
const WANTED: u64 = 1 << 20;

/// Raises the limit of this process as far as it may.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    if most < WANTED
        && setrlimit(Resource::Nofile, Rlimit { current: Some(WANTED), maximum: Some(WANTED) }).is_ok()
    {
        return;
    }
    let current = most.min(WANTED);
    if limit.current.is_some_and(|now| now < current) {
        let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: limit.maximum });
        if let Err(error) = raised {
            tracing::warn!(%error, "the limit of open files cannot be raised: see `ulimit -n`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_as_high_as_it_may_be() {
        raise_limit();
        let limit = getrlimit(Resource::Nofile);
        assert!(limit.current >= limit.maximum.map(|most| most.min(WANTED)), "{limit:?}");
    }
}
