//! What a commit means, and for whom.
//!
//! Objects are in scopes and nodes follow scopes, so that what comes into a scope, changes there or goes out of it is the same news to all
//! who follow it: it is looked at once, however many they are. Node by node is looked at only what depends on the node: what it may see in
//! another scope as well, and what is in a scope that it begins or ceases to follow.

use model::{NodeId, ObjectKey};
use rustc_hash::{FxHashMap, FxHashSet};

use super::edges::Scope;
use super::{Interest, is_named};
use crate::state::Change;
use crate::views::shown::is_shown_the_same;

/// An object that is in more scopes than this is looked at node by node.
const SCOPES_FEW: usize = 8;

/// What a commit means for a node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Effect {
    /// Now in the view, and was not.
    pub entered: Vec<ObjectKey>,
    /// In the view as before, and different.
    pub changed: Vec<ObjectKey>,
    /// Was in the view, and is not.
    pub left: Vec<ObjectKey>,
}

/// An effect, and the nodes that it is one for. A node may have several of one commit, of different objects.
pub struct News {
    pub effect: Effect,
    pub nodes: Vec<NodeId>,
}

/// How it was before a commit, as far as the commit changes it.
#[derive(Default)]
pub struct Before {
    /// Was the object in the scope?
    places: FxHashMap<ObjectKey, FxHashMap<Scope, bool>>,
    /// Did the node, which is followed, follow the scope?
    scopes: FxHashMap<NodeId, FxHashMap<Scope, bool>>,
    /// What is in such scopes.
    touched: FxHashMap<NodeId, FxHashSet<ObjectKey>>,
}

impl Interest {
    /// The object comes into the scope, or goes out of it.
    pub(super) fn note_place(&mut self, scope: Scope, key: ObjectKey) {
        if !self.followed.is_empty() {
            self.work += 1;
            let was_in = self.is_in(scope, &key);
            self.before.places.entry(key).or_default().entry(scope).or_insert(was_in);
        }
    }

    /// The node begins to follow the scope, or ceases to.
    pub(super) fn note_scope(&mut self, node: NodeId, scope: Scope) {
        if self.followed.contains(&node) {
            let followed = self.follows(node, scope);
            self.before.scopes.entry(node).or_default().entry(scope).or_insert(followed);
            let objects = self.scopes.get(&scope).into_iter().flat_map(|content| content.objects.keys());
            let touched = self.before.touched.entry(node).or_default();
            objects.for_each(|key| {
                self.work += 1;
                touched.insert(*key);
            });
        }
    }

    /// What the commit with these changes means.
    pub(super) fn news(&mut self, changes: &[Change]) -> Vec<News> {
        let before = std::mem::take(&mut self.before);
        if self.followed.is_empty() {
            return Vec::new();
        }
        let different = changes.iter().filter(|change| !is_shown_the_same(change.before.as_deref(), change.after.as_deref()));
        let existed = different.map(|change| (change.key, change.before.is_some())).collect();
        let mut telling = Telling::new(self, before, existed);
        let news = telling.news();
        self.work += telling.work;
        news
    }

    fn is_in(&self, scope: Scope, key: &ObjectKey) -> bool {
        self.places.get(key).is_some_and(|places| places.contains(&scope))
    }

    fn is_seen(&self, node: NodeId, key: &ObjectKey) -> bool {
        let (Some(places), Some(layers)) = (self.places.get(key), self.nodes.get(&node)) else { return false };
        let (few, many) = if places.len() < layers.scopes.len() { (places, &layers.scopes) } else { (&layers.scopes, places) };
        few.iter().any(|scope| many.contains(scope))
    }
}

/// Who is told what of one commit.
struct Telling<'a> {
    interest: &'a Interest,
    before: Before,
    /// What is shown in another way now: was it there?
    existed: FxHashMap<ObjectKey, bool>,
    /// What may be news to those who follow the scope.
    news: FxHashMap<Scope, Vec<ObjectKey>>,
    /// That of it which is the same to all of them, but for those that are `apart`.
    common: FxHashMap<Scope, Vec<ObjectKey>>,
    apart: FxHashMap<Scope, FxHashSet<NodeId>>,
    /// What is looked at for a node by itself.
    alone: FxHashMap<NodeId, FxHashSet<ObjectKey>>,
    work: u64,
}

impl<'a> Telling<'a> {
    fn new(interest: &'a Interest, mut before: Before, existed: FxHashMap<ObjectKey, bool>) -> Telling<'a> {
        let alone = std::mem::take(&mut before.touched);
        let (news, common, apart) = Default::default();
        Telling { interest, before, existed, news, common, apart, alone, work: 0 }
    }

    fn news(&mut self) -> Vec<News> {
        let keys: FxHashSet<ObjectKey> = self.before.places.keys().chain(self.existed.keys()).copied().collect();
        keys.into_iter().for_each(|key| self.sort(key));
        for (node, scopes) in &self.before.scopes {
            let news = scopes.keys().filter_map(|scope| self.news.get(scope)).flatten();
            self.alone.entry(*node).or_default().extend(news);
        }
        let mut news = Vec::new();
        for (scope, keys) in std::mem::take(&mut self.common) {
            let nodes = self.in_common(scope, &keys);
            self.work += (keys.len() + nodes.len()) as u64;
            let seen = |key: &ObjectKey| (self.was_in(scope, key), self.interest.is_in(scope, key));
            news.push(News { effect: self.effect(&keys, seen), nodes });
        }
        for (node, keys) in std::mem::take(&mut self.alone) {
            self.work += keys.len() as u64;
            let seen = |key: &ObjectKey| (self.was_seen(node, key), self.interest.is_seen(node, key));
            news.push(News { effect: self.effect(&keys, seen), nodes: vec![node] });
        }
        news.retain(|news| !news.nodes.is_empty() && news.effect != Effect::default());
        news
    }

    /// Finds out for whom the object may be news. Where the largest of its scopes is one in which it is, that is looked at for all who
    /// follow that scope at once, and those who follow another one of its scopes are apart.
    fn sort(&mut self, key: ObjectKey) {
        let places = self.interest.places.get(&key).into_iter().flatten();
        let moved = self.before.places.get(&key).into_iter().flat_map(|scopes| scopes.keys());
        let is_different = self.existed.contains_key(&key);
        let told: FxHashSet<Scope> = moved.clone().chain(places.clone().filter(|_| is_different)).copied().collect();
        let all: Vec<Scope> = places.chain(moved).take(SCOPES_FEW + 1).copied().collect();
        let largest = all.iter().max_by_key(|scope| self.size(**scope)).copied();
        let common = largest.filter(|largest| all.len() <= SCOPES_FEW && told.contains(largest));
        let others = match common {
            Some(_) => all,
            None => told.iter().copied().collect(),
        };
        for scope in others.into_iter().filter(|scope| Some(*scope) != common) {
            let nodes: Vec<NodeId> = self.followers(scope).collect();
            self.work += nodes.len() as u64;
            match common {
                Some(common) => self.apart.entry(common).or_default().extend(nodes),
                None => nodes.into_iter().for_each(|node| self.alone.entry(node).or_default().extend([key])),
            }
        }
        if let Some(common) = common {
            self.common.entry(common).or_default().push(key);
        }
        told.into_iter().for_each(|scope| self.news.entry(scope).or_default().push(key));
    }

    /// The nodes to whom the keys are the same news; the others look at these alone.
    fn in_common(&mut self, scope: Scope, keys: &[ObjectKey]) -> Vec<NodeId> {
        let mut apart = self.apart.remove(&scope).unwrap_or_default();
        apart.extend(self.followers(scope).filter(|node| self.before.scopes.contains_key(node)).collect::<Vec<_>>());
        let nodes = self.followers(scope).filter(|node| !apart.contains(node)).collect();
        apart.into_iter().for_each(|node| self.alone.entry(node).or_default().extend(keys));
        nodes
    }

    fn size(&self, scope: Scope) -> usize {
        self.interest.scopes.get(&scope).map_or(0, |content| content.nodes.len())
    }

    fn followers(&self, scope: Scope) -> impl Iterator<Item = NodeId> + use<'a> {
        let interest = self.interest;
        let nodes = interest.scopes.get(&scope).into_iter().flat_map(|content| &content.nodes);
        nodes.filter(|node| interest.followed.contains(node)).copied()
    }

    /// What it means that these objects were seen and are: for each, the one and the other.
    fn effect<'k>(&self, keys: impl IntoIterator<Item = &'k ObjectKey>, seen: impl Fn(&ObjectKey) -> (bool, bool)) -> Effect {
        let mut effect = Effect::default();
        for key in keys {
            let (was_seen, is_seen) = seen(key);
            let exists = self.interest.exists(key);
            let existed = !is_named(key.kind) || self.existed.get(key).copied().unwrap_or(exists);
            match (was_seen && existed, is_seen && exists) {
                (false, true) => effect.entered.push(*key),
                (true, false) => effect.left.push(*key),
                (true, true) if self.existed.contains_key(key) => effect.changed.push(*key),
                _ => {}
            }
        }
        effect
    }

    fn was_in(&self, scope: Scope, key: &ObjectKey) -> bool {
        let noted = self.before.places.get(key).and_then(|scopes| scopes.get(&scope));
        noted.copied().unwrap_or_else(|| self.interest.is_in(scope, key))
    }

    fn followed(&self, node: NodeId, scope: Scope) -> bool {
        let noted = self.before.scopes.get(&node).and_then(|scopes| scopes.get(&scope));
        noted.copied().unwrap_or_else(|| self.interest.follows(node, scope))
    }

    fn was_seen(&self, node: NodeId, key: &ObjectKey) -> bool {
        let both = |scope: &Scope| self.was_in(*scope, key) && self.followed(node, *scope);
        let (places, layers) = (self.interest.places.get(key), self.interest.nodes.get(&node));
        if places.map_or(0, FxHashSet::len) < layers.map_or(0, |layers| layers.scopes.len()) {
            let moved = self.before.places.get(key).into_iter().flat_map(|scopes| scopes.keys());
            places.into_iter().flatten().chain(moved).any(both)
        } else {
            let turned = self.before.scopes.get(&node).into_iter().flat_map(|scopes| scopes.keys());
            layers.into_iter().flat_map(|layers| &layers.scopes).chain(turned).any(both)
        }
    }
}
