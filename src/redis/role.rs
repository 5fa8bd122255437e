//! Whether a Redis is a master, asked with whatever it lets this client ask. Pure but for the
//! commands, which others send.
//!
//! HELLO needs no right beyond being let in, and says it since Redis 6; an older one, or a proxy
//! that does not know HELLO, may answer ROLE or INFO. One that answers none of them is believed.

use ::redis::{Cmd, ProtocolVersion, Value, cmd, from_redis_value};

/// What a Redis is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes writes, and passes publications on to its replicas.
    Master,
    /// It takes no writes, and what is published there stays there.
    Replica,
    /// It does not say.
    Unknown,
}

/// A way to ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Question {
    /// HELLO with the protocol that the connection has.
    #[default]
    Hello,
    /// ROLE.
    Role,
    /// INFO replication.
    Info,
    /// None is answered.
    Nothing,
}

impl Question {
    /// What to ask if this is not answered.
    pub const fn next(self) -> Self {
        match self {
            Self::Hello => Self::Role,
            Self::Role => Self::Info,
            Self::Info | Self::Nothing => Self::Nothing,
        }
    }

    /// The command, on a connection with this protocol.
    pub fn command(self, protocol: ProtocolVersion) -> Option<Cmd> {
        let command = match self {
            Self::Hello => {
                let mut hello = cmd("HELLO");
                hello.arg(if protocol == ProtocolVersion::RESP3 { 3 } else { 2 });
                hello
            }
            Self::Role => cmd("ROLE"),
            Self::Info => {
                let mut info = cmd("INFO");
                info.arg("replication");
                info
            }
            Self::Nothing => return None,
        };
        Some(command)
    }
}

/// What an answer to any of the questions says.
pub fn read(answer: Value) -> Role {
    match answer {
        Value::Map(pairs) => pairs
            .into_iter()
            .find(|(key, _)| text(key.clone()).as_deref() == Some("role"))
            .map_or(Role::Unknown, |(_, value)| named(text(value))),
        Value::Array(parts) => read_parts(parts),
        text_of_info => {
            let info = text(text_of_info).unwrap_or_default();
            let role = info.lines().find_map(|line| line.strip_prefix("role:"));
            named(role.map(|role| role.trim().to_owned()))
        }
    }
}

/// HELLO's names and values one after the other, or ROLE's parts, the first of which it is.
fn read_parts(parts: Vec<Value>) -> Role {
    let first = parts.first().cloned().and_then(text);
    if named(first.clone()) != Role::Unknown {
        return named(first);
    }
    let mut parts = parts.into_iter();
    while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
        if text(key).as_deref() == Some("role") {
            return named(text(value));
        }
    }
    Role::Unknown
}

fn named(role: Option<String>) -> Role {
    match role.as_deref() {
        Some("master") => Role::Master,
        Some("slave" | "replica") => Role::Replica,
        _ => Role::Unknown,
    }
}

fn text(value: Value) -> Option<String> {
    from_redis_value(value).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn read_reply(reply: &str) -> Role {
        read(::redis::parse_redis_value(reply.as_bytes()).unwrap())
    }

    #[test]
    fn every_way_to_say_it_is_read() {
        for (reply, role) in [
            (
                "*4\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n",
                Role::Master,
            ),
            ("*4\r\n$5\r\nproto\r\n:2\r\n$4\r\nrole\r\n$7\r\nreplica\r\n", Role::Replica),
            ("%2\r\n+proto\r\n:3\r\n$4\r\nrole\r\n$7\r\nreplica\r\n", Role::Replica),
            ("*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n", Role::Master),
            ("*5\r\n$5\r\nslave\r\n$1\r\na\r\n:1\r\n$7\r\nconnect\r\n:1\r\n", Role::Replica),
            ("*2\r\n$8\r\nsentinel\r\n*0\r\n", Role::Unknown),
            ("$27\r\n# Replication\r\nrole:slave\r\n\r\n", Role::Replica),
            ("$28\r\n# Replication\r\nrole:master\r\n\r\n", Role::Master),
            ("*2\r\n$4\r\nmode\r\n$8\r\nsentinel\r\n", Role::Unknown),
            ("*3\r\n$4\r\nrole\r\n:1\r\n$4\r\nrole\r\n", Role::Unknown),
            ("+OK\r\n", Role::Unknown),
            ("$-1\r\n", Role::Unknown),
            ("*0\r\n", Role::Unknown),
        ] {
            assert_eq!(read_reply(reply), role, "{reply:?}");
        }
    }

    #[test]
    fn one_question_follows_another_until_there_is_none() {
        let mut question = Question::default();
        let mut asked = Vec::new();
        while let Some(command) = question.command(ProtocolVersion::RESP2) {
            asked.push(String::from_utf8(command.get_packed_command()).unwrap());
            question = question.next();
        }
        assert_eq!(asked.len(), 3);
        assert!(asked[0].contains("HELLO\r\n$1\r\n2\r\n"), "{asked:?}");
        assert!(asked[1].contains("ROLE") && asked[2].contains("replication"), "{asked:?}");
        assert_eq!(question.next(), Question::Nothing);
    }

    proptest! {
        #[test]
        fn any_answer_is_read(bytes: Vec<u8>, reply in "[*%+$:-][0-9]{1,2}\r\n(\\$4\r\nrole\r\n){0,3}") {
            for reply in [&bytes[..], reply.as_bytes()] {
                if let Ok(value) = ::redis::parse_redis_value(reply) {
                    let _ = read(value);
                }
            }
        }
    }
}
