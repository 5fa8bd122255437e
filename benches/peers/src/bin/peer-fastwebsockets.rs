//! fastwebsockets on hyper and tokio, on one thread.

use std::convert::Infallible;
use std::error::Error;

use bytes::Bytes;
use fastwebsockets::{Frame, OpCode, Payload, WebSocketError, upgrade};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tidegate_peers::{Hub, News, address, listen};
use tokio::signal::unix::{SignalKind, signal};

async fn serve(
    upgraded: upgrade::UpgradeFut,
    path: String,
    hub: Hub,
) -> Result<(), WebSocketError> {
    let mut socket = upgraded.await?;
    socket.set_auto_pong(true);
    let mut news = hub.enter();
    loop {
        tokio::select! {
            frame = socket.read_frame() => {
                let frame = frame?;
                match frame.opcode {
                    OpCode::Close => return Ok(()),
                    OpCode::Text | OpCode::Binary if path == "/echo" => {
                        // Without the mask that it came with.
                        let echo = Frame::new(true, frame.opcode, None, frame.payload);
                        socket.write_frame(echo).await?;
                    }
                    OpCode::Text if path == "/publish" => {
                        hub.tell(&News::Text(String::from_utf8_lossy(&frame.payload).into_owned()));
                    }
                    _ => {}
                }
            }
            told = news.recv() => match told {
                Some(News::Text(text)) if path == "/ws" => {
                    let payload = Payload::Owned(text.into_bytes());
                    socket.write_frame(Frame::text(payload)).await?;
                }
                Some(News::Leave) => socket.write_frame(Frame::close(1001, b"")).await?,
                Some(News::Text(_)) => {}
                None => return Ok(()),
            },
        }
    }
}

async fn answer(
    mut request: Request<Incoming>,
    hub: Hub,
) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    let path = request.uri().path().to_owned();
    let (response, upgraded) = upgrade::upgrade(&mut request)?;
    tokio::task::spawn_local(async move {
        // How a connection ends is the client's business to count.
        let _ = serve(upgraded, path, hub).await;
    });
    Ok(response)
}

async fn run() -> Result<Infallible, Box<dyn Error>> {
    let hub = Hub::default();
    let listener = listen(address()?)?;
    let mut ended = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                stream.set_nodelay(true)?;
                let hub = hub.clone();
                tokio::task::spawn_local(async move {
                    let service = service_fn(move |request| answer(request, hub.clone()));
                    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    let _ = connection.with_upgrades().await;
                });
            },
            _ = ended.recv() => hub.tell(&News::Leave),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, run()).map(|_| ())
}
