//! The pipeline as data: which tables a packet passes, which registers it carries, and what a flow may say.
//!
//! A packet enters at [`Table::Classify`] and only ever moves down the list; [`Action::Reenter`] is the one named way back
//! up. Apps write [`Flow`]s in these words; `node` alone turns them into OpenFlow messages. Numbers of tables, registers and
//! priorities exist only here.
//!
//! Deliberately *not* here: what any table is for in detail (its app knows), and anything about one node.

mod action;
mod doc;
mod field;
mod fingerprint;
mod flow;
mod group;
mod header;
pub mod switch;
mod table;

pub use action::{Action, Nat, OfPort, Punt, Zone};
pub use doc::pipeline_markdown;
pub use field::{Field, fields, live_together};
pub use fingerprint::Fingerprint;
pub use flow::{Conflict, Draft, Flow, FlowKey, Misuse, Priority, Reason};
pub use group::{Bucket, Group, GroupId, Spread};
pub use header::{Header, Place, Test, ct, frag, tcp};
pub use header::{
    arp_op, arp_tpa, conj_id, ct_state, eth_dst, eth_dst_masked, eth_src, eth_type, icmp_code, icmp_type, in_port, ip_dst, ip_frag,
    ip_proto, ip_src, ipv4, ipv6, l4_dst, l4_src, masked, nd_target, tcp_flags_clear, tun_id,
};
pub use table::{Generation, Miss, Table};
