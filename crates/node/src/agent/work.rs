//! One piece of work for the switch at a time, while the agent goes on listening.

use apps::Engine;
use openflow::{FlowMod, InstalledGroup};
use pipeline::{Fingerprint, Generation};
use tokio::task::JoinHandle;

use super::InForce;
use super::half::{self, Compared, Installed};
use super::pending::{Job, Stuck, Unwritable};
use crate::switch::{Changes, CommitError, Switch, SwitchError};
use crate::translate;

/// What the switch is busy with.
pub enum Busy {
    /// Telling what it has: nothing can be written before it is known where.
    Telling(JoinHandle<Result<Installed, SwitchError>>),
    /// A piece of work, and what is in force when it is done.
    Taking(JoinHandle<Result<Option<Compared>, CommitError>>, InForce),
}

/// What came of it.
pub enum Done {
    Told(Result<Installed, SwitchError>),
    Taken(Result<Option<Compared>, CommitError>, InForce),
}

pub async fn finished(busy: &mut Option<Busy>) -> Done {
    const STOPPED: SwitchError = SwitchError::Stopped;
    match busy {
        None => std::future::pending().await,
        Some(Busy::Telling(task)) => {
            let result = task.await.unwrap_or(Err(STOPPED));
            *busy = None;
            Done::Told(result)
        }
        Some(Busy::Taking(task, in_force)) => {
            let result = task.await.unwrap_or(Err(STOPPED.into()));
            let in_force = std::mem::take(in_force);
            *busy = None;
            Done::Taken(result, in_force)
        }
    }
}

/// All that the switch should have.
pub fn desired(engine: &Engine, half: Generation, own: Fingerprint, unwritable: &mut Unwritable) -> (Vec<FlowMod>, Vec<InstalledGroup>) {
    let written = engine.flows().filter_map(|flow| unwritable.write(&flow, half));
    let flows = written.chain(translate::misses(half)).chain([translate::dispatch(half, own)]).collect();
    (flows, engine.groups().map(|group| translate::group(group, half)).collect())
}

pub async fn carry_out(
    switch: Switch,
    job: Job,
    installed: Option<Installed>,
    half: Generation,
    is_drained: bool,
) -> Result<Option<Compared>, CommitError> {
    for zone in &job.flush {
        switch.ct_flush_zone(*zone).await?;
    }
    match job.everything {
        Some(desired) => half::compare(&switch, half, is_drained, desired, installed, &job.stuck).await.map(Some),
        None => switch.commit(job.changes).await.map(|()| None),
    }
}

/// What others may have changed without a word.
pub async fn put_right(
    switch: Switch,
    half: Generation,
    desired: Vec<InstalledGroup>,
    stuck: Stuck,
) -> Result<Option<Compared>, CommitError> {
    half::put_meters_right(&switch).await?;
    let mut installed = switch.dump_groups().await?;
    installed.retain(|group| !stuck.groups.contains(&group.id));
    let groups = crate::install::groups(half, desired, &installed);
    if groups.is_empty() {
        return Ok(None);
    }
    tracing::warn!(groups = groups.len(), "somebody else has changed groups of the switch, so packets went astray; they are put right");
    switch.commit(Changes { groups, flows: Vec::new() }).await.map(|()| None)
}
