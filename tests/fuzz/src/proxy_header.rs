//! PROXY headers: cuts change nothing, and a header has its bounds.

use tidegate::client_address::proxy_header::{Header, HeaderReader, V2_BYTES_MAX};

/// The size of a chunk, and the bytes.
pub fn run(input: &[u8]) {
    let [step, bytes @ ..] = input else { return };
    let whole = HeaderReader::default().read(bytes);
    let mut reader = HeaderReader::default();
    let mut end = 0;
    let pieces = loop {
        end = (end + 1 + usize::from(*step)).min(bytes.len());
        let outcome = reader.read(&bytes[..end]);
        if outcome != Ok(Header::Incomplete) || end == bytes.len() {
            break outcome;
        }
    };
    assert_eq!(whole, pieces);
    match whole {
        Ok(Header::Complete { len, .. }) => assert!(len <= bytes.len() && len <= V2_BYTES_MAX),
        Ok(Header::Incomplete) => assert!(bytes.len() < V2_BYTES_MAX),
        _ => {}
    }
}
