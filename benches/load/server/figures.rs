//! The server's figures, read from `/metrics` of its admin listener.
//!
//! One request on one connection each time, with the standard library: a few dozen a second are
//! nothing beside a flood.

use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::net::{TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than any page of figures.
const LONGEST_PAGE: u64 = 16 << 20;

/// `http://HOST:PORT`, without a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdminUrl {
    /// Host and port.
    pub(crate) authority: String,
}

impl Default for AdminUrl {
    /// The server's default.
    fn default() -> Self {
        Self { authority: String::from("127.0.0.1:8081") }
    }
}

impl FromStr for AdminUrl {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let authority = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        match authority {
            Some(authority) if authority.contains(':') && !authority.contains(['/', ' ', '@']) => {
                Ok(Self { authority: authority.to_owned() })
            }
            _ => Err(format!("{url:?}: want http://HOST:PORT")),
        }
    }
}

/// Where to ask, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) url: AdminUrl,
    pub(crate) token: Option<String>,
}

impl Admin {
    /// The figures now.
    ///
    /// # Errors
    /// No answer, or another status than 200; as a sentence.
    pub(crate) fn scrape(&self) -> Result<Figures, String> {
        let fail = |why: String| format!("http://{}/metrics: {why}", self.url.authority);
        let page = self.get().map_err(|error| fail(error.to_string()))?;
        let (head, body) = page.split_once("\r\n\r\n").unwrap_or((&page, ""));
        let line = head.lines().next().unwrap_or_default();
        match line.split(' ').nth(1) {
            Some("200") => Ok(Figures(body.to_owned())),
            _ => Err(fail(format!("answered {line:?}"))),
        }
    }

    fn get(&self) -> io::Result<String> {
        let authority = &self.url.authority;
        let address = authority.to_socket_addrs()?.next();
        let address = address.ok_or_else(|| io::Error::other("the name has no address"))?;
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut request = format!("GET /metrics HTTP/1.1\r\nHost: {authority}\r\n");
        if let Some(token) = &self.token {
            // Writing to a String cannot fail.
            let _ = write!(request, "Authorization: Bearer {token}\r\n");
        }
        request.push_str("Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut page = String::new();
        stream.take(LONGEST_PAGE).read_to_string(&mut page)?;
        Ok(page)
    }
}

/// One page.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(String);

impl Figures {
    /// The sum of a metric over all its labels.
    pub(crate) fn sum(&self, name: &str) -> u64 {
        self.samples(name).map(|(_, value)| value).sum()
    }

    /// A metric by the value of its only label.
    pub(crate) fn by_label(&self, name: &str) -> Vec<(String, u64)> {
        let label = |labels: &str| labels.split('"').nth(1).unwrap_or_default().to_owned();
        self.samples(name).map(|(labels, value)| (label(labels), value)).collect()
    }

    fn samples<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, u64)> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
            let (labels, value) = rest.rsplit_once(' ')?;
            Some((labels, value.parse::<f64>().ok()? as u64))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_admin_listeners() {
        for (url, authority) in
            [("http://127.0.0.1:8081", "127.0.0.1:8081"), ("http://[::1]:9/", "[::1]:9")]
        {
            assert_eq!(url.parse::<AdminUrl>().unwrap().authority, authority);
        }
        for wrong in ["127.0.0.1:8081", "https://a:1", "http://a:1/metrics", "http://a"] {
            assert!(wrong.parse::<AdminUrl>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn figures_are_summed_over_labels() {
        let page = "# TYPE a counter\na_total{reason=\"x\"} 3\na_total{reason=\"y\"} 4.0\n\
                    a_total_more 9\nb 7\n# EOF\n";
        let figures = Figures(page.to_owned());
        assert_eq!((figures.sum("a_total"), figures.sum("b"), figures.sum("c")), (7, 7, 0));
        assert_eq!(figures.by_label("a_total"), [("x".to_owned(), 3), ("y".to_owned(), 4)]);
    }
}
