//! What Kubernetes has of one kind, cut down to what matters here, and what changed since.
//!
//! An object is reduced to a few facts as soon as it is read. A change that leaves the facts as they were (a pod's status, an
//! annotation) is no change.

use std::collections::{HashMap, HashSet};

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::serde::de::DeserializeOwned;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Resource, ResourceExt};

/// `namespace/name`, or the name alone where there are no namespaces.
pub type Name = String;

pub fn name_of<K: Resource>(object: &K) -> Name {
    match object.meta().namespace.as_deref() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}

/// One object that changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change<F> {
    pub name: Name,
    pub before: Option<F>,
    pub after: Option<F>,
}

/// The facts of all objects of one kind.
pub struct Mirror<F> {
    facts: HashMap<Name, F>,
    /// Objects seen since the list began, while one is being read.
    listed: Option<HashSet<Name>>,
    is_complete: bool,
}

impl<F: Clone + PartialEq> Mirror<F> {
    pub fn new() -> Mirror<F> {
        Mirror { facts: HashMap::new(), listed: None, is_complete: false }
    }

    pub fn get(&self, name: &str) -> Option<&F> {
        self.facts.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Name, &F)> {
        self.facts.iter()
    }

    /// True once everything has been read, so that what is not here does not exist.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Takes an event in; `facts` gives None for objects that are none of our business.
    pub fn apply<K: Resource>(&mut self, event: Event<K>, facts: impl Fn(&K) -> Option<F>) -> Vec<Change<F>> {
        match event {
            Event::Init => {
                self.listed = Some(HashSet::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                let name = name_of(&object);
                if let Some(listed) = &mut self.listed {
                    listed.insert(name.clone());
                }
                self.set(name, facts(&object)).into_iter().collect()
            }
            Event::Apply(object) => self.set(name_of(&object), facts(&object)).into_iter().collect(),
            Event::Delete(object) => self.set(name_of(&object), None).into_iter().collect(),
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let gone: Vec<Name> = self.facts.keys().filter(|name| !listed.contains(*name)).cloned().collect();
                self.is_complete = true;
                gone.into_iter().filter_map(|name| self.set(name, None)).collect()
            }
        }
    }

    fn set(&mut self, name: Name, after: Option<F>) -> Option<Change<F>> {
        let before = match &after {
            Some(facts) => self.facts.insert(name.clone(), facts.clone()),
            None => self.facts.remove(&name),
        };
        (before != after).then_some(Change { name, before, after })
    }
}

/// All events of a kind for ever: errors are logged, waited for and followed by a new list.
pub fn watch<K>(api: Api<K>, config: watcher::Config, what: &'static str) -> BoxStream<'static, Event<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watcher(api, config)
        .default_backoff()
        .inspect_err(move |error| tracing::warn!(what, %error, "watching Kubernetes failed; trying again"))
        .filter_map(|event| futures::future::ready(event.ok()))
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(name: &str, value: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.into());
        object.metadata.namespace = Some("ns".into());
        object.data = Some([("value".to_owned(), value.to_owned())].into());
        object
    }

    fn facts(object: &ConfigMap) -> Option<String> {
        object.data.as_ref()?.get("value").filter(|value| !value.is_empty()).cloned()
    }

    #[test]
    fn only_changes_of_the_facts_are_changes() {
        let mut mirror = Mirror::new();
        assert_eq!(mirror.apply(Event::Apply(object("a", "1")), facts).len(), 1);
        assert_eq!(mirror.apply(Event::Apply(object("a", "1")), facts), []);
        let change = mirror.apply(Event::Apply(object("a", "")), facts).remove(0);
        assert_eq!((change.name.as_str(), change.before.as_deref(), change.after), ("ns/a", Some("1"), None));
        assert_eq!(mirror.apply(Event::Delete(object("a", "1")), facts), []);
    }

    #[test]
    fn what_a_new_list_lacks_is_gone_and_nothing_is_gone_before_its_end() {
        let mut mirror = Mirror::new();
        mirror.apply(Event::Apply(object("old", "1")), facts);
        mirror.apply(Event::Apply(object("kept", "1")), facts);
        assert!(!mirror.is_complete());
        assert_eq!(mirror.apply(Event::<ConfigMap>::Init, facts), []);
        assert_eq!(mirror.apply(Event::InitApply(object("kept", "1")), facts), []);
        assert!(mirror.get("ns/old").is_some());
        let gone = mirror.apply(Event::<ConfigMap>::InitDone, facts);
        assert_eq!(gone.iter().map(|change| change.name.as_str()).collect::<Vec<_>>(), ["ns/old"]);
        assert!(mirror.is_complete() && mirror.get("ns/old").is_none());
    }
}
