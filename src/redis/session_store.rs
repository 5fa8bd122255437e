//! Sessions in Redis: many questions in one write, their answers in order.
//!
//! | key, after `{tidegate:CLUSTER}` | holds | lives |
//! |---|---|---|
//! | `:session:ID` | hash: `record`, the `holder` (a life) and its `node`, and whom the holder `awaits` | `sessions.expiry_ms` after the last word of it |
//!
//! A claim makes its life the holder; if the one before lives (its node has a lease, and is that
//! life), it is awaited, and what it writes is still taken. Anybody else who is not the holder
//! writes nothing.

use std::time::Duration;

use ::redis::{
    Cmd, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind, Value, cmd, from_redis_value,
};

use super::connector::{Connector, Established, short};
use super::life::Life;
use super::link::Link;
use super::reason::Reason;
use crate::clock::Now;
use crate::limits::REDIS_REPLY_MS;
use crate::sessions::id::SessionId;
use crate::sessions::keeper::{Ask, Said};
use crate::sessions::record::Record;

/// This life has the session. KEYS: it. ARGV: life, node, lifetime in ms, prefix.
const CLAIM: &str = r#"
local key, me, node, ttl, prefix = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local found = redis.call('HMGET', key, 'record', 'holder', 'node', 'awaits')
local record, holder, awaits = found[1], found[2], found[4]
if holder and holder ~= me then
  awaits = false
  local their = found[3] or ''
  if redis.call('EXISTS', prefix .. ':lease:' .. their) == 1
    and redis.call('HGET', prefix .. ':node:' .. their, '_life') == holder then
    awaits = holder
  end
end
redis.call('HSET', key, 'holder', me, 'node', node)
if awaits then redis.call('HSET', key, 'awaits', awaits) else redis.call('HDEL', key, 'awaits') end
redis.call('PEXPIRE', key, ttl)
return {awaits or '', record or ''}
"#;

/// What is kept of a session, from its holder or from who is awaited. ARGV: life, lifetime, record.
const SAVE: &str = r#"
local key, me, ttl, record = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local found = redis.call('HMGET', key, 'holder', 'awaits')
local holder, awaits = found[1], found[2]
if holder and holder ~= me then
  if awaits ~= me then return 'other' end
  redis.call('HSET', key, 'record', record)
  redis.call('HDEL', key, 'awaits')
else
  redis.call('HSET', key, 'record', record)
  redis.call('HDEL', key, 'holder', 'node', 'awaits')
end
redis.call('PEXPIRE', key, ttl)
return 'ours'
"#;

/// The holder still has it, also if Redis has forgotten. ARGV: life, node, lifetime.
const HOLD: &str = r#"
local key, me = KEYS[1], ARGV[1]
local holder = redis.call('HGET', key, 'holder')
if holder and holder ~= me then return 'other' end
redis.call('HSET', key, 'holder', me, 'node', ARGV[2])
redis.call('PEXPIRE', key, ARGV[3])
return 'ours'
"#;

/// Nobody is awaited any more. Returns as CLAIM.
const SETTLE: &str = r#"
redis.call('HDEL', KEYS[1], 'awaits')
return {'', redis.call('HGET', KEYS[1], 'record') or ''}
"#;

/// Who asks.
#[derive(Clone, Debug)]
pub struct Asker {
    /// What every key begins with.
    pub prefix: String,
    /// The node's id.
    pub node: String,
    /// This run of it.
    pub life: Life,
    /// How long Redis remembers a session, in milliseconds.
    pub expiry_ms: u64,
}

/// The store.
pub struct Store {
    link: Link,
    asker: Asker,
    life: String,
    expiry_ms: String,
    hashes: [String; 4],
}

impl Store {
    /// A store; nothing is asked yet.
    pub fn new(connector: Connector, asker: Asker) -> Self {
        let hashes =
            [CLAIM, SAVE, HOLD, SETTLE].map(|code| Script::new(code).get_hash().to_owned());
        let (life, expiry_ms) = (asker.life.to_string(), asker.expiry_ms.to_string());
        Self { link: Link::new(connector), asker, life, expiry_ms, hashes }
    }

    /// Asks all of these. The answers are those to the first; if they are fewer, `Err` says why.
    pub fn ask<'a>(
        &mut self,
        asks: &[Ask],
        kept_of: impl Fn(&Ask) -> Option<&'a Record>,
        now: Now,
    ) -> (Vec<Said>, RedisResult<()>) {
        let mut said = Vec::with_capacity(asks.len());
        let mut request = Vec::new();
        for ask in asks {
            self.command(ask, kept_of(ask)).write_packed_command(&mut request);
        }
        let patience = Duration::from_millis(REDIS_REPLY_MS);
        let result = self.link.with(now, patience, |established| {
            if established.is_new {
                load_scripts(established)?;
            }
            exchange(established, &request, asks, &mut said)
        });
        (said, result)
    }

    /// Why a question was not answered, as it is shown, and what can be done about it.
    pub fn shown(&self, error: &RedisError) -> (String, String) {
        (short(error), self.link.connector().remedy(Reason::of(error)))
    }

    fn key(&self, id: &SessionId) -> String {
        format!("{}:session:{}", self.asker.prefix, id.as_str())
    }

    fn command(&self, ask: &Ask, record: Option<&Record>) -> Cmd {
        let [claim, save, hold, settle] = &self.hashes;
        let (hash, id) = match ask {
            Ask::Claim(id) => (claim, id),
            Ask::Save(id) => (save, id),
            Ask::Hold(id) => (hold, id),
            Ask::Settle(id) => (settle, id),
            Ask::Look(id) => {
                let mut command = cmd("HMGET");
                command.arg(self.key(id)).arg("awaits").arg("record");
                return command;
            }
        };
        let Asker { prefix, node, .. } = &self.asker;
        let mut command = cmd("EVALSHA");
        command.arg(hash).arg(1).arg(self.key(id));
        match ask {
            Ask::Claim(_) => command.arg(&self.life).arg(node).arg(&self.expiry_ms).arg(prefix),
            Ask::Hold(_) => command.arg(&self.life).arg(node).arg(&self.expiry_ms),
            Ask::Save(_) => {
                let record = record.map(Record::to_json).unwrap_or_default();
                command.arg(&self.life).arg(&self.expiry_ms).arg(record)
            }
            Ask::Settle(_) | Ask::Look(_) => &mut command,
        };
        command
    }
}

/// Makes the scripts known, as on a server that was started anew.
fn load_scripts(established: &mut Established) -> RedisResult<()> {
    for code in [CLAIM, SAVE, HOLD, SETTLE] {
        cmd("SCRIPT").arg("LOAD").arg(code).query::<String>(&mut established.connection)?;
    }
    Ok(())
}

/// Sends the request, and reads an answer to each question.
fn exchange(
    established: &mut Established,
    request: &[u8],
    asks: &[Ask],
    said: &mut Vec<Said>,
) -> RedisResult<()> {
    let connection = &mut established.connection;
    if !request.is_empty() {
        connection.send_packed_command(request)?;
    }
    for ask in asks {
        said.push(match connection.recv_response()?.extract_error() {
            Ok(answer) => read(ask, answer)?,
            Err(error) if is_about_one(&error) => Said::Refused,
            Err(error) => return Err(error),
        });
    }
    Ok(())
}

/// Whether an error is about one key, as when something else has put another kind of value there.
/// Scripts that Redis has forgotten are made known on the next connection.
fn is_about_one(error: &RedisError) -> bool {
    let unknown = ErrorKind::Server(ServerErrorKind::NoScript);
    error.kind() != unknown && Reason::of(error) == Reason::Refused
}

fn read(ask: &Ask, answer: Value) -> RedisResult<Said> {
    Ok(match ask {
        Ask::Claim(_) | Ask::Look(_) | Ask::Settle(_) => {
            let (awaited, record): (Option<Vec<u8>>, Option<Vec<u8>>) = from_redis_value(answer)?;
            let (awaited, record) = (awaited.unwrap_or_default(), record.unwrap_or_default());
            let is_there = !record.is_empty();
            let record = Record::from_json(&record);
            let is_malformed = is_there && record.is_none();
            Said::Found { awaited: Life::parse(&awaited), record, is_malformed }
        }
        Ask::Save(_) | Ask::Hold(_) => {
            Said::Ours { is_ours: from_redis_value::<String>(answer)? == "ours" }
        }
    })
}
