//! Which half of the switch's tables this node writes, and when the other may be cleared.
//!
//! Read once from the switch after the first connection, and then kept: a release's pipeline does not change while it runs, and
//! what somebody else does to table 0 is mended like any other flow.

use std::time::Duration;

use openflow::{FlowMod, InstalledFlow, InstalledGroup};
use pipeline::{Fingerprint, Generation};
use tokio::time::Instant;

use super::pending::Stuck;
use crate::install;
use crate::switch::{Changes, CommitError, Switch, SwitchError, meters};
use crate::translate;

/// A packet that entered the other half before the turn has left it after so long: the datapath has looked anew at all ways that it
/// remembers, those of recirculated packets among them.
const DRAIN: Duration = Duration::from_secs(10);

/// What the switch has.
#[derive(Debug)]
pub struct Installed {
    pub flows: Vec<InstalledFlow>,
    pub groups: Vec<InstalledGroup>,
}

impl Installed {
    /// Reads it. To a switch that has no flow which names a meter, the meters are given at once: that needs no view, and takes long.
    pub async fn read(switch: &Switch) -> Result<Installed, SwitchError> {
        let installed = Installed { flows: switch.dump_flows().await?, groups: switch.dump_groups().await? };
        if !installed.flows.iter().any(meters::are_named) {
            switch.ensure_meters().await?;
        }
        Ok(installed)
    }
}

/// What a comparison with the switch came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compared {
    /// Table 0 led to the other half before.
    pub is_turned: bool,
    /// The other half holds something still.
    pub is_left_over: bool,
}

#[derive(Debug)]
pub struct Half {
    own: Fingerprint,
    written: Option<Generation>,
    /// A comparison has ended well.
    has_compared: bool,
    /// From then on no packet is on its way in the other half.
    drained_at: Instant,
    clear_at: Option<Instant>,
}

impl Half {
    /// The half of a node with the pipeline `own`, not known yet.
    pub fn new(own: Fingerprint) -> Half {
        Half { own, written: None, has_compared: false, drained_at: Instant::now(), clear_at: None }
    }

    pub fn own(&self) -> Fingerprint {
        self.own
    }

    /// The half that this node writes, once it is known.
    pub fn written(&self) -> Option<Generation> {
        self.written
    }

    /// Whether what the other half holds may go.
    pub fn is_drained(&self) -> bool {
        self.has_compared && Instant::now() >= self.drained_at
    }

    /// When the switch should be compared to clear the other half, if that has to be done.
    pub fn clear_at(&self) -> Option<Instant> {
        self.clear_at
    }

    pub fn clear_now(&mut self) {
        self.clear_at = None;
    }

    /// Takes in what the switch has, table 0 above all. The half, and whether it is in force. When it came into force is not known: a
    /// predecessor may have been killed a moment ago.
    pub fn read(&mut self, installed: &Installed) -> (Generation, bool) {
        let (half, is_in_force) = install::to_write(&installed.flows, self.own);
        self.written = Some(half);
        self.drained_at = Instant::now() + DRAIN;
        (half, is_in_force)
    }

    pub fn compared(&mut self, compared: Compared) {
        // A turn that nobody heard of, or of which something was refused, may have been a moment ago.
        let is_first = !std::mem::replace(&mut self.has_compared, true);
        if is_first || compared.is_turned {
            self.drained_at = Instant::now() + DRAIN;
        }
        self.clear_at = compared.is_left_over.then_some(self.drained_at);
    }
}

/// Compares the switch with all that it should have in `half`, and makes it so; what is left over in the other half goes only if
/// that is `drained`, and what is `stuck` stays. What is `installed` is read unless it is known.
pub async fn compare(
    switch: &Switch,
    half: Generation,
    is_drained: bool,
    (flows, groups): (Vec<FlowMod>, Vec<InstalledGroup>),
    installed: Option<Installed>,
    stuck: &Stuck,
) -> Result<Compared, CommitError> {
    let Installed { flows: mut installed, groups: mut installed_groups } = match installed {
        Some(known) => known,
        None => Installed::read(switch).await?,
    };
    if installed.iter().any(meters::are_named) {
        switch.ensure_meters().await?;
    }
    if switch.has_newer_meters() {
        write_metered_anew(switch, &installed).await?;
    }
    if !stuck.flows.is_empty() {
        installed.retain(|flow| !stuck.flows.contains(&flow.key()));
    }
    installed_groups.retain(|group| !stuck.groups.contains(&group.id));
    let plan = install::plan(half, flows, groups, &installed, &installed_groups);
    let left_over = plan.other_half.len();
    let changes = plan.len() - if is_drained { 0 } else { left_over };
    tracing::info!(?half, installed = installed.len(), changes, left_over, "compared the switch with the view");
    let is_turned = installed.iter().find_map(translate::dispatched).is_some_and(|(before, _)| before != half);
    switch.commit(plan.half).await?;
    switch.commit(plan.turn).await?;
    if is_turned {
        tracing::info!(?half, "table 0 leads packets to this half of the tables now");
    }
    if is_drained {
        switch.commit(plan.other_half).await?;
    }
    Ok(Compared { is_turned, is_left_over: !is_drained && left_over > 0 })
}

/// Gives the switch the meters that it lacks, and their flows.
pub async fn put_meters_right(switch: &Switch) -> Result<(), CommitError> {
    switch.ensure_meters().await?;
    match switch.has_newer_meters() {
        true => write_metered_anew(switch, &switch.dump_flows().await?).await,
        false => Ok(()),
    }
}

/// Writes the flows anew that name meters: those that are older than their meter do not pass it, and those whose meter was deleted may
/// pass what has its place in the datapath now.
async fn write_metered_anew(switch: &Switch, installed: &[InstalledFlow]) -> Result<(), CommitError> {
    let again =
        |flow: &InstalledFlow| FlowMod::add(flow.table, flow.priority, flow.matching.clone(), flow.instructions.clone(), flow.cookie);
    let flows: Vec<FlowMod> = installed.iter().filter(|flow| meters::are_named(flow)).map(again).collect();
    if !flows.is_empty() {
        tracing::warn!("somebody else has changed meters of the switch, so that a flood could reach the node; they are put right");
    }
    let written = switch.commit(Changes { flows, groups: Vec::new() }).await;
    // One that the switch refuses is not tried again before everything else is right.
    if matches!(written, Ok(()) | Err(CommitError::Refused { .. })) {
        switch.note_metered_written();
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_is_cleared_before_the_first_comparison_and_not_soon_after_it() {
        let mut half = Half::new(Fingerprint::of_pipeline());
        half.read(&Installed { flows: Vec::new(), groups: Vec::new() });
        // The first comparisons failed, and perhaps the last of them turned table 0.
        tokio::time::advance(2 * DRAIN).await;
        assert!(!half.is_drained());
        half.compared(Compared { is_turned: false, is_left_over: true });
        assert!(!half.is_drained() && half.clear_at() == Some(Instant::now() + DRAIN));
        tokio::time::advance(DRAIN).await;
        assert!(half.is_drained());
        half.compared(Compared { is_turned: true, is_left_over: true });
        assert!(!half.is_drained());
    }
}
