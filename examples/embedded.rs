//! A program with a Tidegate in it: it serves a path of its own, publishes, has a resource closed
//! at the end, and shuts the server down within a deadline. `cargo run --example embedded`
//!
//! The logger and the signals are the program's: the server touches neither.

use std::error::Error;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidegate::Server;
use tidegate::config::Config;
use tidegate::handler::{Effect, Effects, Handler, Inbound};
use tidegate::resources::{Resource, Stage, Statistics};
use tungstenite::Message;

/// Says everything louder, and subscribes everybody to one channel. One for each shard, so it
/// needs no lock of its own; what all of them share is counted in one number.
struct Shout {
    messages: Arc<AtomicU64>,
}

impl Handler for Shout {
    fn receive(&mut self, inbound: Inbound<'_>, effects: &mut Effects) {
        match inbound {
            Inbound::Opening { .. } => effects.push(Effect::Subscribe("town".to_owned())),
            Inbound::Text(text) => {
                self.messages.fetch_add(1, Ordering::Relaxed);
                effects.text(&text.to_uppercase());
            }
            Inbound::Binary(_) => effects.push(Effect::Close(1003, "text only".to_owned())),
        }
    }
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let messages = Arc::new(AtomicU64::new(0));
    let mut config = Config::default();
    config.server.listen = "127.0.0.1:0".parse()?;
    config.admin.listen = "127.0.0.1:0".parse()?;
    config.server.shards = 2;

    let (shared, counted) = (Arc::clone(&messages), Arc::clone(&messages));
    let server = Server::new(config)
        .handler("/shout", move || Shout { messages: Arc::clone(&shared) })
        .resource(Resource::blocking("message store", Stage::Database, move || {
            Ok(Statistics::none().with("Messages", counted.load(Ordering::Relaxed)))
        }))
        .start()?;
    println!("clients: ws://{}/shout   figures: http://{}", server.clients(), server.admin());

    let url = format!("ws://{}/shout", server.clients());
    let (mut client, _) = tungstenite::client(url, TcpStream::connect(server.clients())?)?;
    client.send(Message::text("hello"))?;
    assert_eq!(client.read()?, Message::text("HELLO"));
    server.publish("town", "market day")?;
    assert_eq!(client.read()?, Message::text("market day"));
    // From here on it reads notice and goodbye, and answers Close, on a thread of its own.
    let client = std::thread::spawn(move || while client.read().is_ok() {});

    let report = server.shutdown(Duration::from_secs(20))?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    assert_eq!(report.outcomes["close_acknowledged"], 1);
    client.join().map_err(|_| "the client panicked")?;
    Ok(())
}
