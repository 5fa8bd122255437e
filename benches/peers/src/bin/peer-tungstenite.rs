//! tokio-tungstenite, on one thread.

use std::error::Error;

use futures_util::{SinkExt, StreamExt};
use tidegate_peers::{Hub, News, address, listen};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

#[allow(clippy::result_large_err)]
async fn serve(stream: TcpStream, hub: Hub) -> Result<(), Box<dyn Error>> {
    stream.set_nodelay(true)?;
    let mut path = String::new();
    let note = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        request.uri().path().clone_into(&mut path);
        Ok(response)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, note).await?;
    let mut news = hub.enter();
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) if path == "/echo" => {
                    socket.send(message).await?;
                }
                Some(Ok(Message::Text(text))) if path == "/publish" => {
                    hub.tell(&News::Text(text.to_string()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Ok(()),
            },
            told = news.recv() => match told {
                Some(News::Text(text)) if path == "/ws" => {
                    socket.send(Message::text(text)).await?;
                }
                Some(News::Leave) => {
                    let close = CloseFrame { code: 1001.into(), reason: "".into() };
                    socket.close(Some(close)).await?;
                }
                Some(News::Text(_)) => {}
                None => return Ok(()),
            },
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let hub = Hub::default();
    let listener = listen(address()?)?;
    let mut ended = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                let hub = hub.clone();
                tokio::task::spawn_local(async move {
                    // How a connection ends is the client's business to count.
                    let _ = serve(stream, hub).await;
                });
            },
            _ = ended.recv() => hub.tell(&News::Leave),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, run())
}
