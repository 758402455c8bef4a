//! Starting and stopping: listeners first, so that a port in use is an error and not a server without an API.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use store::{Etcd, EtcdOptions, LogLimits, OpenError, Options, Redb, Store, StoreError};
use stream::{Credentials, ServeError};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Auth, Tokens, TokensError};
use crate::config::{self, AuthMode, Config, ConfigError};
use crate::http::{self, Listener};
use crate::neutron::{self, Settings};
use crate::views::{self, Views};
use crate::{Core, Tx, WriteError, ipam, octavia};

/// Requests under way have so long to end when the server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often blocks without ports are looked for.
const IDLE_BLOCKS_PERIOD: Duration = Duration::from_secs(10);

/// Why the server does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Tokens(#[from] TokensError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "the API cannot listen on {address}: {source}; no server runs here, and switches go on with what they have; see what else listens there"
    )]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("nodes' streams cannot be served")]
    Views(#[from] ServeError),
    #[error(
        "the API cannot listen on {path}: {source}; no server runs here, and switches go on with what they have; check the directory and who may \
         write there"
    )]
    Socket { path: PathBuf, source: std::io::Error },
    #[error(
        "the part that tells nodes what changes has ended by a fault, which the log shows: switches go on with what they have, and the server \
         ends so that its service manager starts it again"
    )]
    ViewsEnded,
    #[error(
        "the part that writes the store has ended by a fault, which the log shows: nothing can be changed, and the server ends so that its service manager starts it again"
    )]
    WriterEnded,
}

/// A running server. Dropping it stops the listeners without waiting.
pub struct Server {
    core: Core,
    addresses: Vec<SocketAddr>,
    views_address: Option<SocketAddr>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// What the server cannot go on without.
    vital: oneshot::Receiver<RunError>,
    #[cfg(test)]
    views: Views,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Runs the server until `shutdown`, or until a part of it has failed that it cannot go on without.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    Server::start(config).await?.run(shutdown).await
}

impl Server {
    /// Opens the store and starts all listeners.
    pub async fn start(config: Config) -> Result<Server, RunError> {
        config.check()?;
        let auth = auth(&config.api)?;
        let (listeners, addresses) = listeners(&config.api).await?;
        let nodes = stream::Listener::bind(config.views.listen, credentials(&config.views)).await?;
        let views_address = nodes.address();
        let store = config.store.clone();
        let open = move || Ok::<Core, RunError>(Core::start(open_store(&store)?)?);
        let core = tokio::task::spawn_blocking(open).await.expect("opening a store does not panic")?;
        let views = Views::start(core.clone());
        let (failed, vital) = oneshot::channel();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let server = Server {
            core,
            addresses,
            views_address,
            tasks,
            stop,
            vital,
            #[cfg(test)]
            views: views.clone(),
        };
        let settings = Settings { network_mtu: config.network.mtu, network_type: config.network.tunnel };
        let application = http::application(routes(&server.core, &views, settings, &server.stop), auth);
        for listener in listeners {
            server.tasks.spawn(listener.serve(application.clone(), server.stop.clone()));
        }
        server.tasks.spawn(watch(server.core.clone(), views, nodes, failed, server.stop.clone()));
        server.tasks.spawn(release_idle_blocks(server.core.clone(), server.stop.clone()));
        tracing::info!("the API listens on {:?}, nodes' streams on {:?}", server.addresses, server.views_address);
        Ok(server)
    }

    async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        let outcome = tokio::select! {
            () = shutdown => Ok(()),
            // Whoever should have said what failed has failed itself.
            failed = &mut self.vital => Err(failed.unwrap_or(RunError::ViewsEnded)),
        };
        self.stop().await;
        outcome
    }

    /// Where the API listens: the ports that were chosen where the configuration says 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where nodes open their streams.
    pub fn views_address(&self) -> Option<SocketAddr> {
        self.views_address
    }

    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Stops listening and lets requests under way end.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("some requests did not end within {STOP_TIMEOUT:?}: they are cut off; nothing that was answered is lost");
        }
    }
}

/// Neutron's and Octavia's API, and the operator's questions.
fn routes(core: &Core, views: &Views, settings: Settings, stop: &CancellationToken) -> Router {
    let neutron = neutron::routes_with_claims(core.clone(), settings, views.claims());
    let apis = octavia::routes(core.clone()).merge(neutron);
    apis.merge(views::routes(views.clone(), stop.clone()))
}

fn credentials(config: &config::Views) -> Credentials {
    Credentials { certificate: config.certificate.clone(), key: config.key.clone(), ca: config.ca.clone() }
}

/// Serves nodes' streams until the end, and tells what failed. An API whose changes reach nobody would only look alive.
async fn watch(core: Core, views: Views, listener: stream::Listener, failed: oneshot::Sender<RunError>, stop: CancellationToken) {
    let error = tokio::select! {
        biased;
        served = views.serve(listener, stop.cancelled()) => match served {
            Err(error) => error.into(),
            Ok(()) if stop.is_cancelled() => return,
            Ok(()) => RunError::ViewsEnded,
        },
        () = views.ended() => RunError::ViewsEnded,
        () = core.ended() => RunError::WriterEnded,
    };
    // Nobody waits for it where the server is not run but used.
    drop(failed.send(error));
}

fn auth(api: &config::Api) -> Result<Auth, RunError> {
    match (api.auth, &api.tokens) {
        (AuthMode::None, _) => Ok(Auth::None),
        (AuthMode::Tokens, Some(path)) => Ok(Auth::Tokens(Arc::new(Tokens::read(path)?))),
        (AuthMode::Tokens, None) => Err(ConfigError::NoTokens.into()),
    }
}

async fn listeners(api: &config::Api) -> Result<(Vec<Listener>, Vec<SocketAddr>), RunError> {
    let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
    for address in &api.listen {
        let failed = |source| RunError::Listen { address: *address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        addresses.push(listener.local_addr().map_err(failed)?);
        listeners.push(Listener::Tcp(listener));
    }
    if let Some(path) = &api.socket {
        listeners.push(Listener::Unix(socket(path).map_err(|source| RunError::Socket { path: path.clone(), source })?));
    }
    Ok((listeners, addresses))
}

/// A unix socket that its owner and group may use. One that a dead server left behind is replaced.
fn socket(path: &Path) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// The store that a configuration names. Nothing is read yet.
pub fn open_store(config: &config::Store) -> Result<Arc<dyn Store>, RunError> {
    let age = Duration::from_secs(config.log_hours.saturating_mul(3600));
    if let Some(path) = config.file() {
        let log = LogLimits { age, bytes: config.log_mib << 20 };
        return Ok(Arc::new(Redb::open(path, Options { log, ..Options::default() })?));
    }
    let config::Etcd { endpoints, ca, certificate, key, user, password_file, prefix, compact } = config.etcd.clone();
    let options = EtcdOptions { endpoints, ca, certificate, key, user, password_file, prefix, keep: compact.then_some(age) };
    Ok(Arc::new(Etcd::new(options).map_err(|source| StoreError::Failed { doing: "starting its threads", source: source.into() })?))
}

/// Gives blocks back whose last port is gone for long enough.
async fn release_idle_blocks(core: Core, stop: CancellationToken) {
    let mut period = tokio::time::interval(IDLE_BLOCKS_PERIOD);
    while stop.run_until_cancelled(period.tick()).await.is_some() {
        if ipam::idle_blocks(&core.state(), None).next().is_none() {
            continue;
        }
        if let Err(error) = core.write(|tx: &mut Tx| Ok::<usize, WriteError>(ipam::release_idle(tx, None))).await {
            tracing::warn!("address blocks without ports were not given back, which is tried again: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use stream::pki::Authority;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_whose_views_have_ended_ends_with_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let credentials = Authority::open(directory.path()).unwrap().server().unwrap();
        let mut config = Config::default();
        config.store.path = Some(directory.path().join("store"));
        config.api.listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.views.listen = "127.0.0.1:0".parse().unwrap();
        (config.views.certificate, config.views.key, config.views.ca) = (credentials.certificate, credentials.key, credentials.ca);
        let server = Server::start(config.clone()).await.unwrap();
        let address = server.addresses()[0];
        server.views.break_owner().await;
        let outcome = tokio::time::timeout(STOP_TIMEOUT * 2, server.run(std::future::pending())).await.expect("it ends");
        assert!(matches!(outcome, Err(RunError::ViewsEnded)), "{outcome:?}");
        assert!(tokio::net::TcpStream::connect(address).await.is_err(), "the API has ended, too");
        config.store.path = Some(directory.path().join("another"));
        run(config, async {}).await.expect("told to stop, it ends well");
    }
}
