//! What `ladon server`, `ladon node` and `ladon kube` have in common: logs and signals.

use std::io;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// How long a part may take to stop; after that it is left where it is, which every part survives.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How the log looks. What is in it, RUST_LOG says.
#[derive(Args)]
pub struct Logging {
    /// Lines for people, or JSON for programs. RUST_LOG chooses what is logged: `RUST_LOG=info,node=debug`
    #[arg(long, env = "LADON_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Runs a part until it ends or SIGTERM or SIGINT comes. `stop` then tells it to finish; a second signal does not wait.
pub fn run<F>(name: &str, logging: &Logging, part: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    start_log(logging.log_format);
    if let Err(error) = raise_open_files() {
        tracing::warn!("the limit on open files stays as it is: {error}; nothing is wrong as long as it is enough");
    }
    // Two providers are compiled in through our dependencies: say which.
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let outcome = runtime.block_on(async {
        let stop = CancellationToken::new();
        tokio::select! {
            outcome = part(stop.clone()) => outcome,
            stopped = watch_signals(name, stop) => stopped,
        }
    });
    runtime.shutdown_timeout(STOP_TIMEOUT);
    outcome
}

/// Every node is an open file of its server's: as many as the service manager permits, whatever is usual for a shell.
fn raise_open_files() -> nix::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)
}

/// Ends only when the part has been given its time, or at the second signal.
async fn watch_signals(name: &str, stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut signalled = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    signalled().await;
    tracing::info!("ladon {name} stops");
    stop.cancel();
    part_with(name, signalled()).await;
    Ok(())
}

/// Gives a part that was told to stop its time, unless somebody is in a `hurry`.
async fn part_with(name: &str, hurry: impl Future<Output = ()>) {
    tokio::select! {
        () = hurry => {}
        () = tokio::time::sleep(STOP_TIMEOUT) => tracing::warn!("ladon {name} did not stop within {} s and is left where it is", STOP_TIMEOUT.as_secs()),
    }
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Stderr).log_internal_errors(false);
    match format {
        LogFormat::Text => log.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

/// Standard error as a log's end. Whoever reads it may go away, and the disk behind it may fill up: lines are lost then, and
/// nothing else is.
struct Stderr;

impl io::Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        Ok(io::stderr().write(line).unwrap_or(line.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_part_that_does_not_stop_is_left_where_it_is_after_a_while_or_when_somebody_is_in_a_hurry() {
        let told = Instant::now();
        part_with("test", std::future::pending()).await;
        assert_eq!(told.elapsed().as_secs(), STOP_TIMEOUT.as_secs());
        part_with("test", std::future::ready(())).await;
        assert_eq!(told.elapsed().as_secs(), STOP_TIMEOUT.as_secs());
    }
}
