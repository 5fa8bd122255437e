//! From a request that is understood to its answer: looks at the state, sends commands to the
//! coordinator, publications to the shards. Acts on nothing itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::TrySendError;
use futures_channel::{mpsc, oneshot};
use monoio::time::{sleep, timeout};
use serde_json::{Value, json};

use super::error::{ApiError, ErrorKind};
use super::figures::Figures;
use super::foresight;
use super::last_shutdown::LastShutdown;
use super::metrics::{self, exposition::Exposition};
use super::moment::Moment;
use super::parse::{AdminRequest, FaultyThread};
use super::process::{self, Meter};
use super::publishing::{Publications, reach};
use super::render;
use super::route::{Show, speaks_centrifugo};
use super::server::AdminContext;
use crate::admission::HeavyHitters;
use crate::channels::publish::{broadcast_text, text_frame};
use crate::clock::Now;
use crate::coordinator::command::{Command, ReloadAnswer, ShutdownAnswer, Wish};
use crate::limits::{COORDINATOR_PATIENCE_MS, PUBLISH_PATIENCE_MS, SHARD_PATIENCE_MS};
use crate::log;
use crate::mesh::inbox::NotTaken;
use crate::mesh::message::{Fault, ShardMessage};
use crate::redis::relay::Relay;
use crate::sys::kernel;

const JSON: &str = "application/json";

/// An answer without its HTTP.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
    /// For 405.
    pub(super) allow: Option<String>,
    /// For 415: the body may not be compressed.
    pub(super) only_identity: bool,
    /// The content type was negotiated.
    pub(super) varies: bool,
    /// The number of an error of the server API.
    pub(super) api_error: Option<u16>,
}

/// How the server API tells errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorMode {
    /// By status.
    Status,
    /// As Centrifugo: by an error object in an answer with status 200, once the command is read.
    Object,
}

impl ErrorMode {
    /// By the path, and the header `X-Centrifugo-Error-Mode`.
    pub(super) fn asked(path: &str, header: Option<&[u8]>) -> Self {
        let wants_statuses =
            header.is_some_and(|mode| mode.trim_ascii().eq_ignore_ascii_case(b"transport"));
        if speaks_centrifugo(path) && !wants_statuses { Self::Object } else { Self::Status }
    }
}

impl Answer {
    fn new(status: u16, content_type: &'static str, body: Bytes) -> Self {
        Self {
            status,
            content_type,
            body,
            allow: None,
            only_identity: false,
            varies: false,
            api_error: None,
        }
    }

    pub(super) fn json(status: u16, value: &Value) -> Self {
        Self::new(status, JSON, Bytes::from(value.to_string() + "\n"))
    }

    /// The state of a shutdown after a command: 202 if that changed anything.
    fn changed(answer: &ShutdownAnswer) -> Self {
        let status = if answer.started { 202 } else { 200 };
        Self::json(status, &render::shutdown_answer(answer))
    }

    /// The answer for a request that was not done.
    pub(super) fn error(error: ApiError, path: &str, mode: ErrorMode) -> Self {
        let body = render::error(&error, path);
        let status = match mode {
            ErrorMode::Object if error.kind.is_outcome() => 200,
            ErrorMode::Object | ErrorMode::Status => error.kind.status(),
        };
        Self {
            allow: error.allow,
            only_identity: error.kind == ErrorKind::UnsupportedEncoding,
            api_error: speaks_centrifugo(path).then_some(error.kind.number()),
            ..Self::json(status, &body)
        }
    }
}

/// What answers are made from and with; on the worker's thread.
pub(super) struct AdminState {
    pub(super) context: AdminContext,
    publications: Publications,
    last_shutdown: Option<Arc<LastShutdown>>,
    meter: Meter,
    host: String,
    figures: Arc<Figures>,
}

impl AdminState {
    pub(super) fn new(
        mut context: AdminContext,
        publications: Publications,
        figures: Arc<Figures>,
    ) -> Self {
        Self {
            last_shutdown: context
                .last_shutdown
                .take()
                .map(|report| Arc::new(LastShutdown::new(report))),
            context,
            publications,
            meter: Meter::new(),
            host: kernel::host_name(),
            figures,
        }
    }

    /// Does what was asked for.
    ///
    /// # Errors
    /// 503 if the coordinator or a shard did not take it.
    pub(super) async fn answer(
        &self,
        request: AdminRequest,
        format: Exposition,
    ) -> Result<Answer, ApiError> {
        match request {
            AdminRequest::Show(show) => self.show(show, format),
            AdminRequest::Refused { limit } => {
                let answers = self.ask_shards(ShardMessage::TopRefused).await;
                Ok(Answer::json(200, &render::refused(&self.moment(), &answers, limit)))
            }
            AdminRequest::Shutdown { force, wish } => {
                let answer = self.shut_down(force, wish).await?;
                Ok(Answer::changed(&answer))
            }
            AdminRequest::Foresee(wish) => {
                Ok(Answer::json(200, &foresight::foresee(&self.moment(), wish)))
            }
            AdminRequest::Steer(steering) => {
                let answer = self.ask(|answer| Command::Steer { steering, answer }).await?;
                let conflict = |message| ApiError::new(ErrorKind::Conflict, message);
                answer.map_err(conflict).map(|answer| Answer::changed(&answer))
            }
            AdminRequest::Reload => {
                let (status, value) = render::reload_answer(&self.reload().await?);
                Ok(Answer::json(status, &value))
            }
            AdminRequest::BroadcastAll { message, title, level } => {
                let text = broadcast_text(&message, &title, &level);
                let frame = text_frame(&text);
                let begun = self.publications.begin(vec![ShardMessage::Broadcast { frame }])?;
                let relayed = self.relay().to_everybody(&text, self.relay_until());
                begun.done().await?;
                let reach = reach(relayed).await;
                Ok(Answer::json(202, &render::broadcast(&self.moment(), reach)))
            }
            AdminRequest::Publish { channels, data, entries } => {
                let frame = text_frame(&data);
                let messages = channels.iter().map(|channel| ShardMessage::Publish {
                    channel: channel.as_str().into(),
                    frame: Arc::clone(&frame),
                });
                let begun = self.publications.begin(messages.collect())?;
                let relayed = self.relay().to_channels(&channels, &data, self.relay_until());
                begun.done().await?;
                let reach = reach(relayed).await;
                Ok(Answer::json(200, &render::published(entries, reach)))
            }
            AdminRequest::Info => Ok(Answer::json(200, &render::info(&self.moment(), &self.host))),
            AdminRequest::Fault { thread, fault } => self.inject(thread, fault),
        }
    }

    fn show(&self, show: Show, format: Exposition) -> Result<Answer, ApiError> {
        let moment = self.moment();
        let (is_well, value) = match show {
            Show::Metrics => return page(moment, format),
            Show::Ready => render::ready(moment.phase(), &moment.timestamp),
            Show::Healthy => render::healthy(moment.phase(), &moment.timestamp),
            Show::Alive => (true, render::alive(&moment.timestamp)),
            Show::HealthStatus => (true, render::health_status(&moment)),
            Show::Shards => (true, render::shards(&moment)),
            Show::ShutdownStatus => (true, render::shutdown_status(&moment)),
            Show::Process => (true, render::process(&moment)),
            Show::Figures => (true, render::figures(&moment)),
            Show::Config => (true, render::config(&moment)),
            Show::Overview => (true, render::overview(&moment)),
        };
        Ok(Answer::json(if is_well { 200 } else { 503 }, &value))
    }

    /// To the other nodes.
    fn relay(&self) -> &Relay {
        &self.context.state.relay
    }

    /// Until when a publication that is handed over now is sent.
    fn relay_until(&self) -> Now {
        self.context.state.clock.now().plus_ms(PUBLISH_PATIENCE_MS)
    }

    fn moment(&self) -> Moment {
        let AdminContext { state, publisher, .. } = &self.context;
        let now = state.clock.now();
        let inboxes = (0..state.shards.len())
            .map(|shard| publisher.postbox(shard).map_or(0, |postbox| postbox.len()));
        Moment {
            redis: self.context.state.redis.view(),
            now,
            timestamp: format!("{:.3}", jiff::Timestamp::now()),
            process: process::read(&self.meter, Duration::from_nanos(now.ns())),
            inboxes: inboxes.collect(),
            last_shutdown: self.last_shutdown.clone(),
            admin: self.figures.read(),
            state: Arc::clone(state),
        }
    }

    async fn shut_down(&self, force: bool, wish: Wish) -> Result<ShutdownAnswer, ApiError> {
        let method = if force { "DELETE" } else { "POST" };
        let reason = format!("{method} /api/v1/shutdown/shutdown");
        self.ask(|answer| Command::Shutdown { force, reason, wish, answer }).await
    }

    async fn reload(&self) -> Result<ReloadAnswer, ApiError> {
        let cause = "POST /api/v1/config/reload".to_owned();
        self.ask(|answer| Command::Reload { cause, answer: Some(answer) }).await
    }

    /// Gives the coordinator a command and waits for the answer.
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, ApiError> {
        let (answer, answered) = oneshot::channel();
        self.context.commands.try_send(command(answer)).map_err(|error| {
            ApiError::unavailable(match error {
                TrySendError::Full(_) => {
                    "not done: the coordinator has too many commands waiting; try again, or send \
                     a signal"
                }
                TrySendError::Disconnected(_) => "not done: the coordinator has ended",
            })
        })?;
        match timeout(Duration::from_millis(COORDINATOR_PATIENCE_MS), answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(oneshot::Canceled)) => {
                Err(ApiError::unavailable("the coordinator ended without an answer"))
            }
            Err(_) => Err(ApiError::unavailable(format!(
                "the coordinator has the command and did not answer within \
                 {COORDINATOR_PATIENCE_MS} ms; GET /api/v1/shutdown/overview shows what it does"
            ))),
        }
    }

    /// Asks every shard and waits for the answers; without those of shards that have no room for
    /// the question, are gone, or do not answer in time.
    async fn ask_shards(
        &self,
        question: impl Fn(mpsc::UnboundedSender<Box<HeavyHitters>>) -> ShardMessage,
    ) -> Vec<HeavyHitters> {
        let (reply, mut replies) = mpsc::unbounded();
        let publisher = &self.context.publisher;
        for postbox in (0..self.context.state.shards.len()).filter_map(|n| publisher.postbox(n)) {
            // A question that is not taken is one answer less, which the answer shows.
            let _ = postbox.post(question(reply.clone()));
        }
        drop(reply);
        let mut answers = Vec::new();
        let collecting = async {
            while let Ok(answer) = replies.recv().await {
                answers.push(*answer);
            }
        };
        let _ = timeout(Duration::from_millis(SHARD_PATIENCE_MS), collecting).await;
        answers
    }

    fn inject(&self, thread: FaultyThread, fault: Fault) -> Result<Answer, ApiError> {
        let shard = match thread {
            FaultyThread::Shard(shard) => shard,
            FaultyThread::Coordinator => {
                let full = |_| ApiError::unavailable("the coordinator's inbox is full".to_owned());
                self.context.commands.try_send(Command::Fault(fault)).map_err(full)?;
                return Ok(injected(None));
            }
            thread => {
                if let Fault::Stall(ms) = fault {
                    self.stall(thread, ms);
                }
                return Ok(injected(None));
            }
        };
        let gone = || ApiError::unavailable(format!("shard {shard} does not run any more"));
        let postbox = self.context.publisher.postbox(shard).ok_or_else(gone)?;
        match postbox.post(ShardMessage::Fault(fault)) {
            Ok(()) => Ok(injected(Some(shard))),
            Err(NotTaken::Gone(_)) => Err(gone()),
            Err(NotTaken::Full(_)) => {
                Err(ApiError::unavailable(format!("the inbox of shard {shard} is full")))
            }
        }
    }

    fn stall(&self, thread: FaultyThread, ms: u64) {
        match thread {
            FaultyThread::Log => drop(log::stall(ms)),
            FaultyThread::Resources => self.context.state.resources.stall(ms),
            FaultyThread::Admin => {
                // Once this is answered.
                monoio::spawn(async move {
                    sleep(ANSWERED).await;
                    std::thread::sleep(Duration::from_millis(ms));
                });
            }
            FaultyThread::Shard(_) | FaultyThread::Coordinator => {}
        }
    }
}

/// How long an answer takes that is made before the thread stands still.
const ANSWERED: Duration = Duration::from_millis(50);

fn injected(shard: Option<usize>) -> Answer {
    Answer::json(202, &json!({ "accepted": true, "shard": shard }))
}

fn page(moment: Moment, format: Exposition) -> Result<Answer, ApiError> {
    let text = metrics::text(moment)
        .map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?;
    let body = Bytes::from(format.of(text));
    Ok(Answer { varies: true, ..Answer::new(200, format.content_type(), body) })
}
