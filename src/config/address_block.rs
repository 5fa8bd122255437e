//! Blocks of addresses in CIDR notation, as `admission.deny`, `.allow` and `.overrides` take them.
//!
//! One spelling for one block: what would mean something else than it says, or never match, is
//! refused together with what to write instead.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use toml::Spanned;
use toml::de::DeValue;

use super::rule::{Fault, Hint};
use crate::admission::source_rules::V6_PREFIX_MAX;

/// What a block looks like, for messages.
pub(super) const FORM: &str = "an address, a slash and the length of its prefix, with no bits set \
     behind it, as in 10.0.0.0/8 or 2001:db8::/32; for IPv6 at most /64";

/// Reads one block.
///
/// # Errors
/// What is wrong with it, and the right spelling if there is one.
pub(super) fn read(text: &str) -> Result<IpNet, String> {
    let Ok(block) = text.parse::<IpNet>() else { return Err(not_a_block(text)) };
    if block != block.trunc() {
        return Err(format!("it has bits set behind its prefix; write {}", block.trunc()));
    }
    match block {
        IpNet::V4(_) => Ok(block),
        IpNet::V6(v6) => match v6.network().to_ipv4_mapped() {
            Some(v4) if v6.prefix_len() >= 96 => {
                let v4 = Ipv4Net::new(v4, v6.prefix_len() - 96).map_err(|e| e.to_string())?;
                Err(format!("addresses mapped to IPv6 count as IPv4; write {v4}"))
            }
            _ if v6.prefix_len() > V6_PREFIX_MAX => {
                let shorter = IpNet::new(v6.network().into(), V6_PREFIX_MAX);
                let shorter = shorter.map_err(|error| error.to_string())?.trunc();
                Err(format!("an IPv6 source is a whole /64; write {shorter}"))
            }
            _ => Ok(block),
        },
    }
}

fn not_a_block(text: &str) -> String {
    match text.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(IpAddr::V4(ip)) => format!("it has no prefix length; write {ip}/32"),
        Ok(ip) => match IpNet::new(ip, V6_PREFIX_MAX) {
            Ok(block) => format!("it has no prefix length; write {}", block.trunc()),
            Err(error) => error.to_string(),
        },
        Err(_) => "it is not a block of addresses".to_owned(),
    }
}

/// Reads blocks separated by commas. The hint names every bad one.
pub(super) fn read_list(text: &str) -> Result<Vec<IpNet>, Hint> {
    let (mut blocks, mut wrong) = (Vec::new(), Vec::new());
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match read(part) {
            Ok(block) => blocks.push(block),
            Err(problem) => wrong.push(format!("{part:?}: {problem}")),
        }
    }
    if wrong.is_empty() { Ok(blocks) } else { Err(Some(wrong.join("; "))) }
}

/// Reads a TOML list of blocks. Each bad one is a fault with its own place.
pub(super) fn read_toml(written: &Spanned<DeValue<'_>>) -> Result<Vec<IpNet>, Vec<Fault>> {
    let Some(items) = written.get_ref().as_array() else {
        return Err(vec![Fault::whole(Some("a list of strings is expected here".to_owned()))]);
    };
    let (mut blocks, mut faults) = (Vec::new(), Vec::new());
    for item in items.iter() {
        let at = item.span().start;
        match item.get_ref().as_str() {
            None => {
                let hint = "a list of strings is expected here".to_owned();
                faults.push(Fault::part(at, "(not a string)", hint));
            }
            Some(text) => match read(text) {
                Ok(block) => blocks.push(block),
                Err(problem) => faults.push(Fault::part(at, text, problem)),
            },
        }
    }
    if faults.is_empty() { Ok(blocks) } else { Err(faults) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn takes_one_spelling_of_a_block() {
        for text in ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.1/32", "::/0", "2001:db8:0:1::/64"] {
            assert_eq!(read(text).map(|block| block.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn says_what_to_write_instead() {
        for (text, instead) in [
            ("10.1.2.3/8", "write 10.0.0.0/8"),
            ("2001:db8::1/32", "write 2001:db8::/32"),
            ("10.1.2.3", "write 10.1.2.3/32"),
            ("2001:db8::1", "write 2001:db8::/64"),
            ("::ffff:10.1.2.3", "write 10.1.2.3/32"),
            ("::ffff:10.0.0.0/104", "write 10.0.0.0/8"),
            ("2001:db8::1/128", "write 2001:db8::/64"),
        ] {
            let problem = read(text).unwrap_err();
            assert!(problem.ends_with(instead), "{text}: {problem}");
            assert!(read(problem.rsplit(' ').next().unwrap_or_default()).is_ok(), "{problem}");
        }
        for text in [
            "",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.0/-1",
            "10.0.0.0/8 ",
            "::/129",
            "localhost/8",
        ] {
            assert_eq!(read(text), Err("it is not a block of addresses".to_owned()), "{text:?}");
        }
    }

    #[test]
    fn a_list_names_every_bad_one() {
        assert_eq!(read_list(" 10.0.0.0/8 , ::/0,").map(|blocks| blocks.len()), Ok(2));
        assert_eq!(read_list(""), Ok(Vec::new()));
        assert_eq!(
            read_list("10.0.0.1/8,10.0.0.0/8,x"),
            Err(Some(
                "\"10.0.0.1/8\": it has bits set behind its prefix; write 10.0.0.0/8; \"x\": it \
                 is not a block of addresses"
                    .to_owned()
            ))
        );
    }
}
