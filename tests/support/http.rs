//! The admin API as a client without any library sees it.

use std::net::SocketAddr;

use serde_json::Value;

use super::wire;

/// The body of an answer with status 200.
#[track_caller]
pub(crate) fn get(admin: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    let (response, _) = wire::exchange(admin, request.as_bytes()).expect("the admin answers");
    assert_eq!(response.status, 200, "{path}: {}", response.body());
    response.body().to_owned()
}

/// The JSON in the answer, which must have status 200 or 202.
#[track_caller]
pub(crate) fn post(admin: SocketAddr, path: &str, body: &Value) -> Value {
    let (status, answer) = try_post(admin, path, body);
    assert!(matches!(status, 200 | 202), "{path}: {answer}");
    answer
}

/// Status and JSON of the answer.
#[track_caller]
pub(crate) fn try_post(admin: SocketAddr, path: &str, body: &Value) -> (u16, Value) {
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (response, _) = wire::exchange(admin, request.as_bytes()).expect("the admin answers");
    (response.status, serde_json::from_str(response.body()).expect("JSON"))
}
