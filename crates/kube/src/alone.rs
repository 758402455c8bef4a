//! One `ladon kube` of a name on one machine.
//!
//! The Lease tells instances apart by their holder, which is the same after a restart on purpose. So two processes with one
//! holder would both be active, and neither would notice. An abstract unix socket named after cluster and holder is one
//! process's at a time; the kernel takes it back however that process ends. It is seen in one network namespace only:
//! instances on different machines are the Lease's business.

use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// How long an instance waits for another one of its name, before it gives up.
const NAME_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between two attempts to have the name.
const NAME_PAUSE: Duration = Duration::from_millis(10);

/// Why this instance is not the only one of its name.
#[derive(Debug, thiserror::Error)]
pub enum AloneError {
    #[error(
        "another `ladon kube` runs on this machine for cluster {cluster} as {holder}; this one changes nothing, and traffic, pods and \
         Services go on with the other; stop one of them, or give each its own `lease.holder`"
    )]
    Taken { cluster: String, holder: String },
    #[error("making sure that no other `ladon kube` is {holder}; nothing is changed and traffic goes on; see what the machine lacks")]
    Io {
        holder: String,
        #[source]
        source: io::Error,
    },
}

/// The name is this process's, for as long as this lives.
#[derive(Debug)]
pub struct Alone {
    _socket: UnixListener,
}

impl Alone {
    /// Takes the name. A predecessor that was killed may still be on its way out: it is waited for.
    pub async fn take(cluster: &str, holder: &str) -> Result<Alone, AloneError> {
        let io = |source| AloneError::Io { holder: holder.into(), source };
        let address = SocketAddr::from_abstract_name(name(cluster, holder)).map_err(io)?;
        let deadline = Instant::now() + NAME_TIMEOUT;
        loop {
            match UnixListener::bind_addr(&address) {
                Ok(socket) => return Ok(Alone { _socket: socket }),
                Err(error) if error.kind() != ErrorKind::AddrInUse => return Err(io(error)),
                Err(_) if Instant::now() < deadline => sleep(NAME_PAUSE).await,
                Err(_) => return Err(AloneError::Taken { cluster: cluster.into(), holder: holder.into() }),
            }
        }
    }
}

/// Both names may be longer than a socket's.
fn name(cluster: &str, holder: &str) -> String {
    let both = format!("{}/{cluster}/{holder}", cluster.len());
    format!("ladon-kube/{}", Uuid::new_v5(&Uuid::NAMESPACE_OID, both.as_bytes()).simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_instance_of_a_name_is_refused_and_another_name_is_not() {
        let (cluster, holder) = (format!("alone-{}", std::process::id()), "h".repeat(300));
        let first = Alone::take(&cluster, &holder).await.unwrap();
        let begun = Instant::now();
        let refused = Alone::take(&cluster, &holder).await.unwrap_err();
        assert_eq!(begun.elapsed().as_secs(), NAME_TIMEOUT.as_secs());
        assert!(matches!(&refused, AloneError::Taken { .. }) && refused.to_string().contains(&cluster), "{refused}");
        let _others = (Alone::take(&cluster, "other").await.unwrap(), Alone::take("other", &holder).await.unwrap());
        drop(first);
        Alone::take(&cluster, &holder).await.unwrap();
    }

    #[tokio::test]
    async fn a_predecessor_on_its_way_out_is_waited_for() {
        let cluster = format!("heir-{}", std::process::id());
        let first = Alone::take(&cluster, "a").await.unwrap();
        let (heir, ()) = tokio::join!(Alone::take(&cluster, "a"), async move {
            tokio::task::yield_now().await;
            drop(first);
        });
        heir.unwrap();
    }
}
