//! What the node says: all of it when a stream begins, then what differs from what was said last.

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use model::{PortId, Revision};
use pipeline::OfPort;
use stream::wire::{Interface, Presence, Report, port_bytes};

/// What is true on the node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// Interfaces on the switch by iface-id.
    pub present: OrdMap<String, Presence>,
    /// Ports whose flows are in the switch, with the numbers of their interfaces.
    pub installed: OrdMap<PortId, OfPort>,
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
        let mut report = Report { revision: self.revision.0, refused: self.refused.try_into().unwrap_or(u32::MAX), ..Report::default() };
        let interface = |id: &String, Presence { error, rivals }: &Presence| Interface {
            iface_id: id.clone(),
            error: error.clone(),
            rivals: rivals.clone(),
        };
        for item in before.present.diff(&self.present) {
            match item {
                DiffItem::Add(id, there) | DiffItem::Update { new: (id, there), .. } => report.present.push(interface(id, there)),
                DiffItem::Remove(id, _) => report.absent.push(id.clone()),
            }
        }
        for item in before.installed.diff(&self.installed) {
            match item {
                DiffItem::Add(id, _) => report.installed.push(port_bytes(*id)),
                DiffItem::Remove(id, _) => report.uninstalled.push(port_bytes(*id)),
                // Another interface is no news: the port's flows are in the switch.
                DiffItem::Update { .. } => {}
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn facts(present: &[(&str, &str)], installed: &[u128], revision: u64) -> Facts {
        let presence = |error: &str| Presence { error: error.to_string(), rivals: String::new() };
        let present = present.iter().map(|(id, error)| (id.to_string(), presence(error))).collect();
        let installed = installed.iter().map(|id| (PortId(Uuid::from_u128(*id)), OfPort(*id as u32))).collect();
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
