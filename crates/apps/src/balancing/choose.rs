//! Which member a new connection gets.
//!
//! A listener's select group has one bucket per member that takes new connections, as long as Open vSwitch can spread packets
//! over them by weight: a `dp_hash` group has at most [`SLOTS_MAX`] slots, as many as the sum of the weights holds the least
//! weight, rounded up to a power of two. Beyond that members are divided among several such groups, and a group above them
//! chooses one by a hash of the connection's addresses and ports. Its buckets all weigh the same (Open vSwitch takes the
//! best of hash times weight, which is in proportion for equal weights only): a group below with more weight has more of
//! them. A member's bucket and group follow from its id and weight, so that a change of one member is a change of its own
//! bucket.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::{Kind, Listener, Member, ObjectKey};
use pipeline::{Action, Bucket, Flow, Group, GroupId, Nat, Reason, Spread, Table, fields::*, ip_proto, ipv4, ipv6, l4_dst};
use uuid::Uuid;

use super::vip::is_up;
use crate::app::Output;
use crate::numbers::NumberKey;
use crate::sight::Sight;

/// Members of one listener that get connections, at most: the first by id. 256 groups of 64 on average.
pub const MEMBERS_MAX: usize = 16_384;
/// Slots of a `dp_hash` group in Open vSwitch 3.1. With the largest bucket (IPv6, 112 bytes) its description stays below
/// 60 KB, so that it can be read back.
pub const SLOTS_MAX: u32 = 256;
/// Buckets of the group above, about: how finely it weighs the groups below. 32 bytes each.
const SHARES: u64 = 512;
/// Members that a group below has on average, at most. Weights in one group differ by less than a factor of two, so 128
/// would still fit.
const BELOW_MEAN: usize = 64;
/// Bits of a share's number, which is [`SHARES`] at most.
const SHARE_BITS: u32 = 10;
/// Bits of a part's number within its class: the parts are [`MEMBERS_MAX`] at most, rounded up to a power of two, twice over.
const PART_BITS: u32 = 16;
/// Listeners' groups have this bit; groups below have numbers of the node's own, which are smaller.
const LISTENERS: u32 = 1 << 31;

/// A member that takes new connections.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Taking {
    id: Uuid,
    address: IpAddr,
    port: u16,
    weight: u32,
}

/// A new connection to `listener` gets a member.
pub(super) fn for_listener(sight: &Sight, listener: &Listener) -> Option<Output> {
    let balancer = sight.load_balancer(listener.load_balancer)?;
    let vip = sight.port(balancer.vip_port)?;
    let pool = sight.pool(listener.default_pool?).filter(|pool| pool.is_admin_up)?;
    if !listener.is_admin_up || !is_up(balancer, vip) {
        return None;
    }
    let fits = |member: &&Member| member.is_taking() && member.address.is_ipv6() == balancer.vip.is_ipv6();
    let taking: Vec<Taking> = sight.members_of(pool.id).into_iter().filter(fits).take(MEMBERS_MAX).map(Taking::from).collect();
    if taking.is_empty() {
        return None;
    }
    let because = ObjectKey::new(Kind::Listener, listener.id);
    let top = GroupId(LISTENERS | listener.key.0);
    let below = |n| GroupId(sight.number(NumberKey::Group(listener.key.0, n)));
    let groups = groups(top, &taking, below, because.into());
    Some(Output { flows: vec![select(listener, vip.key.0, balancer.vip, top)], groups })
}

/// The first packet of a connection to a listener meets the listener's group.
fn select(listener: &Listener, vip: u32, ip: IpAddr, group: GroupId) -> Flow {
    let proto = listener.protocol.number();
    let family = if ip.is_ipv6() { ipv6() } else { ipv4() };
    Table::LbSelect
        .when([VIP.is(vip), family, ip_proto(proto)].into_iter().chain(l4_dst(proto, listener.port, u16::MAX)))
        .act(Action::Group(group))
        .because(ObjectKey::new(Kind::Listener, listener.id))
}

impl From<&Member> for Taking {
    fn from(member: &Member) -> Taking {
        Taking { id: member.id.0, address: member.address, port: member.port, weight: member.weight.into() }
    }
}

impl Taking {
    /// A number that follows from the id alone.
    fn hash(&self) -> u64 {
        let (high, low) = self.id.as_u64_pair();
        let mixed = (high ^ low.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 32
    }

    /// Members of one class have weights that differ by less than a factor of two.
    fn class(&self) -> u32 {
        self.weight.ilog2()
    }
}

fn total(members: &[Taking]) -> u64 {
    members.iter().map(|member| u64::from(member.weight)).sum()
}

fn fits_one_group(members: &[Taking]) -> bool {
    let least = members.iter().map(|member| member.weight).min().unwrap_or(1);
    total(members).div_ceil(least.into()) <= SLOTS_MAX.into()
}

/// The group `top` and those below it, if there have to be any.
fn groups(top: GroupId, members: &[Taking], below: impl Fn(u32) -> GroupId, reason: Reason) -> Vec<Group> {
    if fits_one_group(members) {
        return vec![spread(top, members, reason)];
    }
    let parts = divided(members);
    let shares = parts.iter().flat_map(|(n, part)| shares(*n, below(*n), total(part), total(members)));
    let above = Group { id: top, spread: Spread::FiveTuple, buckets: shares.collect(), reason };
    let below = parts.iter().map(|(n, part)| spread(below(*n), part, reason));
    below.chain([above]).collect()
}

/// Members in parts that each fit one group, by the part's number.
fn divided(members: &[Taking]) -> BTreeMap<u32, Vec<Taking>> {
    let mut classes: BTreeMap<u32, Vec<Taking>> = BTreeMap::new();
    for member in members {
        classes.entry(member.class()).or_default().push(*member);
    }
    classes.into_iter().flat_map(|(class, members)| parts_of_class(class, &members)).collect()
}

/// As many parts as keep every part small enough: a power of two, so that it changes seldom.
fn parts_of_class(class: u32, members: &[Taking]) -> BTreeMap<u32, Vec<Taking>> {
    let mut count = members.len().div_ceil(BELOW_MEAN).next_power_of_two();
    loop {
        let mut parts: BTreeMap<u32, Vec<Taking>> = BTreeMap::new();
        for member in members {
            let part = (member.hash() >> 32) % count as u64;
            // Numbers of different classes, and of different divisions of one class, do not meet.
            parts.entry(class << PART_BITS | (count as u32 + part as u32)).or_default().push(*member);
        }
        if count >= members.len() || parts.values().all(|part| fits_one_group(part)) {
            return parts;
        }
        count *= 2;
    }
}

/// The buckets of the group above that lead to one group below: in proportion to its weight, and at least one.
fn shares(n: u32, group: GroupId, weight: u64, of: u64) -> impl Iterator<Item = Bucket> {
    let count = ((weight * SHARES * 2 / of).div_ceil(2)).max(1);
    (0..count as u32).map(move |share| Bucket { id: n << SHARE_BITS | share, weight: 1, actions: vec![Action::Group(group)] })
}

/// A select group with a bucket per member.
fn spread(id: GroupId, members: &[Taking], reason: Reason) -> Group {
    let mut taken = BTreeSet::new();
    let mut members = members.to_vec();
    members.sort_by_key(|member| (member.hash(), member.id));
    let mut buckets: Vec<Bucket> = members.iter().map(|member| bucket(free(&mut taken, member.hash() as u32), member)).collect();
    buckets.sort_by_key(|bucket| bucket.id);
    Group { id, spread: Spread::DpHash, buckets, reason }
}

/// A bucket's number near `wanted` that is not taken: two members may have the same hash.
fn free(taken: &mut BTreeSet<u32>, wanted: u32) -> u32 {
    let mut id = wanted & (LISTENERS - 1);
    while !taken.insert(id) {
        id = (id + 1) & (LISTENERS - 1);
    }
    id
}

/// The connection goes to the member, and stays there.
fn bucket(id: u32, member: &Taking) -> Bucket {
    let nat = Some(Nat::Destination(member.address, member.port));
    let weight = u16::try_from(member.weight).expect("a member's weight is 256 at most");
    Bucket { id, weight, actions: vec![Action::Commit { zone: NAT_ZONE.into(), nat, then: Table::LbSelf }] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: u32, weight: impl Fn(u32) -> u32) -> Vec<Taking> {
        let one = |n: u32| Taking {
            id: crate::testing::id(&format!("member{n}")),
            address: IpAddr::from([10, 0, (n >> 8) as u8, n as u8]),
            port: 80,
            weight: weight(n),
        };
        (0..count).map(one).collect()
    }

    fn groups_of(members: &[Taking]) -> Vec<Group> {
        groups(GroupId(LISTENERS | 7), members, GroupId, Reason::Pipeline)
    }

    /// The share of connections that every address gets.
    fn chances(groups: &[Group]) -> BTreeMap<IpAddr, f64> {
        let top = groups.last().unwrap();
        let mut chances = BTreeMap::new();
        let mut walk = vec![(top, 1.0)];
        while let Some((group, chance)) = walk.pop() {
            let total: f64 = group.buckets.iter().map(|bucket| f64::from(bucket.weight)).sum();
            for bucket in &group.buckets {
                let chance = chance * f64::from(bucket.weight) / total;
                match &bucket.actions[0] {
                    Action::Group(id) => walk.push((groups.iter().find(|group| group.id == *id).unwrap(), chance)),
                    Action::Commit { nat: Some(Nat::Destination(ip, _)), .. } => *chances.entry(*ip).or_insert(0.0) += chance,
                    other => panic!("{other}"),
                }
            }
        }
        chances
    }

    fn check(groups: &[Group]) {
        for group in groups {
            let ids: Vec<u32> = group.buckets.iter().map(|bucket| bucket.id).collect();
            assert!(ids.windows(2).all(|pair| pair[0] < pair[1]) || group.spread == Spread::FiveTuple, "{ids:?}");
            assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "bucket numbers are unique");
            let weights = group.buckets.iter().map(|bucket| u32::from(bucket.weight));
            let slots = weights.clone().sum::<u32>().div_ceil(weights.min().unwrap());
            let is_fine = match group.spread {
                Spread::DpHash => slots <= SLOTS_MAX && group.buckets.len() * 112 < 60_000,
                Spread::FiveTuple => group.buckets.len() * 40 < 60_000,
            };
            assert!(is_fine, "{:?} {} {slots}", group.id, group.buckets.len());
        }
        assert!(
            groups.windows(2).all(|pair| pair[0].id < pair[1].id || pair[0].spread == pair[1].spread),
            "groups come before those that name them"
        );
    }

    #[test]
    fn up_to_256_slots_are_one_group() {
        let groups = groups_of(&members(256, |_| 7));
        check(&groups);
        assert_eq!((groups.len(), groups[0].buckets.len()), (1, 256));
        assert!(groups_of(&members(257, |_| 7)).len() > 1);
        assert!(groups_of(&members(2, |n| 1 + n * 255)).len() > 1, "weights 1 and 256 are 257 slots");
    }

    #[test]
    fn a_thousand_members_get_nearly_equal_shares() {
        let groups = groups_of(&members(1000, |_| 1));
        check(&groups);
        let chances = chances(&groups);
        assert_eq!(chances.len(), 1000);
        assert!(chances.values().all(|chance| (0.0009..0.0011).contains(chance)), "{chances:?}");
    }

    #[test]
    fn weights_count_across_groups() {
        let members = members(600, |n| 1 + n % 256);
        let groups = groups_of(&members);
        check(&groups);
        let chances = chances(&groups);
        for member in members.iter().filter(|member| member.weight > 16) {
            let wanted = f64::from(member.weight) / total(&members) as f64;
            assert!((0.8..1.25).contains(&(chances[&member.address] / wanted)), "{member:?} {} {wanted}", chances[&member.address]);
        }
    }

    #[test]
    fn many_thousand_members_fit() {
        check(&groups_of(&members(10_000, |n| 1 + n % 256)));
        check(&groups_of(&members(MEMBERS_MAX as u32, |_| 1)));
    }

    #[test]
    fn one_member_less_is_one_bucket_less() {
        let all = members(1000, |_| 1);
        let without: Vec<Taking> = all.iter().copied().filter(|member| member.id != all[500].id).collect();
        let buckets = |members: &[Taking]| -> BTreeSet<(GroupId, Bucket)> {
            groups_of(members).into_iter().flat_map(|group| group.buckets.into_iter().map(move |bucket| (group.id, bucket))).collect()
        };
        let (before, after) = (buckets(&all), buckets(&without));
        let changed: Vec<_> = before.symmetric_difference(&after).collect();
        let members = changed.iter().filter(|(_, bucket)| matches!(bucket.actions[0], Action::Commit { .. })).count();
        assert_eq!(members, 1, "{changed:?}");
        assert!(changed.len() <= 1 + 16, "the shares of the groups below hardly change: {changed:?}");
    }
}
