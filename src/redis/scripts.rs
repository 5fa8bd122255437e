//! What Redis does in one step: check the fence, write the counts, renew the lease, add up who
//! lives, and settle who does not. Needs Redis 5 or newer.
//!
//! | key, after `{tidegate:CLUSTER}` | holds | lives |
//! |---|---|---|
//! | `:nodes` | set of the ids of nodes | |
//! | `:node:ID` | hash: `connections`, `connection_ms`, whose they are, and the fence | until settled |
//! | `:lease:ID` | the epoch | three flush intervals |
//! | `:epoch:ID` | the last epoch | [`REDIS_MEMORY_MS`] |
//! | `:settled:LIFE` | hash: what of a life is in `:totals`, and the last number settled | [`REDIS_MEMORY_MS`] |
//! | `:totals` | hash: `connection_ms` of what is settled, `peak` | |
//!
//! A lease ends by itself; counts do not, so that what a dead node counted can still be settled. To
//! settle is to add a node's part to the totals, to remember how much of its life is in there, and
//! to delete its counts, all in one step: nothing is lost and nothing added twice.
//!
//! Whatever stands in the keys: a number that no node writes (not a number, negative, above
//! [`NUMBER_MAX`](super::counts::NUMBER_MAX)) counts as 0, so that it keeps no node from writing.

use ::redis::{Connection, ErrorKind, RedisResult, Script, ServerErrorKind, cmd};

use super::counts::{Answer, Counts, Fence, Identity};
use crate::limits::REDIS_MEMORY_MS;

/// What both scripts begin with.
macro_rules! prelude {
    () => {
        r#"
local prefix, id, life = ARGV[1], ARGV[2], ARGV[3]
local epoch, highest, seq = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local connections, own_peak, connection_ms = ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local lease_ms, memory_ms = ARGV[10], ARGV[11]
local host, pid, started_at = ARGV[12], ARGV[13], ARGV[14]
local nodes, totals = prefix .. ':nodes', prefix .. ':totals'
local function node_key(of) return prefix .. ':node:' .. of end
local function lease_key(of) return prefix .. ':lease:' .. of end
local function settled_key(of) return prefix .. ':settled:' .. of end
local most = 4503599627370496
local function num(text)
  local number = tonumber(text)
  if not number or number ~= number or number < 0 or number > most then return 0 end
  return math.floor(number)
end
local function int(number) return string.format('%.0f', number) end

local function settled(of)
  local found = redis.call('HMGET', settled_key(of), 'connection_ms', 'seq')
  return num(found[1]), num(found[2])
end

local function settle(of, ms, at)
  local before, before_at = settled(of)
  local part = math.max(0, ms - before)
  redis.call('HSET', totals, 'connection_ms', int(num(redis.call('HGET', totals, 'connection_ms')) + part))
  redis.call('HSET', settled_key(of), 'connection_ms', int(before + part), 'seq', int(math.max(at, before_at)))
  redis.call('PEXPIRE', settled_key(of), memory_ms)
end

local function remove(node)
  local found = redis.call('HMGET', node_key(node), '_life', 'connection_ms', '_seq')
  redis.call('SREM', nodes, node)
  redis.call('DEL', node_key(node), lease_key(node))
  if found[1] then settle(found[1], num(found[2]), num(found[3])) end
end

local function sums()
  local sum, parts, count = 0, 0, 0
  for _, node in ipairs(redis.call('SMEMBERS', nodes)) do
    if redis.call('EXISTS', lease_key(node)) == 1 then
      local found = redis.call('HMGET', node_key(node), 'connections', 'connection_ms', '_base')
      sum = sum + num(found[1])
      parts = parts + math.max(0, num(found[2]) - num(found[3]))
      count = count + 1
    else
      remove(node)
    end
  end
  local known = redis.call('HMGET', totals, 'connection_ms', 'peak')
  local peak = math.max(math.min(sum, most), own_peak, num(known[2]))
  if peak > num(known[2]) then redis.call('HSET', totals, 'peak', int(peak)) end
  return int(math.min(sum, most)), int(peak), int(math.min(num(known[1]) + parts, most)), int(count)
end

local held = redis.call('HMGET', node_key(id), '_epoch', '_seq', '_life', 'host', 'pid', 'started_at')
local is_leased = redis.call('EXISTS', lease_key(id))
local is_own = held[3] == life
local function other()
  return int(num(held[1])), int(is_leased), held[4] or '?', held[5] or '?', held[6] or '?'
end
"#
    };
}

/// Writes the counts, under the epoch given or under a new one.
const FLUSH: &str = concat!(
    prelude!(),
    r#"
local instead_of = false
if epoch > 0 then
  if held[1] and not is_own and num(held[1]) > epoch then return {'fenced', other()} end
  if is_own and num(held[1]) > epoch then return {'renewed'} end
  if not is_own or is_leased == 0 or num(held[1]) < epoch then return {'lapsed'} end
  if seq <= num(held[2]) then return {'stale', int(num(held[2]))} end
else
  local _, settled_seq = settled(life)
  local seen = math.max(settled_seq, is_own and num(held[2]) or 0)
  if seq <= seen then return {'stale', int(seen)} end
  if held[1] and not is_own then
    instead_of = {other()}
    remove(id)
  end
  local drawn = redis.pcall('INCR', prefix .. ':epoch:' .. id)
  epoch = math.max(type(drawn) == 'number' and num(drawn) or 0, num(held[1]) + 1, highest + 1)
  if epoch > most then epoch = 1 end
end
redis.call('SET', prefix .. ':epoch:' .. id, int(epoch), 'PX', memory_ms)
redis.call('HSET', node_key(id), '_epoch', int(epoch), '_seq', int(seq), '_life', life,
  'connections', connections, 'connection_ms', int(connection_ms),
  'host', host, 'pid', pid, 'started_at', started_at)
redis.call('PEXPIRE', settled_key(life), memory_ms)
if ARGV[4] == '0' then
  local base = settled(life)
  redis.call('HSET', node_key(id), '_base', int(base))
end
redis.call('SET', lease_key(id), int(epoch), 'PX', lease_ms)
redis.call('SADD', nodes, id)
local answer = {'written', int(epoch), sums()}
if instead_of then
  for _, field in ipairs(instead_of) do answer[#answer + 1] = field end
end
return answer
"#
);

/// Takes the node out, unless another life has its id, and settles what this life counted. Deleting
/// comes first: after it Redis lets a script go on even if it is out of memory.
const LEAVE: &str = concat!(
    prelude!(),
    r#"
if is_own then
  redis.call('SREM', nodes, id)
  redis.call('DEL', node_key(id), lease_key(id))
end
settle(life, connection_ms, seq)
if held[1] and not is_own and is_leased == 1 then return {'fenced', other()} end
return {'written', int(num(held[1])), sums()}
"#
);

/// The scripts, known by their hash.
#[derive(Debug)]
pub(super) struct Scripts {
    flush: String,
    leave: String,
}

/// Which script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Write the counts.
    Flush,
    /// Take the node out.
    Leave,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let hash = |code| Script::new(code).get_hash().to_owned();
        Self { flush: hash(FLUSH), leave: hash(LEAVE) }
    }

    /// Runs a script.
    ///
    /// # Errors
    /// The client's, or Redis's, or a reply that no script of ours gives.
    pub(super) fn run(
        &self,
        step: Step,
        connection: &mut Connection,
        identity: &Identity,
        fence: Fence,
        counts: Counts,
        lease_ms: u64,
    ) -> RedisResult<Answer> {
        let (hash, code) = match step {
            Step::Flush => (self.flush.as_str(), FLUSH),
            Step::Leave => (self.leave.as_str(), LEAVE),
        };
        let arguments = [
            identity.prefix(),
            identity.node.clone(),
            identity.life.clone(),
            fence.epoch.to_string(),
            fence.highest.to_string(),
            fence.seq.to_string(),
            counts.connections.to_string(),
            counts.peak.to_string(),
            counts.connection_ms.to_string(),
            lease_ms.to_string(),
            REDIS_MEMORY_MS.to_string(),
            identity.host.clone(),
            identity.pid.to_string(),
            identity.started_at.clone(),
        ];
        let key = format!("{}:node:{}", identity.prefix(), identity.node);
        let mut evaluate = |command: &str, what: &str| {
            let mut request = cmd(command);
            request.arg(what).arg(1).arg(&key).arg(&arguments);
            request.query::<Vec<String>>(connection)
        };
        let fields = match evaluate("EVALSHA", hash) {
            // A Redis that was started anew does not know it.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                evaluate("EVAL", code)?
            }
            other => other?,
        };
        let unknown = (ErrorKind::UnexpectedReturnType, "not an answer of this script");
        Answer::read(&fields).ok_or_else(|| unknown.into())
    }
}
