//! Runs apps, and re-runs just what a change concerns.
//!
//! The unit of work is one app for one root. A unit's run remembers what it read; a change of the view names what it
//! touched; units that read something touched run again. The desired flows follow by difference. The full recompute is the
//! same code with everything touched: it is the oracle for the incremental path, and what a start is.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use model::{Kind, ObjectKey};
use pipeline::{Conflict, Flow, FlowKey, Group, GroupId};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::app::{App, Output, Root};
use crate::few::Few;
use crate::merge::{count, effective, is_merged};
use crate::numbers::{NumberKey, Numbers};
use crate::sight::Sight;
use crate::view::{Change, Dep, View};

/// One app for one root.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Unit {
    app: u8,
    root: Root,
}

#[derive(Default)]
struct Ran {
    read: Vec<Dep>,
    flows: Vec<FlowKey>,
    groups: Vec<GroupId>,
}

impl Ran {
    /// True if there is nothing to take back, and nothing that would run it again but its root.
    fn is_empty(&self) -> bool {
        self.read.is_empty() && self.flows.is_empty() && self.groups.is_empty()
    }
}

/// How the desired state differs from before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Flows that are new or do something else now.
    pub flows: Vec<Flow>,
    pub removed_flows: Vec<FlowKey>,
    pub groups: Vec<Group>,
    pub removed_groups: Vec<GroupId>,
}

impl Delta {
    pub fn is_empty(&self) -> bool {
        *self == Delta::default()
    }
}

/// How much was done so far: what a change costs is the difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Runs of an app for one root.
    pub runs: u64,
    /// Things that runs read, and networks and routers that were visited to find routing domains.
    pub reads: u64,
    /// Flows and groups that runs made.
    pub made: u64,
    /// Actions, clauses and buckets of the flows and groups that changed: what the switch is told. What a start makes is not counted.
    pub written: u64,
}

impl std::ops::Sub for Work {
    type Output = Work;

    fn sub(self, before: Work) -> Work {
        Work {
            runs: self.runs - before.runs,
            reads: self.reads - before.reads,
            made: self.made - before.made,
            written: self.written - before.written,
        }
    }
}

/// Keeps the desired flows equal to what the apps say of the view.
pub struct Engine {
    apps: &'static [&'static App],
    view: View,
    ran: FxHashMap<Unit, Ran>,
    readers: FxHashMap<Dep, Few<Unit>>,
    /// Who wants a flow. Clauses of conjunctions that share a match are merged, and so are copies of a packet
    /// ([`crate::merge`]). Otherwise more than one unit may want the same; if they want different things it is a conflict, and
    /// the least flow holds, so that every order of changes ends the same.
    flows: FxHashMap<FlowKey, Wanted<Flow>>,
    groups: FxHashMap<GroupId, Wanted<Group>>,
    /// How many flows the switch should have of all that; None: they are yet to be counted.
    flow_count: Cell<Option<usize>>,
    work: Work,
}

/// What units want of one flow or group, in the units' order. Nearly always it is one unit: a tree would take room for eleven.
enum Wanted<T> {
    One(Unit, T),
    Many(BTreeMap<Unit, T>),
}

impl<T> Wanted<T> {
    fn values(&self) -> impl Iterator<Item = &T> + Clone {
        let (one, many) = match self {
            Wanted::One(_, value) => (Some(value), None),
            Wanted::Many(values) => (None, Some(values.values())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn insert(self, unit: Unit, value: T) -> Wanted<T> {
        match self {
            Wanted::One(same, _) if same == unit => Wanted::One(unit, value),
            Wanted::One(other, old) => Wanted::Many(BTreeMap::from([(other, old), (unit, value)])),
            Wanted::Many(mut values) => {
                values.insert(unit, value);
                Wanted::Many(values)
            }
        }
    }

    /// What is left, if anything is.
    fn without(self, unit: Unit) -> Option<Wanted<T>> {
        match self {
            Wanted::One(only, _) if only == unit => None,
            Wanted::One(..) => Some(self),
            Wanted::Many(mut values) => {
                values.remove(&unit);
                match values.len() {
                    0 => None,
                    1 => values.pop_first().map(|(unit, value)| Wanted::One(unit, value)),
                    _ => Some(Wanted::Many(values)),
                }
            }
        }
    }
}

impl Engine {
    /// An engine with an empty view. Nothing is desired until the first change.
    pub fn new(apps: &'static [&'static App], numbers: Numbers) -> Engine {
        Engine {
            apps,
            view: View::new(numbers),
            ran: FxHashMap::default(),
            readers: FxHashMap::default(),
            flows: FxHashMap::default(),
            groups: FxHashMap::default(),
            flow_count: Cell::new(Some(0)),
            work: Work::default(),
        }
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    pub fn numbers(&self) -> Numbers {
        self.view.numbers().borrow().clone()
    }

    /// Grows whenever the numbers change and have to be saved.
    pub fn number_changes(&self) -> u64 {
        self.view.numbers().borrow().changes()
    }

    /// True if it is time for [`Engine::forget_numbers`].
    pub fn has_many_numbers(&self) -> bool {
        self.view.numbers().borrow().is_overgrown()
    }

    /// Forgets the numbers that neither the view nor a desired flow or group needs. The switch must have what is desired, and
    /// nothing else.
    pub fn forget_numbers(&mut self) {
        let (view, groups) = (&self.view, &self.groups);
        let mut numbers = view.numbers().borrow_mut();
        numbers.forget(|key, number| match key {
            NumberKey::Identity(_) => view.has_identity(number),
            NumberKey::Conjunction(rule) => view.object(ObjectKey::new(Kind::Rule, *rule)).is_some(),
            NumberKey::Group(..) => groups.contains_key(&GroupId(number)),
        });
    }

    pub fn work(&self) -> Work {
        self.work
    }

    /// Every desired flow.
    pub fn flows(&self) -> impl Iterator<Item = Flow> + '_ {
        self.flows.values().flat_map(|wanted| effective(wanted.values()))
    }

    /// How many [`Engine::flows`] there are.
    pub fn flow_count(&self) -> usize {
        let count = self.flow_count.get().unwrap_or_else(|| self.flows.values().map(|wanted| count(wanted.values())).sum());
        self.flow_count.set(Some(count));
        count
    }

    /// Every desired group.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values().filter_map(|wanted| wanted.values().next())
    }

    /// Flows that two units want to be different: a bug in an app, or two objects that contradict each other.
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict> + '_ {
        self.flows.values().filter_map(|wanted| {
            let first = wanted.values().min()?;
            let is_other = |flow: &&Flow| (flow.actions != first.actions || flow.goto != first.goto) && !is_merged(flow, first);
            let second = wanted.values().find(is_other)?;
            Some(Conflict { first: Box::new(first.clone()), second: Box::new(second.clone()) })
        })
    }

    /// Makes `changes` true in the view and the desired flows follow.
    pub fn update(&mut self, changes: impl IntoIterator<Item = Change>) -> Delta {
        let units = self.touched(changes);
        self.run(units)
    }

    /// The same for who does not ask for the difference, because everything is going to be compared.
    pub fn load(&mut self, changes: impl IntoIterator<Item = Change>) {
        for unit in self.touched(changes) {
            self.renew(unit, |_, _, _| {});
        }
        self.flow_count.set(None);
    }

    /// Makes `changes` true in the view. What has to run then, in order.
    fn touched(&mut self, changes: impl IntoIterator<Item = Change>) -> Vec<Unit> {
        let mut touched = FxHashSet::default();
        for change in changes {
            self.view.apply(change, &mut touched);
        }
        self.work.reads += self.view.settle(&mut touched);
        let readers = touched.iter().filter_map(|dep| self.readers.get(dep)).flat_map(Few::iter).copied();
        let mut units: Vec<Unit> = readers.chain(touched.iter().flat_map(|dep| self.units_of(*dep))).collect();
        units.sort_unstable();
        units.dedup();
        units
    }

    /// The units whose root is `dep`.
    fn units_of(&self, dep: Dep) -> impl Iterator<Item = Unit> {
        let root = match dep {
            Dep::Object(key) => Some(Root::Object(key)),
            Dep::Attachment(port) => Some(Root::Attached(port)),
            Dep::Here => Some(Root::Here),
            Dep::Address(domain, address) => Some(Root::Address(domain, address)),
            Dep::Index(_) | Dep::Domain(_) => None,
        };
        let of = |root: Root| {
            let apps = self.apps.iter().enumerate().filter(move |(_, app)| app.roots.contains(&root.kind()));
            apps.map(move |(app, _)| Unit { app: app as u8, root })
        };
        root.into_iter().flat_map(of)
    }

    fn run(&mut self, units: Vec<Unit>) -> Delta {
        let mut flows: BTreeMap<FlowKey, Vec<Flow>> = BTreeMap::new();
        let mut groups: BTreeMap<GroupId, Option<Group>> = BTreeMap::new();
        for unit in units {
            self.renew(unit, |engine, old, output| {
                for key in old.flows.iter().chain(output.flows.iter().map(|flow| &flow.key)) {
                    flows.entry(key.clone()).or_insert_with(|| in_force(&engine.flows, key));
                }
                for id in old.groups.iter().copied().chain(output.groups.iter().map(|group| group.id)) {
                    groups.entry(id).or_insert_with(|| first(&engine.groups, id));
                }
            });
        }
        let delta = self.difference(flows, groups);
        self.work.written += delta.flows.iter().map(|flow| flow.actions.len() as u64).sum::<u64>();
        self.work.written += delta.groups.iter().map(|group| group.buckets.len() as u64).sum::<u64>();
        delta
    }

    /// Runs one unit, and takes over what it says now, after `noting` what it said before.
    fn renew(&mut self, unit: Unit, noting: impl FnOnce(&Engine, &Ran, &Output)) {
        let (read, output) = self.look(unit);
        let old = self.ran.remove(&unit).unwrap_or_default();
        self.reread(unit, &old.read, &read);
        noting(self, &old, &output);
        self.rewrite(unit, old, read, output);
    }

    /// Runs one unit; a root that is not there any more says nothing.
    fn look(&mut self, unit: Unit) -> (Vec<Dep>, Output) {
        if !self.is_there(unit.root) {
            return Default::default();
        }
        let sight = Sight::new(&self.view);
        let output = (self.apps[usize::from(unit.app)].run)(&sight, unit.root);
        let mut read = sight.into_read();
        self.work.runs += 1;
        self.work.reads += read.len() as u64;
        self.work.made += (output.flows.len() + output.groups.len()) as u64;
        // A change of its root runs it again anyway.
        read.retain(|dep| *dep != Dep::from(unit.root));
        read.shrink_to_fit();
        (read, output)
    }

    fn is_there(&self, root: Root) -> bool {
        match root {
            Root::Object(key) => self.view.object(key).is_some(),
            Root::Attached(port) => self.view.attachment(port).is_some(),
            Root::Address(domain, address) => self.view.address_identity(domain, address).is_some(),
            Root::Here => true,
        }
    }

    fn reread(&mut self, unit: Unit, old: &[Dep], new: &[Dep]) {
        for dep in old.iter().filter(|dep| new.binary_search(dep).is_err()) {
            if self.readers.get_mut(dep).is_some_and(|units| !units.remove(&unit)) {
                self.readers.remove(dep);
            }
        }
        for dep in new.iter().filter(|dep| old.binary_search(dep).is_err()) {
            self.readers.entry(*dep).and_modify(|units| units.insert(unit)).or_insert(Few::One(unit));
        }
    }

    fn rewrite(&mut self, unit: Unit, old: Ran, read: Vec<Dep>, output: Output) {
        for key in &old.flows {
            forget(&mut self.flows, key, unit);
        }
        for id in &old.groups {
            forget(&mut self.groups, id, unit);
        }
        let ran = Ran {
            read,
            flows: output.flows.iter().map(|flow| flow.key.clone()).collect(),
            groups: output.groups.iter().map(|group| group.id).collect(),
        };
        for flow in output.flows {
            debug_assert_eq!(flow.misuse(), None, "{flow}");
            want(&mut self.flows, flow.key.clone(), unit, flow);
        }
        for group in output.groups {
            want(&mut self.groups, group.id, unit, group);
        }
        if !ran.is_empty() {
            self.ran.insert(unit, ran);
        }
    }

    fn difference(&mut self, flows: BTreeMap<FlowKey, Vec<Flow>>, groups: BTreeMap<GroupId, Option<Group>>) -> Delta {
        let mut delta = Delta::default();
        for (key, before) in flows {
            let after = in_force(&self.flows, &key);
            let gone = before.iter().map(|flow| &flow.key).filter(|key| after.iter().all(|flow| flow.key != **key));
            delta.removed_flows.extend(gone.cloned());
            self.flow_count.set(self.flow_count.get().map(|count| count + after.len() - before.len()));
            delta.flows.extend(after.into_iter().filter(|flow| !before.contains(flow)));
        }
        for (id, before) in groups {
            match first(&self.groups, id) {
                after if after == before => {}
                Some(after) => delta.groups.push(after),
                None => delta.removed_groups.push(id),
            }
        }
        delta
    }

    /// The same view computed from nothing: the oracle for the incremental path.
    pub fn recomputed(&self) -> Engine {
        let mut full = Engine::new(self.apps, self.numbers());
        let mut objects: Vec<_> = self.view.objects().cloned().collect();
        objects.sort_by_key(|object| object.key());
        let attachments: BTreeMap<_, _> = self.view.attachments().map(|attachment| (attachment.port, *attachment)).collect();
        let changes = objects.into_iter().map(Change::Put).chain(attachments.into_values().map(Change::Attach));
        full.load(std::iter::once(Change::Here(self.view.here().clone())).chain(changes));
        full
    }
}

fn in_force(flows: &FxHashMap<FlowKey, Wanted<Flow>>, key: &FlowKey) -> Vec<Flow> {
    flows.get(key).map(|wanted| effective(wanted.values())).unwrap_or_default()
}

fn first(groups: &FxHashMap<GroupId, Wanted<Group>>, id: GroupId) -> Option<Group> {
    groups.get(&id)?.values().next().cloned()
}

fn want<K: Hash + Eq, T>(wanted: &mut FxHashMap<K, Wanted<T>>, key: K, unit: Unit, value: T) {
    match wanted.entry(key) {
        Entry::Vacant(vacant) => {
            vacant.insert(Wanted::One(unit, value));
        }
        Entry::Occupied(occupied) => {
            let (key, others) = occupied.remove_entry();
            wanted.insert(key, others.insert(unit, value));
        }
    }
}

fn forget<K: Hash + Eq, T>(wanted: &mut FxHashMap<K, Wanted<T>>, key: &K, unit: Unit) {
    if let Some((key, units)) = wanted.remove_entry(key)
        && let Some(left) = units.without(unit)
    {
        wanted.insert(key, left);
    }
}
