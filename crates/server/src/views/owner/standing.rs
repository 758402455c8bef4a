//! What an operator waits for: how far the nodes are with a revision, and which of them lag.
//!
//! It is looked at again and again while thousands of nodes acknowledge: a look ends at the first node that lags, and nothing is copied.

use model::{NodeName, Revision};
use uuid::Uuid;

use super::{Owner, Track};

/// What is asked.
pub struct Question {
    pub revision: Revision,
    /// This node alone.
    pub node: Option<NodeName>,
    /// So many nodes that lag are worth telling.
    pub lagging_max: usize,
}

/// How far the nodes are with a revision.
pub struct Standing {
    /// Who this server is, where others share the store.
    pub server: Option<Uuid>,
    pub latest: Revision,
    pub lagging: Vec<Lag>,
    /// Nodes with something to have in force, of which another server knows whether they do. Not looked for behind the last that lags.
    pub elsewhere: Vec<(NodeName, Uuid)>,
}

/// A node that the revision concerns and that does not have it in force.
pub struct Lag {
    pub node: NodeName,
    pub in_force: Revision,
    pub is_connected: bool,
    /// Flows and groups that its switch refuses.
    pub refused: u32,
}

impl Owner {
    /// None: the node that is asked for is not known.
    pub fn standing(&self, question: &Question) -> Option<Standing> {
        let Question { revision, node, lagging_max } = question;
        if node.as_ref().is_some_and(|node| !self.nodes.contains_key(node)) {
            return None;
        }
        let is_asked = |name: &NodeName| node.as_ref().is_none_or(|node| node == name);
        let nodes = || self.nodes.iter().filter(|(name, _)| is_asked(name));
        let latest = self.state.revision();
        // No node can be behind where the server is not yet.
        let lag = |(name, track)| (latest >= *revision && self.is_behind(name, track, *revision)).then(|| self.lag(name, track));
        let lagging: Vec<Lag> = nodes().filter_map(lag).take(*lagging_max).collect();
        let mut elsewhere = Vec::new();
        if lagging.len() < *lagging_max && self.core.server().is_some() {
            let told = |(name, track): (&NodeName, &Track)| Some((name.clone(), self.elsewhere(name, track)?.server));
            elsewhere.extend(nodes().filter(|(name, _)| self.interest.has_view(name)).filter_map(told));
        }
        Some(Standing { server: self.core.server(), latest, lagging, elsewhere })
    }

    /// Whether `revision` concerns the node and is not in force there, as far as this server is to know.
    pub(super) fn is_behind(&self, name: &NodeName, track: &Track, revision: Revision) -> bool {
        let is_asked_for_nothing = || track.session.is_none() && !self.interest.has_view(name);
        !track.concerns.are_met(revision) && !is_asked_for_nothing() && self.elsewhere(name, track).is_none()
    }

    fn lag(&self, name: &NodeName, track: &Track) -> Lag {
        let refused = self.reports.node(name).map_or(0, |report| report.refused);
        Lag { node: name.clone(), in_force: track.concerns.in_force(), is_connected: track.session.is_some(), refused }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use stream::wire::Report;
    use tokio::sync::mpsc;

    use super::*;
    use crate::views::shown::Encoder;
    use crate::views::tests::world::{name, node};
    use crate::writer::Core;

    #[tokio::test]
    async fn a_look_ends_at_the_first_node_that_lags_and_the_answer_names_all() {
        let (core, _writer) = Core::by_hand(Arc::new(store::Memory::new()), Arc::new(Timestamp::now)).unwrap();
        let (messages, inbox) = mpsc::channel(1);
        let (mut owner, _) = Owner::new(core, inbox, messages.downgrade(), Arc::new(Encoder::default()));
        let sessions: Vec<_> = (1..=3).map(|n| owner.connect(node(n)).unwrap().session).collect();
        let revision = owner.revision();
        let lagging = |owner: &Owner, node: Option<u32>, lagging_max: usize| {
            let standing = owner.standing(&Question { revision, node: node.map(name), lagging_max })?;
            Some(standing.lagging.into_iter().map(|lag| lag.node).collect::<Vec<_>>())
        };
        assert_eq!(lagging(&owner, None, 1), Some(vec![name(1)]));
        assert_eq!(lagging(&owner, None, usize::MAX), Some(vec![name(1), name(2), name(3)]));
        assert_eq!(lagging(&owner, Some(2), usize::MAX), Some(vec![name(2)]));
        assert_eq!(lagging(&owner, Some(9), 1), None, "nobody knows it");
        for (n, session) in (1..).zip(sessions) {
            owner.report(&name(n), session, &Report { is_full: true, revision: revision.0, ..Report::default() });
        }
        assert_eq!(lagging(&owner, None, usize::MAX), Some(vec![]));
    }
}
