//! What the process says when it ends: one number for each way, so that a supervisor, a
//! deploy script and a person reading `systemctl status` can tell them apart.
//!
//! 64, 69, 70, 73, 74, 75 and 78 are those of `sysexits.h`; scripts that know them need no table.

/// Every connection left, every stage was done: the ordinary end after a drain.
pub const DRAINED: u8 = 0;

/// The process ended after a panic (within `shutdown.force_timeout_ms`), or a subcommand
/// that asks a question (`healthcheck`) got "no" for an answer.
pub const PANICKED: u8 = 1;

/// Wrong usage of the command line (`EX_USAGE`): nothing was started.
pub const USAGE: u8 = 64;

/// io_uring cannot be used on this machine (`EX_UNAVAILABLE`): the log names the cause.
pub const UNAVAILABLE: u8 = 69;

/// `shutdown.deadline_ms`, or the part of it that the last stage has, ended the process with
/// connections that it could not let go (`EX_SOFTWARE`).
pub const DEADLINE: u8 = 70;

/// The connections have left, but `shutdown.report_file` could not be written (`EX_CANTCREAT`);
/// the last line of the log says why.
pub const REPORT_LOST: u8 = 73;

/// The connections have left, but a shutdown resource or hook failed or ran out of its time
/// (`EX_IOERR`); the report names it.
pub const RESOURCE: u8 = 74;

/// What a subcommand prints could not be written (`EX_IOERR`): a full disk, for instance.
pub const OUTPUT: u8 = 74;

/// The reader of a subcommand that goes on (`status --watch`, `drain --wait`) has gone before its
/// end: 128 and SIGPIPE, as of a program that the signal ends.
pub const READER_GONE: u8 = 141;

/// A second signal, or `DELETE /api/v1/shutdown/shutdown`, cut the drain short
/// (`EX_TEMPFAIL`).
pub const FORCED: u8 = 75;

/// The configuration is refused (`EX_CONFIG`): every error was printed, nothing was started.
pub const CONFIG: u8 = 78;
