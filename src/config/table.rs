//! The keys: the single source of their types, defaults, ranges, units, names and reasons.
//!
//! One entry makes the typed field of [`Config`], the row of [`KEYS`] from which files, the
//! environment and flags are read, and the lines of the printed default file. The doc comment
//! of an entry is the explanation in that file, so it is written for the operator.
//!
//! An entry reads: name, Rust type, default, allowed values, unit, environment names of other
//! systems. A key is added together with what obeys it.

use super::key::{Key, LegacyName, Preset};
use super::key_macro::keys;
use super::rule::{Rule, between, power_of_two, zero_or};
use super::shutdown_hook::ShutdownHook;
use super::source::Origin;
use super::source_override::Overrides;
use super::value::{LogFormat, ProxyProtocol, Secret, Setting, Value};
use crate::limits::{HEAD_BYTES, RECEIVE_BUFFERS_KEPT};

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use Preset::{Number, Switch, Text};

const MIB: u64 = 1 << 20;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// The highest rate that can be set: one for each 10 nanoseconds, beyond what any machine
/// accepts, so that it serves as "no limit" where 0 has no such meaning.
const RATE_MAX: u64 = 100_000_000;

/// The most connections that can be set: a hundred times what one machine holds today.
pub(super) const CONNECTIONS_MAX: u64 = 1_000_000_000;

const fn legacy(name: &'static str, unit: &'static str) -> LegacyName {
    LegacyName { name, factor: 1, unit }
}

const fn legacy_seconds(name: &'static str) -> LegacyName {
    LegacyName { name, factor: 1000, unit: "s" }
}

fn next<T: Setting>(values: &mut impl Iterator<Item = Value>) -> T {
    values.next().map_or_else(|| unreachable!("values were counted"), T::from_value)
}

keys! {
    /// The client listener, its shards, and what one connection may hold.
    server: Server {
        /// Where clients connect: one address and port, for which each shard has a listener. To be
        /// reached at several, listen at the wildcard and let a firewall choose; the IPv6 wildcard
        /// takes IPv4 too, unless net.ipv6.bindv6only is set. Port 0 takes a free port.
        listen: SocketAddr = Text("0.0.0.0:8080"), Rule::Address, "";

        /// How many shards there are; each is a thread with its own ring, listener and
        /// connections. More shards than cores only make sense where the limit on open files
        /// is small, because it counts per ring.
        shards: usize = Number(0), zero_or("one per available core", 1, 1024), "shards";

        /// Whether each shard stays on one core. A shard's memory is then always near its
        /// core. Turn it off where other busy programs share the machine.
        pin_shards: bool = Switch(true), Rule::Switch, "";

        /// Whether /echo exists. It sends every message back, for conformance tests and
        /// benchmarks; off because it is work that anyone could cause.
        echo: bool = Switch(false), Rule::Switch, "";

        /// Which web pages may connect, by the Origin that the browser sends. Clients that
        /// send no Origin are not browsers and always may. An empty list allows every page,
        /// which is right only if a connection by itself gives access to nothing. Files have
        /// file:// or null, by browser; null is also what every sandboxed frame has.
        allowed_origins: Vec<String> = Text(""), Rule::Origins, "";

        /// The proxies that tell the truth about whom they forward. From their addresses, and
        /// from no others, a PROXY header (if server.proxy_protocol allows it) or else the
        /// header of server.forwarded_header says who the client is; limits then apply to that
        /// client. Whoever can connect from one of these addresses can claim to be anybody.
        /// An empty list trusts nobody.
        trusted_proxies: Vec<IpNet> = Text(""), Rule::Networks, "";

        /// The one header in which trusted proxies say who the client is: x-forwarded-for,
        /// forwarded, a header that has a single address in it, such as x-real-ip or
        /// cf-connecting-ip, or none where only PROXY headers are believed. Others are not looked
        /// at, because a proxy passes on what its client sends in them. If it is empty,
        /// x-forwarded-for or forwarded, and a request that has both is refused with 400. Name the
        /// one that your proxy writes.
        forwarded_header: String = Text(""), Rule::HeaderName, "";

        /// Whether a trusted proxy begins a connection with a PROXY header, version 1 or 2:
        /// off, accept (it may) or require (it must). From anybody else, and with off, a PROXY
        /// header is a malformed request.
        proxy_protocol: ProxyProtocol = Text("off"), Rule::ProxyProtocol, "";

        /// The longest message a client may send, over all its fragments; a longer one closes
        /// the connection with 1009. It bounds what one client can make the server keep.
        max_message_bytes: usize = Number(MIB), between(1, 256 * MIB), "bytes";

        /// Whether clients may have messages compressed (permessage-deflate). Each message is
        /// compressed by itself, so an idle connection costs nothing for it, and a publication
        /// is compressed once per shard for all who asked for it.
        compression: bool = Switch(true), Rule::Switch, "";

        /// From which length on messages to clients are compressed. A short one fits into the
        /// same packet either way, so that compressing it saves nothing.
        compression_threshold_bytes: usize = Number(512), between(0, 256 * MIB), "bytes";

        /// The subprotocols that a client may choose from (Sec-WebSocket-Protocol); it gets the
        /// first of its own list that is here. They change nothing but the answer: a browser that
        /// asks for one ends the connection when it does not get one.
        subprotocols: Vec<String> = Text(""), Rule::Tokens, "";

        /// How much may wait to be sent on one connection; more closes it as too slow. One
        /// message may always be queued when nothing else is, however long it is, so this can
        /// be smaller than a message.
        max_queued_bytes: usize = Number(MIB), between(1024, 1024 * MIB), "bytes";

        /// How much memory messages to all clients may hold that the kernel has not taken yet,
        /// over all shards. Above it those are cut, as too slow, for whom something has been
        /// waiting for longest. What many clients wait for is counted once per shard.
        max_total_queued_bytes: u64 =
            Number(1024 * MIB), between(MIB, 1 << 50), "bytes";

        /// How long a client may take from the first byte of a message to its last. Without an
        /// end, whoever never finishes his message would keep its memory. The default is what
        /// the longest message takes at 70 kbit/s.
        message_timeout_ms: u64 = Number(120_000), zero_or("no limit", 10, DAY_MS), "ms";

        /// How much may be kept of messages that have not arrived completely, of all clients
        /// together. One byte more closes the oldest of the source that holds most, if that is more
        /// than its share (operating.md), or else whose message has been unfinished for longest.
        max_unfinished_bytes: u64 = Number(256 * MIB), between(MIB, 1 << 50), "bytes";

        /// How many pings a client may send in a second; more closes the connection. Clients
        /// that ping do so every few seconds.
        max_pings_per_second: u32 = Number(100), zero_or("no limit", 1, 1_000_000), "pings";

        /// How long a client may take less than delivery.min_bytes_per_second of what waits for
        /// it, until its connection is cut: it has stopped reading, or is gone without a word. A TCP
        /// acknowledges in jumps, by as much as its receive buffer: less than ten seconds also cuts
        /// clients that read steadily and whose jumps are further apart.
        write_timeout_ms: u64 = Number(30_000), between(10, HOUR_MS), "ms";

        /// How many accepted connections the kernel keeps for each shard until it takes them.
        /// The kernel silently uses net.core.somaxconn if that is less.
        backlog: u32 = Number(65_535), between(1, 1 << 20), "connections";

        /// How many receive buffers a shard may have. They are lent only while bytes are being
        /// read, so they are few however many connections there are: a shard takes as many as
        /// complete in one turn, and gives up in quiet times what it does not need.
        receive_buffers: u16 =
            Number(512), power_of_two(RECEIVE_BUFFERS_KEPT as u64, 32_768), "buffers per shard";

        /// The size of a receive buffer. A page holds most messages whole; a longer one is
        /// put together from several reads.
        receive_buffer_bytes: u32 = Number(4096), between(512, 65_536), "bytes";

        /// How long a busy shard lets what has happened gather before it looks at it: less work
        /// for each message, for up to so much more time until it is answered. A shard that has
        /// been silent for so long looks at once. 0 never waits: setting the timer costs more than
        /// it gains where a core has little else to do. 50 is worth trying on a busy machine.
        gather_us: u64 = Number(0), between(0, 1_000), "µs";

        /// How many connections a shard has places for in the kernel. The limit on open files
        /// (RLIMIT_NOFILE) bounds it too; set it lower to bound the table's memory.
        direct_descriptors: u32 =
            Number(0), zero_or("as many as RLIMIT_NOFILE allows", 1, 1 << 20),
            "descriptors per shard";
    }

    /// The admin listener: health, metrics, drain.
    admin: Admin {
        /// Where the admin API is served. Whoever reaches it can end the server, so it is on
        /// loopback; anywhere else it requires admin.token.
        listen: SocketAddr = Text("127.0.0.1:8081"), Rule::Address, "";

        /// What a request must bring, as Authorization: Bearer or X-API-Key; empty for none. The
        /// command line is seen by everybody on the machine and the environment by the server's
        /// user, so that admin.token_file is the better place. A reload takes another one, but
        /// neither the first nor none.
        token: Option<Secret> = Text(""), Rule::Secret { min_chars: 16 }, "";

        /// The file that holds admin.token in one line, of which only the server and those who may
        /// ask it should be able to read anything; empty for none. It is read at the start and at
        /// each reload: a token changes without a restart. Commands that ask the server read it
        /// too.
        token_file: Option<PathBuf> = Text(""), Rule::Path, "";
    }

    /// Who is let in, and how fast. The order is: source, global rate, capacity. SIGHUP and
    /// POST /api/v1/config/reload apply this section to the running server, all but the two keys
    /// that end in _prefix_bits.
    admission: Admission {
        /// How many connections one source may open in a minute, evenly spread, once its
        /// burst is used up. A source is an IPv4 address or an IPv6 /64, unless
        /// admission.ipv4_prefix_bits or admission.ipv6_prefix_bits says otherwise. The default
        /// suits people, who open one and come back a few times; a big NAT may need more.
        connections_per_ip_per_minute: u64 =
            Number(60), zero_or("no limit", 1, 60_000_000), "connections per minute",
            also legacy("CONNECTIONS_PER_IP_PER_MINUTE", "connections per minute");

        /// How many connections a source that was quiet for long may open at once.
        connections_per_ip_burst: u64 =
            Number(0),
            zero_or("the same as admission.connections_per_ip_per_minute", 1, 60_000_000),
            "connections";

        /// How many connections one source may have open at the same time.
        max_connections_per_ip: u64 =
            Number(0), zero_or("no limit", 1, CONNECTIONS_MAX), "connections";

        /// How many leading bits of an IPv4 address make a source: addresses that differ only
        /// behind them share one set of limits. Fewer than 32 where whoever is to be limited has
        /// a whole network; whoever shares one with others is then limited together with them.
        /// A change takes a restart.
        ipv4_prefix_bits: u8 = Number(32), between(1, 32), "bits";

        /// The same for IPv6. Whoever has IPv6 usually has all addresses of a /64 to choose
        /// from, so 64 is the most; many providers give a /56 or a /48, and with a hosting
        /// provider one person can have more of those. A change takes a restart.
        ipv6_prefix_bits: u8 = Number(64), between(1, 64), "bits";

        /// How many sources are remembered at the same time, over all shards. It bounds the
        /// memory that a flood from many addresses can take.
        max_tracked_sources: u64 = Number(1_000_000), between(1, CONNECTIONS_MAX), "sources";

        /// How many connections are let in per second, from everywhere. It bounds the work of
        /// a reconnect storm; a drain paces its clients by the same number.
        global_connections_per_second: u64 =
            Number(1000), between(1, RATE_MAX), "connections per second",
            also legacy("GLOBAL_CONNECTIONS_PER_SECOND", "connections per second");

        /// How many connections are open at the same time, at most, over all shards.
        max_global_connections: u64 =
            Number(10_000_000), between(1, CONNECTIONS_MAX), "connections",
            also legacy("MAX_GLOBAL_CONNECTIONS", "connections");

        /// How much memory the server may use, its own and what the kernel keeps for its
        /// connections, before nobody new is let in (503). Whatever this is, that is so above
        /// 90 % of the memory of its cgroup, of those above it, or of the machine; from 85 % of
        /// that on the rate of admission falls step by step. At the start it also bounds
        /// how many connections there can be.
        max_memory_bytes: u64 =
            Number(0),
            zero_or("90 % of what the cgroup or the machine has", 16 * MIB, 1 << 50), "bytes";

        /// Whether the rate of admission falls, to an eighth at most, while a shard stands still
        /// for 50 ms and longer or has no processor time left. What memory asks for holds in any
        /// case.
        shed_load: bool = Switch(true), Rule::Switch, "";

        /// Which sources are refused, with 403. Of all blocks here, in admission.allow and in
        /// admission.overrides that hold an address, the one with the longest prefix counts, and
        /// it alone. IPv4 addresses that come mapped to IPv6 count as IPv4.
        deny: Vec<IpNet> = Text(""), Rule::Blocks, "";

        /// Which sources the limits of one source do not hold for: a probe, a test, a proxy that
        /// many people come through. The global rate and the capacity hold for them too.
        allow: Vec<IpNet> = Text(""), Rule::Blocks, "";

        /// Which sources have limits of their own, a table for each block with any of
        /// connections_per_minute, burst and max_concurrent; what is left out is as for
        /// everybody. The tables stand behind the other keys of this section, as in
        /// [admission.overrides."10.0.0.0/8"] and below it burst = 100.
        overrides: Overrides = Text(""), Rule::Overrides, "";
    }

    /// From the accepted connection to the WebSocket.
    handshake: Handshake {
        /// How long a client may take for its upgrade request, from the moment it is
        /// accepted. Bytes that trickle in do not extend it.
        timeout_ms: u64 = Number(5000), between(10, 10 * MINUTE_MS), "ms";

        /// How long the head of an upgrade request may be, from the request line to the blank
        /// line; a longer one is answered 431. It bounds what an unfinished request can make the
        /// server keep. A browser's request takes less than 1 KB without cookies, and each cookie
        /// 4 KB at most; proxies pass on 16 to 32 KB. Raise it where cookies or tokens are larger.
        max_head_bytes: usize = Number(HEAD_BYTES as u64), between(1024, 65_536), "bytes";

        /// How many connections may be accepted and not upgraded at the same time, over all
        /// shards. One more ends the oldest, so that many who say nothing do not keep out those
        /// who speak. Each holds about 5 KB in the kernel, and up to handshake.max_head_bytes once
        /// a part of its request has come. The default is a storm of 13,000 a second of which nobody says
        /// anything within the default timeout; honest clients are there for one round trip. Less
        /// than what arrives in a round trip would end them too.
        max_pending: u64 = Number(65_536), between(64, 100_000_000), "connections";
    }

    /// How those who are not let in are told. Each way has a rate of its own; what is above it is
    /// left to the next: a Close, an HTTP answer, a reset, and in the end nothing is accepted for
    /// a moment. The rates are those of the whole server, in equal parts for its shards; 0 leaves
    /// a way out.
    refusal: Refusal {
        /// How many refused connections are upgraded only to be told why, with Close 1013. That
        /// is for browsers (requests with an Origin), which cannot see an HTTP status; it costs
        /// nearly what a handshake costs, so it ends first. The default is a tenth of a core.
        close_per_second: u64 = Number(5000), between(0, RATE_MAX), "connections per second";

        /// How many refused connections are answered with 429, 503 or 403. The default is about a
        /// third of a core, and more than clients make that come back when they are told to.
        http_per_second: u64 = Number(20_000), between(0, RATE_MAX), "connections per second";

        /// How many refused connections are reset before anything is read from them. It is the
        /// cheapest thing that can be done with a connection once it is accepted; above it, it is
        /// cheaper to let the kernel's backlog hold, and drop, who comes.
        reset_per_second: u64 = Number(50_000), between(0, RATE_MAX), "connections per second";
    }

    /// Finding out that a silent client is gone.
    keepalive: Keepalive {
        /// How long a connection is silent before it is sent a Ping. Many proxies cut what is
        /// silent for 30 or 60 seconds; the default stays below both.
        ping_interval_ms: u64 = Number(25_000), zero_or("never", 10, DAY_MS), "ms";

        /// How long a client may take to answer a Ping before it counts as gone. While it takes
        /// what was sent to it before, at delivery.min_bytes_per_second, its answer is awaited; what
        /// server.write_timeout_ms says of less than ten seconds is true here as well.
        timeout_ms: u64 = Number(10_000), between(10, HOUR_MS), "ms";
    }

    /// Clients that read slowly.
    delivery: Delivery {
        /// How many bytes of what waits for it a client must take in a second, as a mean over ten
        /// seconds, to count as one that reads: it keeps its connection then, however long it
        /// takes, and in a drain until the drain's time is over. One that takes less has
        /// server.write_timeout_ms, keepalive.timeout_ms or shutdown.close_timeout_ms. What counts
        /// is what its TCP has acknowledged. A thousand is what the slowest mobile networks
        /// manage; with 0 a byte every ten seconds holds a queue for ever.
        min_bytes_per_second: u64 =
            Number(1000), zero_or("any progress", 1, 1_000_000_000), "bytes per second";
    }

    /// How the server ends. The stages come one after the other, inside one deadline.
    shutdown: Shutdown {
        /// When the process ends, whatever is left to do. Whoever supervises it must wait
        /// longer than this before it kills (systemd TimeoutStopSec, Kubernetes
        /// terminationGracePeriodSeconds).
        deadline_ms: u64 = Number(30_000), between(10, DAY_MS), "ms",
            also legacy("SHUTDOWN_TIMEOUT_MS", "ms"),
            also legacy_seconds("SHUTDOWN_GRACEFUL_TIMEOUT");

        /// How long connections are still accepted after readiness turned to 503, so that
        /// load balancers notice first.
        pre_drain_delay_ms: u64 = Number(0), between(0, DAY_MS), "ms";

        /// How long clients have between the notice and the first Close.
        notice_ms: u64 = Number(500), between(0, DAY_MS), "ms";

        /// How long the drain may take; what is still connected then is cut.
        drain_ms: u64 = Number(15_000), between(0, DAY_MS), "ms",
            also legacy("MAX_CONNECTION_DRAIN_TIME", "ms");

        /// How long one client may take to answer a Close before its connection is cut, counted
        /// from when its TCP has the Close. What comes before it is waited for, until the drain's
        /// time is over, as long as the client takes delivery.min_bytes_per_second of it; one that
        /// takes less is cut after ten seconds, or after this time if it is longer.
        close_timeout_ms: u64 = Number(5000), between(0, DAY_MS), "ms";

        /// The close code that clients are sent. Many libraries take 1001 for "the page was
        /// left" and 1012 for "come back soon".
        close_code: u16 = Number(1001), Rule::CloseCode, "";

        /// How many connections are closed per second. A rate that cannot empty the server in
        /// the time of the drain is reported when the drain starts.
        drain_connections_per_second: u64 =
            Number(0), zero_or("as fast as it takes to be done in time", 1, RATE_MAX),
            "connections per second";

        /// The pace at which the clients that leave are told to come back, so that they arrive
        /// where they are let in.
        reconnect_per_second: u64 =
            Number(0),
            zero_or("the same as admission.global_connections_per_second", 1, RATE_MAX),
            "connections per second";

        /// How long the process may go on after a panic before it ends by force.
        force_timeout_ms: u64 = Number(5000), between(10, HOUR_MS), "ms",
            also legacy("FORCE_SHUTDOWN_TIMEOUT_MS", "ms");

        /// Where the report of a shutdown is written, as JSON: a process that has ended cannot
        /// be asked any more. A regular file is replaced and its mode is 0640; a link is followed;
        /// what is no regular file, as /dev/stdout, is written to. If it cannot be written the
        /// exit code is 73.
        report_file: Option<PathBuf> = Text(""), Rule::Path, "";

        /// How long background tasks of the program around the server may take at the end, all of
        /// them together.
        background_ms: u64 = Number(10_000), between(10, HOUR_MS), "ms",
            also legacy_seconds("SHUTDOWN_BACKGROUND_TIMEOUT");

        /// How long each other resource or hook may take that does not say so itself.
        resource_timeout_ms: u64 = Number(5000), between(10, HOUR_MS), "ms",
            also legacy_seconds("SHUTDOWN_DB_TIMEOUT");

        /// Commands that run at a shutdown: to tell somebody, to close something. Each has a
        /// name, a command (no shell), a stage and a time, after which it is killed together with
        /// what it has started; the next one runs whatever became of it. Stage before runs while
        /// connections are still accepted, the others after the connections have left. Arguments
        /// are shown by the admin API and in lists of processes; keep passwords in files. A
        /// command's environment is PATH, HOME, USER, LOGNAME, SHELL, LANG, LC_ALL, TZ and TMPDIR
        /// as the server has them, and what its environment = ["NAME"] lists; never a secret of
        /// this configuration.
        hooks: Vec<ShutdownHook> = Text(""), Rule::Hooks, "";
    }

    /// A drain for `deploy`: another version takes the place of this one.
    drain_deploy: DrainDeploy {
        /// When the process ends, whatever is left to do.
        deadline_ms: u64 =
            Number(0), zero_or("the same as shutdown.deadline_ms", 10, DAY_MS), "ms";

        /// How long the drain may take; what is still connected then is cut.
        drain_ms: u64 =
            Number(0), zero_or("the same as shutdown.drain_ms", 1, DAY_MS), "ms";

        /// How many connections are closed per second.
        connections_per_second: u64 =
            Number(0),
            zero_or("the same as shutdown.drain_connections_per_second", 1, RATE_MAX),
            "connections per second";

        /// The close code that clients are sent.
        close_code: u16 = Number(0), Rule::CloseCodeOr("the same as shutdown.close_code"), "";

        /// What clients are told as the reason, in the notice.
        reason: String = Text("deploy"), Rule::Phrase, "";
    }

    /// A drain for `scale-in`: there are to be fewer nodes.
    drain_scale_in: DrainScaleIn {
        /// When the process ends, whatever is left to do.
        deadline_ms: u64 =
            Number(0), zero_or("the same as shutdown.deadline_ms", 10, DAY_MS), "ms";

        /// How long the drain may take; what is still connected then is cut.
        drain_ms: u64 =
            Number(0), zero_or("the same as shutdown.drain_ms", 1, DAY_MS), "ms";

        /// How many connections are closed per second.
        connections_per_second: u64 =
            Number(0),
            zero_or("the same as shutdown.drain_connections_per_second", 1, RATE_MAX),
            "connections per second";

        /// The close code that clients are sent.
        close_code: u16 = Number(0), Rule::CloseCodeOr("the same as shutdown.close_code"), "";

        /// What clients are told as the reason, in the notice.
        reason: String = Text("scale-in"), Rule::Phrase, "";
    }

    /// A drain for `emergency`: the node has to go at once.
    drain_emergency: DrainEmergency {
        /// When the process ends, whatever is left to do.
        deadline_ms: u64 =
            Number(10_000), zero_or("the same as shutdown.deadline_ms", 10, DAY_MS), "ms";

        /// How long the drain may take; what is still connected then is cut.
        drain_ms: u64 =
            Number(3000), zero_or("the same as shutdown.drain_ms", 1, DAY_MS), "ms";

        /// How many connections are closed per second.
        connections_per_second: u64 =
            Number(0),
            zero_or("the same as shutdown.drain_connections_per_second", 1, RATE_MAX),
            "connections per second";

        /// The close code that clients are sent.
        close_code: u16 = Number(0), Rule::CloseCodeOr("the same as shutdown.close_code"), "";

        /// What clients are told as the reason, in the notice.
        reason: String = Text("emergency"), Rule::Phrase, "";
    }

    /// A drain for `operator`: asked for without another cause.
    drain_operator: DrainOperator {
        /// When the process ends, whatever is left to do.
        deadline_ms: u64 =
            Number(0), zero_or("the same as shutdown.deadline_ms", 10, DAY_MS), "ms";

        /// How long the drain may take; what is still connected then is cut.
        drain_ms: u64 =
            Number(0), zero_or("the same as shutdown.drain_ms", 1, DAY_MS), "ms";

        /// How many connections are closed per second.
        connections_per_second: u64 =
            Number(0),
            zero_or("the same as shutdown.drain_connections_per_second", 1, RATE_MAX),
            "connections per second";

        /// The close code that clients are sent.
        close_code: u16 = Number(0), Rule::CloseCodeOr("the same as shutdown.close_code"), "";

        /// What clients are told as the reason, in the notice.
        reason: String = Text("shutdown"), Rule::Phrase, "";
    }

    /// The counts that all nodes share: how many are connected, how many were at most, and for how
    /// long. Without redis.url each node counts for itself, and nothing else is different.
    redis: Redis {
        /// Where Redis is: redis://USER:PASSWORD@HOST:PORT/DATABASE, of which all but the host may
        /// be left out; rediss:// with TLS (certificates as the system trusts them); or
        /// unix:///PATH. Empty for none. Not for Redis Cluster or Sentinel. With a password in it
        /// it belongs into redis.url_file.
        url: Option<Secret> = Text(""), Rule::RedisUrl, "", also legacy("REDIS_URL", "");

        /// The file that holds redis.url in one line; empty for none. A change takes a restart.
        url_file: Option<PathBuf> = Text(""), Rule::Path, "";

        /// Which nodes are counted together: those of one name in one Redis.
        cluster_name: String = Text("default"), Rule::Name { may_be_empty: false }, "";

        /// The name of this node, which no other of the cluster may have at the same time. It
        /// should outlive a restart, so that a new life takes the place of the old one at once. If
        /// it is empty it is the name of the machine and the port of server.listen.
        node_id: String = Text(""), Rule::Name { may_be_empty: true }, "";

        /// How often the counts are written. A node that is gone is counted for three times as
        /// long.
        flush_interval_ms: u64 = Number(1000), between(50, MINUTE_MS), "ms";
    }

    /// What outlives a connection of /ws: clients that ask for a session (?session=new, or an id of
    /// 8 to 64 letters, digits, _ and -) are counted and subscribed where they left off when they
    /// come back with its id.
    sessions: Sessions {
        /// How long a session is kept after its connection has ended.
        expiry_ms: u64 = Number(10 * MINUTE_MS), between(1000, 30 * DAY_MS), "ms";

        /// How long a client that comes back waits at most for what is kept of its session: for
        /// Redis, or for the connection that has it, maybe to another node, to let go. Then it
        /// starts anew, and is told so. It is connected meanwhile, but subscribed to nothing.
        resume_timeout_ms: u64 = Number(5000), between(10, MINUTE_MS), "ms";

        /// How much memory may be used for sessions without a connection: all of them if there is
        /// no redis.url, otherwise those that are not saved yet. The oldest go first. One takes
        /// about 150 bytes and 32 for each channel beside its name.
        max_memory_bytes: usize = Number(256 * MIB), between(MIB, 1 << 40), "bytes";
    }

    /// What /metrics serves.
    metrics: Metrics {
        /// Whether the names that older dashboards use are served beside the tidegate_ names.
        compatibility_names: bool = Switch(true), Rule::Switch, "";
    }

    /// For tests of the server itself.
    debug: Debugging {
        /// Whether the admin API can make a shard panic or stall. Never in production.
        fault_injection: bool = Switch(false), Rule::Switch, "";
    }

    /// The log. RUST_LOG sets which events are logged, as in RUST_LOG=info,tidegate=debug.
    log: Log {
        /// The form of the lines; auto is human on a terminal and json otherwise.
        format: LogFormat = Text("auto"), Rule::LogFormat, "";
    }
}
