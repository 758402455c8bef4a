//! What a flow is there for, as an operator may ask for it: the object of its reason, and what that is a part of.
//!
//! Rules have flows and security groups have none, but people know the group's name. So a group stands for its rules, a load
//! balancer for its listeners, and a pool for the listeners whose connections go to it.

use std::sync::Arc;

use apps::View;
use model::{Kind, Object, ObjectKey};
use pipeline::{Flow, Reason};

/// A desired flow and the objects that it is there for.
#[derive(Debug)]
pub struct Explained {
    pub flow: Flow,
    /// The object of its reason, if it is in view.
    pub object: Option<Arc<Object>>,
    pub wholes: Vec<Whole>,
}

/// What an object is a part of.
#[derive(Debug)]
pub struct Whole {
    pub key: ObjectKey,
    /// None if it is not in view.
    pub object: Option<Arc<Object>>,
}

impl Explained {
    pub fn new(view: &View, flow: Flow) -> Explained {
        let object = match flow.reason {
            Reason::Object(key) => view.object(key).cloned(),
            Reason::Pipeline => None,
        };
        let mut wholes = Vec::new();
        if let Some(object) = &object {
            gather(view, object, &mut wholes);
        }
        Explained { flow, object, wholes }
    }
}

/// Adds what `object` is a part of, and what that is a part of.
fn gather(view: &View, object: &Object, wholes: &mut Vec<Whole>) {
    for key in parents(object) {
        let object = view.object(key).cloned();
        if let Some(object) = &object {
            gather(view, object, wholes);
        }
        wholes.push(Whole { key, object });
    }
}

fn parents(object: &Object) -> Vec<ObjectKey> {
    match object {
        Object::Rule(rule) => vec![ObjectKey::new(Kind::SecurityGroup, rule.group)],
        Object::Listener(listener) => {
            let pool = listener.default_pool.map(|pool| ObjectKey::new(Kind::Pool, pool));
            pool.into_iter().chain([ObjectKey::new(Kind::LoadBalancer, listener.load_balancer)]).collect()
        }
        Object::Pool(pool) => vec![ObjectKey::new(Kind::LoadBalancer, pool.load_balancer)],
        Object::Member(member) => vec![ObjectKey::new(Kind::Pool, member.pool)],
        Object::Node(_)
        | Object::Network(_)
        | Object::Subnet(_)
        | Object::Router(_)
        | Object::SecurityGroup(_)
        | Object::Block(_)
        | Object::Port(_)
        | Object::LoadBalancer(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apps::Numbers;
    use apps::testing::*;
    use model::{Direction, EtherType, ListenerProtocol};
    use pipeline::Table;

    #[test]
    fn a_group_stands_for_its_rules_and_a_pool_and_a_load_balancer_for_their_listeners() {
        let mut view = View::new(Numbers::default());
        let vip = vip("vip", 1, "blue", &[("blue4", "10.0.0.9")]);
        let objects = [
            put(group("closed", 1)),
            put(rule("ssh", "closed", Direction::Ingress, EtherType::Ipv4)),
            put(balancer("web", &vip)),
            put(pool("members", "web", ListenerProtocol::Tcp)),
            put(listener("http", 1, "web", ListenerProtocol::Tcp, 80, "members")),
        ];
        for change in objects {
            view.apply(change, &mut Default::default());
        }
        let wholes = |kind, name: &str| -> Vec<ObjectKey> {
            let flow = Table::L2Lookup.when([]).drop().because(ObjectKey::new(kind, id(name)));
            let explained = Explained::new(&view, flow);
            assert!(explained.object.is_some() && explained.wholes.iter().all(|whole| whole.object.is_some()));
            explained.wholes.into_iter().map(|whole| whole.key).collect()
        };
        assert_eq!(wholes(Kind::Rule, "ssh"), [ObjectKey::new(Kind::SecurityGroup, id("closed"))]);
        let of_listener = wholes(Kind::Listener, "http");
        for whole in [ObjectKey::new(Kind::Pool, id("members")), ObjectKey::new(Kind::LoadBalancer, id("web"))] {
            assert!(of_listener.contains(&whole), "{of_listener:?}");
        }
        assert!(wholes(Kind::LoadBalancer, "web").is_empty() && wholes(Kind::SecurityGroup, "closed").is_empty());
    }
}
