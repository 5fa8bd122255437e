//! What an operator can do about a Redis that fails: for each reason what to look at, and the
//! command that shows or mends it. Pure.

use super::reason::Reason;

/// Commands that a user of an ACL needs, as a shell takes them, for counts, publications and sessions. HELLO needs no
/// right; ROLE is for a Redis in front of which something does not let HELLO through.
const COMMANDS: &str = "+eval +evalsha '+script|load' +exists +set +incr +pexpire +del +hget +hmget \
                        +hset +hdel +sadd +srem +smembers +publish +subscribe +unsubscribe \
                        +punsubscribe +ping +select +role";

/// The command that gives `user` what a node needs; `prefix` is what keys and channels begin with.
pub fn acl(user: &str, prefix: &str) -> String {
    format!("redis-cli ACL SETUSER {user} '~{prefix}:*' '&{prefix}:*' {COMMANDS}")
}

/// What to do about a failure of the Redis that is shown as `redis`.
pub fn remedy(reason: Reason, redis: &str, user: &str, prefix: &str) -> String {
    match reason {
        Reason::Unreachable => format!(
            "check host and port of redis.url, and with rediss:// the certificate \
             (SSL_CERT_FILE names further authorities): redis-cli -u {redis} ping"
        ),
        Reason::TimedOut => format!(
            "it does not answer in time; see what it does: redis-cli -u {redis} --latency, and \
             redis-cli -u {redis} slowlog get 10"
        ),
        Reason::Authentication => "put user and password into redis.url, \
             redis://USER:PASSWORD@HOST, or REDIS_URL; see them with: redis-cli ACL LIST, and \
             redis-cli CONFIG GET requirepass"
            .to_owned(),
        Reason::Permission => {
            format!("the user {user} lacks a right; as an administrator: {}", acl(user, prefix))
        }
        Reason::ReadOnly => format!(
            "redis.url leads to a replica; let its name lead to the master: redis-cli -u {redis} \
             role"
        ),
        Reason::OutOfMemory => format!(
            "give it memory: redis-cli -u {redis} config set maxmemory BYTES; see what takes it: \
             redis-cli -u {redis} info memory"
        ),
        Reason::CannotPersist => format!(
            "it cannot write its data to disk and refuses writes; make room there: redis-cli -u \
             {redis} info persistence; or let it write all the same: redis-cli -u {redis} config \
             set stop-writes-on-bgsave-error no"
        ),
        Reason::NotReady => format!(
            "it loads its data, runs a long script, or lacks its master or replicas; it is tried \
             again: redis-cli -u {redis} info replication"
        ),
        Reason::Cluster => "redis.url names a node of a Redis Cluster, which is not supported; \
             name a Redis that is not part of one"
            .to_owned(),
        Reason::Unsupported => "redis.url names a Sentinel, or a Redis older than 5; name the \
             master itself"
            .to_owned(),
        Reason::Protocol => format!(
            "what listens there is no Redis, or speaks TLS (rediss://): redis-cli -u {redis} ping"
        ),
        Reason::Refused => format!("see the error: redis-cli -u {redis} info"),
        Reason::Unheard => format!(
            "two connections to redis.url reach different servers; let its name lead to one \
             master: getent ahosts HOST, and redis-cli -u {redis} info replication"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_remedy_with_something_to_do() {
        for reason in Reason::ALL {
            let said = remedy(reason, "redis://redis:6379", "tidegate", "{tidegate:default}");
            assert!(said.contains("redis"), "{reason:?}: {said}");
            assert!(!said.contains("  ") && !said.contains('\n'), "{reason:?}: {said}");
        }
        let said = acl("tidegate", "{tidegate:default}");
        assert!(said.contains("'~{tidegate:default}:*' '&{tidegate:default}:*' +eval"), "{said}");
    }

    #[test]
    fn the_guide_has_the_same_command() {
        let guide = include_str!("../../docs/operating.md").replace('\\', " ");
        let guide = guide.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(guide.contains(&acl("USER", "{tidegate:default}")), "{}", acl("USER", ""));
    }
}
