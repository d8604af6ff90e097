//! A request on a plain socket, for tests that tell apart why there is no response.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends a request to a backend named `a` and reads its response. Returns whether the connection stays open for another
/// request.
///
/// # Errors
/// What came instead of a 200.
pub async fn exchange(stream: &mut TcpStream, request: &[u8]) -> Result<bool, String> {
    stream.write_all(request).await.map_err(|error| format!("sending: {error}"))?;
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\na") {
        match stream.read_buf(&mut response).await {
            Ok(0) => return Err(format!("the end after {:?}", String::from_utf8_lossy(&response))),
            Ok(_) => {}
            Err(error) => return Err(format!("{error} after {:?}", String::from_utf8_lossy(&response))),
        }
    }
    let head = String::from_utf8_lossy(&response).to_lowercase();
    if head.starts_with("http/1.1 200") { Ok(!head.contains("connection: close")) } else { Err(head) }
}
