//! Upgrade requests: cuts change nothing, and a second parser comes to the same verdict.

use tidegate::http::{Head, HeadScanner, Refusal, UpgradeRules, upgrade};

#[path = "../../support/judge.rs"]
mod judge;

/// The size of a chunk, and the bytes.
pub fn run(input: &[u8]) {
    let [step, bytes @ ..] = input else { return };
    let whole = verdict(bytes, bytes.len().max(1));
    assert_eq!(whole, verdict(bytes, 1 + usize::from(*step)));
    if let Some(echo) = verdict_of_judge(bytes) {
        let ours = matches!(&whole, Ok(Some(path)) if path == "/echo");
        assert_eq!(ours, echo, "{:?}", String::from_utf8_lossy(bytes));
    }
}

/// The path that is asked for, if the request is complete and good.
fn verdict(bytes: &[u8], step: usize) -> Result<Option<String>, Refusal> {
    let rules = UpgradeRules { compression: true, ..UpgradeRules::default() };
    let mut scanner = HeadScanner::default();
    let mut end = 0;
    loop {
        end = (end + step).min(bytes.len());
        if let Head::Complete { len } = scanner.scan(&bytes[..end], 8_192)? {
            let request = upgrade::parse(&bytes[..len], &rules)?;
            let _ = (request.protocol(&rules), request.compression(&rules));
            return Ok(Some(request.path.to_owned()));
        }
        if end == bytes.len() {
            return Ok(None);
        }
    }
}

/// The second opinion, where it has one: it does not know the absolute form of a target.
fn verdict_of_judge(bytes: &[u8]) -> Option<bool> {
    let request = bytes.trim_ascii_start();
    let absolute = request.strip_prefix(b"GET ").is_some_and(|rest| !rest.starts_with(b"/"));
    (!absolute).then(|| judge::is_upgrade(bytes))
}
