//! What Redis answers is a number of texts, and may be anything.

use tidegate::redis::counts::{Answer, Standing};
use tidegate::redis::endpoint;

/// One field in a line; the whole is also read as a URL.
pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let fields: Vec<String> = text.split('\n').map(str::to_owned).collect();
    if let Some(answer) = Answer::read(&fields) {
        let mut standing = Standing::default();
        let before = standing.next_fence();
        let _ = standing.heard(answer);
        let _ = (before, standing.next_fence());
    }
    let _ = endpoint::check(&text);
}
