//! What the node says: all of it when a stream begins, then what differs from what was said last.

use std::collections::{BTreeMap, BTreeSet};

use model::{PortId, Revision};
use stream::wire::{Interface, Report, port_bytes};

/// What is true on the node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// Interfaces on the switch by iface-id, with OVSDB's `error` where they have no ofport (else empty).
    pub present: BTreeMap<String, String>,
    /// Ports whose flows are in the switch.
    pub installed: BTreeSet<PortId>,
    /// The revision of the view whose flows are in the switch.
    pub revision: Revision,
    /// Flows and groups that the switch refuses.
    pub refused: usize,
}

impl Facts {
    /// Everything, for a server that knows nothing.
    pub fn full(&self) -> Report {
        Report { is_full: true, ..self.since(&Facts::default()) }
    }

    /// What a server must be told that was told `before`.
    pub fn since(&self, before: &Facts) -> Report {
        let is_new = |(id, error): &(&String, &String)| before.present.get(*id) != Some(*error);
        let interface = |(id, error): (&String, &String)| Interface { iface_id: id.clone(), error: error.clone() };
        Report {
            is_full: false,
            present: self.present.iter().filter(is_new).map(interface).collect(),
            absent: before.present.keys().filter(|id| !self.present.contains_key(*id)).cloned().collect(),
            installed: self.installed.difference(&before.installed).map(|id| port_bytes(*id)).collect(),
            uninstalled: before.installed.difference(&self.installed).map(|id| port_bytes(*id)).collect(),
            revision: self.revision.0,
            refused: self.refused.try_into().unwrap_or(u32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn facts(present: &[(&str, &str)], installed: &[u128], revision: u64) -> Facts {
        let present = present.iter().map(|(id, error)| (id.to_string(), error.to_string())).collect();
        let installed = installed.iter().map(|id| PortId(Uuid::from_u128(*id))).collect();
        Facts { present, installed, revision: Revision(revision), refused: 0 }
    }

    #[test]
    fn after_the_first_report_only_differences_are_told() {
        let before = facts(&[("a", ""), ("b", ""), ("c", "no such device")], &[1, 2], 4);
        let after = facts(&[("a", ""), ("c", ""), ("d", "")], &[2, 3], 5);
        let report = after.since(&before);
        assert_eq!(report.present.iter().map(|interface| interface.iface_id.as_str()).collect::<Vec<_>>(), ["c", "d"]);
        assert_eq!((report.absent, report.revision, report.is_full), (vec!["b".to_string()], 5, false));
        assert_eq!((report.installed.len(), report.uninstalled.len()), (1, 1));
        let full = after.full();
        assert_eq!((full.present.len(), full.installed.len(), full.absent.len(), full.is_full), (3, 2, 0, true));
    }
}
