//! Requests to the admin API: any method, path, query and body have a status.

/// Method, path, query and content type in a line each, then the body.
pub fn run(input: &[u8]) {
    let mut parts = input.splitn(5, |byte| *byte == b'\n');
    let mut line = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (method, path, query, content_type) = (line(), line(), line(), line());
    let body = parts.next().unwrap_or_default();
    let status =
        tidegate::admin::judge(&method, &path, Some(&query), content_type.as_bytes(), body);
    assert!(matches!(status, 200 | 400 | 404 | 405 | 413 | 415), "{status}");
    if status == 200 && method == "POST" {
        assert!(content_type.to_ascii_lowercase().contains("application/json"));
    }
}
