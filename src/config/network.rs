//! The form of one entry of a list of networks: CIDR, or a single address.

use std::net::IpAddr;

use ipnet::IpNet;

/// Reads one entry, or says what is wrong with it.
///
/// An entry that would mean something else than it says is refused: one with bits behind its
/// prefix, which is often a slip of the length, and an IPv4 network written as IPv6, which would
/// never match, because such addresses count as IPv4.
pub(super) fn parse(text: &str) -> Result<IpNet, String> {
    let network = if text.contains('/') {
        text.parse::<IpNet>().map_err(|_| "it is not a network in CIDR form".to_owned())?
    } else {
        let address = text.parse::<IpAddr>();
        address.map(IpNet::from).map_err(|_| "it is neither an address nor a network".to_owned())?
    };
    if let IpNet::V6(v6) = network
        && let Some(v4) = v6.addr().to_ipv4_mapped()
    {
        return match v6.prefix_len().checked_sub(96) {
            None => Err("write an IPv4 network as IPv4".to_owned()),
            Some(32) => Err(format!("write it as {v4}")),
            Some(len) => Err(format!("write it as {v4}/{len}")),
        };
    }
    if network.trunc() != network {
        return Err(format!("it has bits behind its prefix; the network is {}", network.trunc()));
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::parse;

    #[test]
    fn takes_networks_and_addresses() {
        for (text, network) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.7/32", "192.0.2.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd00::/8", "fd00::/8"),
            ("2001:DB8::1", "2001:db8::1/128"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), network);
        }
    }

    #[test]
    fn refuses_the_rest_and_says_why() {
        let neither = "it is neither an address nor a network";
        let no_cidr = "it is not a network in CIDR form";
        for (text, problem) in [
            ("", neither),
            ("localhost", neither),
            ("10.0.0", neither),
            ("10.0.0.1:80", neither),
            ("[::1]", neither),
            ("010.0.0.1", neither),
            ("fe80::1%eth0", neither),
            ("10.0.0.0/33", no_cidr),
            ("10.0.0.0/", no_cidr),
            ("10.0.0.0/-1", no_cidr),
            ("10.0.0.0/+8", no_cidr),
            ("10.0.0.0/8/8", no_cidr),
            ("10.0.0.0/255.0.0.0", no_cidr),
            ("::/129", no_cidr),
            ("10.0.0.1/8", "it has bits behind its prefix; the network is 10.0.0.0/8"),
            ("2001:db8::1/64", "it has bits behind its prefix; the network is 2001:db8::/64"),
            ("::ffff:10.0.0.0/104", "write it as 10.0.0.0/8"),
            ("::ffff:10.0.0.1", "write it as 10.0.0.1"),
        ] {
            assert_eq!(parse(text), Err(problem.to_owned()), "{text}");
        }
    }
}
