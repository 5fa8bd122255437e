//! A second opinion on upgrade requests: a small parser that shares nothing with the server's,
//! slow and strict, for `/echo`.

/// True if a server must answer these bytes with 101: they begin with a complete and valid
/// request for `/echo` (RFC 9112, RFC 6455 section 4.2.1).
pub(crate) fn is_upgrade(bytes: &[u8]) -> bool {
    let mut start = 0;
    while bytes[start..].starts_with(b"\r\n") {
        start += 2;
    }
    let Some(end) = bytes[start..].windows(4).position(|window| window == b"\r\n\r\n") else {
        return false;
    };
    let end = start + end;
    // Latin-1: each byte is a character, so that nothing is lost.
    let head: String = bytes[start..end].iter().map(|byte| char::from(*byte)).collect();
    let mut lines = head.split("\r\n");
    let is_control = |c: char| (c < ' ' && c != '\t') || c == '\x7f';
    if end + 4 > 8192 || head.replace("\r\n", "").contains(is_control) {
        return false;
    }
    if !lines.next().is_some_and(is_request_line) {
        return false;
    }
    let headers: Option<Vec<(String, &str)>> = lines.map(header).collect();
    let Some(headers) = headers.filter(|headers| headers.len() <= 64) else { return false };
    let all = |name: &str| -> Vec<&str> {
        headers.iter().filter(|(found, _)| found == name).map(|(_, value)| *value).collect()
    };
    let lists = |name: &str, word: &str| {
        let values = all(name);
        let mut words = values.iter().flat_map(|value| value.split(','));
        words.any(|found| trim(found).eq_ignore_ascii_case(word))
    };
    let is_zero = |value: &&str| !value.is_empty() && value.chars().all(|c| c == '0');
    let content_length = all("content-length");
    matches!(all("host")[..], [host] if is_host(host))
        && all("transfer-encoding").is_empty()
        && content_length.len() <= 1
        && content_length.iter().all(is_zero)
        && lists("upgrade", "websocket")
        && lists("connection", "upgrade")
        && all("sec-websocket-version") == ["13"]
        && matches!(all("sec-websocket-key")[..], [key] if is_key(key))
        && all("sec-websocket-protocol").iter().all(|value| is_token_list(value))
        && match all("origin")[..] {
            [] => true,
            [origin] => String::from_utf8(origin.chars().map(|c| c as u8).collect()).is_ok(),
            _ => false,
        }
}

fn is_request_line(line: &str) -> bool {
    let parts: Vec<&str> = line.split(' ').collect();
    let [method, target, version] = parts[..] else { return false };
    let path = target.split('?').next().unwrap_or_default();
    let allowed = |c: char| ('!'..='~').contains(&c) && !"\"<>#".contains(c);
    method == "GET" && path == "/echo" && target.chars().all(allowed) && version == "HTTP/1.1"
}

fn header(line: &str) -> Option<(String, &str)> {
    let (name, value) = line.split_once(':')?;
    (!name.is_empty() && name.chars().all(is_token_char))
        .then(|| (name.to_ascii_lowercase(), trim(value)))
}

fn trim(value: &str) -> &str {
    value.trim_matches([' ', '\t'])
}

fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

fn is_token_list(value: &str) -> bool {
    value.split(',').all(|element| trim(element).chars().all(is_token_char))
}

fn is_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, ""));
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~%!$&'()*+,;=".contains(c);
    !name.is_empty()
        && name.chars().all(allowed)
        && port.len() <= 5
        && port.chars().all(|c| c.is_ascii_digit())
}

fn is_key(key: &str) -> bool {
    let base64 = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
    key.strip_suffix("==").is_some_and(|digits| digits.len() == 22 && digits.chars().all(base64))
}
