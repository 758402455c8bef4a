//! `ladon kube` between a real kube-apiserver and a server that loses answers.

mod world;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::{DeleteParams, Patch};
use serde_json::{Value, json};
use world::{World, eventually};

type Claim = Result<(), anyhow::Error>;

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_a_node_has_one_port_until_it_is_gone_or_has_ended() -> Claim {
    let world = World::new().await;
    let _kube = world.start("a").await;
    let first = world.pod("first", json!({})).await;
    let second = world.pod("second", json!({})).await;
    world.pod("mirror", json!({"annotations": {"kubernetes.io/config.mirror": "hash-1", "kubernetes.io/config.source": "file"}})).await;
    world.pod("host", json!({"hostNetwork": true})).await;
    world.pod("unscheduled", json!({"nodeName": ""})).await;
    let thief = world.pod("thief", json!({"annotations": {"kubernetes.io/config.mirror": first}})).await;
    let mut wanted = vec![first.clone(), second.clone(), thief.clone(), "hash-1".to_owned()];
    wanted.sort();
    eventually("four ports", || async { world.devices().await == wanted }).await;
    let port = world.ports().await.into_iter().find(|port| port["device_id"] == *first).unwrap();
    assert_eq!(port["binding:host_id"], "n1");
    assert_eq!(port["name"], format!("{}/first", world.namespace));
    assert_eq!(port["security_groups"].as_array().unwrap().len(), 1);
    assert_eq!(port["fixed_ips"].as_array().unwrap().len(), 2);
    let pod = world.api::<Pod>().get("first").await?;
    assert_eq!(pod.metadata.finalizers, None, "nobody must wait for us when the pod goes");

    world.delete_pod("thief").await;
    eventually("the thief's own port is freed", || async { !world.devices().await.contains(&thief) }).await;
    assert!(world.devices().await.contains(&first), "who says to be another takes nothing away");

    world.delete_pod("first").await;
    world.set_phase("second", "Succeeded").await;
    eventually("both are freed", || async { world.devices().await == ["hash-1"] }).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_pods_port_is_the_first_ones_whoever_says_the_same() -> Claim {
    let world = World::new().await;
    let _kube = world.start("a").await;
    let mirror = || json!({"annotations": {"kubernetes.io/config.mirror": "hash-2"}});
    world.pod("static", mirror()).await;
    eventually("its port", || async { world.devices().await == ["hash-2"] }).await;
    let port = world.ports().await;
    world.pod("impostor", mirror()).await;
    eventually("the impostor is told", || async { world.events().await.iter().any(|(_, note)| note.contains("config.mirror")) }).await;
    world.delete_pod("impostor").await;
    let later = world.pod("later", json!({})).await;
    eventually("a later pod's port", || async { world.devices().await.contains(&later) }).await;
    assert!(world.ports().await.contains(&port[0]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_makes_no_second_port() -> Claim {
    let world = World::new().await;
    let kube = world.start("a").await;
    eventually("it is active", || async { !world.front.seen("GET", "/v2.0/ports").is_empty() }).await;
    world.front.lose("POST", "/v2.0/ports", 2);
    let uid = world.pod("web", json!({})).await;
    eventually("the answers are lost and one port is there", || async {
        !world.front.is_losing() && world.front.seen("POST", "/v2.0/ports").len() >= 3 && world.devices().await == [uid.clone()]
    })
    .await;
    // The last word: freeing the pod leaves nothing behind.
    world.delete_pod("web").await;
    eventually("nothing is left", || async { world.devices().await.is_empty() }).await;
    kube.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pending_pods_are_made_together_and_a_lost_answer_makes_none_twice() -> Claim {
    const PODS: usize = 150;
    let world = World::new().await;
    for number in 0..PODS {
        world.pod(&format!("web-{number}"), json!({})).await;
    }
    world.front.lose("POST", "/v2.0/ports", 1);
    let _kube = world.start("a").await;
    eventually("one port per pod", || async {
        let mut devices = world.devices().await;
        devices.dedup();
        devices.len() == PODS && world.ports().await.len() == PODS
    })
    .await;
    let requests = world.front.seen("POST", "/v2.0/ports").len();
    assert!(requests <= 8, "{requests} requests for {PODS} pods");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_cannot_have_a_port_is_told_why_and_holds_nobody_up() -> Claim {
    let world = World::new().await;
    world.pod("unlucky", json!({})).await;
    let good = world.pod("good", json!({})).await;
    let _kube = world.start("a").await;
    eventually("the good one has its port", || async { world.devices().await == [good.clone()] }).await;
    eventually("the bad one has an Event", || async {
        let events = world.events().await;
        events.iter().any(|(reason, note)| reason == "LadonPortFailed" && note.contains("no free address") && note.contains("cannot start"))
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_a_crash_go_and_everything_else_stays() -> Claim {
    let world = World::new().await;
    let kube = world.start("a").await;
    let kept = world.pod("kept", json!({})).await;
    world.pod("gone", json!({})).await;
    world.service("kept", json!({"ports": [{"port": 80}]})).await;
    world.service("gone", json!({"ports": [{"port": 80}]})).await;
    eventually("all are there", || async {
        world.ports().await.len() == 2 && world.balancers("kept").await.len() == 1 && world.balancers("gone").await.len() == 1
    })
    .await;
    let ids = |objects: Vec<Value>| objects.iter().map(|object| object["id"].clone()).collect::<Vec<_>>();
    let port = world.ports().await.into_iter().find(|port| port["device_id"] == *kept).unwrap();
    let balancers = ids(world.balancers("kept").await);
    kube.kill();
    world.delete_pod("gone").await;
    world.api::<Service>().delete("gone", &DeleteParams::default()).await?;
    let _kube = world.start("a").await;
    eventually("the orphans are gone", || async { world.devices().await == [kept.clone()] && world.balancers("gone").await.is_empty() })
        .await;
    assert_eq!(world.ports().await, [port]);
    assert_eq!(ids(world.balancers("kept").await), balancers);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_topology_is_made_once_and_adopted_by_the_next_instance() -> Claim {
    let world = World::new().await;
    let kube = world.start("a").await;
    eventually("the topology is complete", || async {
        !world.front.seen("GET", "/v2.0/ports").is_empty() && world.list("/v2.0/security-group-rules").await.len() == 2
    })
    .await;
    let made = || async {
        let kinds = ["networks", "subnets", "routers", "security-groups", "ports?device_owner=network:router_interface"];
        let mut all = Vec::new();
        for kind in kinds {
            all.push(world.list(&format!("/v2.0/{kind}")).await);
        }
        all
    };
    let before = made().await;
    let counts: Vec<usize> = before.iter().map(Vec::len).collect();
    assert_eq!(counts, [2, 4, 1, 1, 4]);
    let mut cidrs: Vec<&str> = before[1].iter().map(|subnet| subnet["cidr"].as_str().unwrap()).collect();
    cidrs.sort();
    assert_eq!(cidrs, ["10.244.0.0/16", "10.96.0.0/15", "fd00:244::/64", "fd00:96::/111"]);
    assert!(before[0].iter().all(|network| network["ladon:flooding"] == false));
    kube.stop().await;

    let lists = world.front.seen("GET", "/v2.0/lbaas/loadbalancers").len();
    let _kube = world.start("b").await;
    eventually("the next one works", || async { world.front.seen("GET", "/v2.0/lbaas/loadbalancers").len() > lists }).await;
    assert_eq!(made().await, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlap_of_ranges_is_an_error_that_names_both() -> Claim {
    let world = World::new().await;
    let mut config = world.config("a");
    config.network.pods = vec!["10.97.0.0/16".parse()?];
    let error = format!("{:#}", anyhow::Error::from(world.start_with(config).await.ended().await));
    assert!(error.contains("pod network 10.97.0.0/16") && error.contains("Service subnet 10.96.0.0/15"), "{error}");
    assert!(world.list("/v2.0/networks").await.is_empty());
    Ok(())
}

async fn lease(world: &World) -> Option<(String, i32)> {
    let api: Api<Lease> = world.api();
    let spec = api.get_opt(&format!("ladon-{}", world.namespace)).await.unwrap()?.spec?;
    Some((spec.holder_identity.unwrap_or_default(), spec.lease_transitions.unwrap_or(0)))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_instances_works_and_the_other_takes_over() -> Claim {
    let world = World::new().await;
    let instance = |holder: &str| {
        let mut config = world.config(holder);
        config.lease.duration_secs = 15;
        world.start_with(config)
    };
    let first = instance("a").await;
    eventually("a holds the Lease", || async { lease(&world).await == Some(("a".into(), 0)) }).await;
    let second = instance("b").await;
    let one = world.pod("one", json!({})).await;
    eventually("the first pod has its port", || async { world.devices().await == [one.clone()] }).await;
    first.kill();
    let two = world.pod("two", json!({})).await;
    // A machine that stands still for long makes them take it from each other meanwhile.
    eventually("b took over and made the second", || async {
        lease(&world).await.is_some_and(|(holder, transitions)| holder == "b" && transitions >= 1) && world.devices().await.contains(&two)
    })
    .await;
    assert_eq!(world.ports().await.len(), 2);
    // Given back, the Lease is taken at once.
    second.stop().await;
    assert_eq!(lease(&world).await.unwrap().0, "");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_instance_resumes_at_once() -> Claim {
    let world = World::new().await;
    let first = world.start("a").await;
    let one = world.pod("one", json!({})).await;
    eventually("the first pod has its port", || async { world.devices().await == [one.clone()] }).await;
    first.kill();
    let began = std::time::Instant::now();
    let two = world.pod("two", json!({})).await;
    let _again = world.start("a").await;
    eventually("the second pod has its port", || async { world.devices().await.contains(&two) }).await;
    let took = began.elapsed();
    assert!(took.as_secs() < world.config("a").lease.duration_secs, "the Lease's duration was waited for: {took:?}");
    assert_eq!(lease(&world).await, Some(("a".into(), 0)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_of_the_same_name_does_not_start_and_takes_nothing_away() -> Claim {
    let world = World::new().await;
    let first = world.start("a").await;
    eventually("a holds the Lease", || async { lease(&world).await == Some(("a".into(), 0)) }).await;
    let error = world.start("a").await.ended().await.to_string();
    assert!(error.contains("another `ladon kube` runs on this machine") && error.contains("`lease.holder`"), "{error}");
    assert_eq!(lease(&world).await, Some(("a".into(), 0)), "the Lease is the first one's");
    first.stop().await;
    world.start("a").await.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_what_is_not_served_is_told() -> Claim {
    let world = World::new().await;
    let _kube = world.start("a").await;
    let container = json!({"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 8080}]});
    world.pod("web", json!({"containers": [container], "annotations": {"kubernetes.io/egress-bandwidth": "10M"}})).await;
    world.pod("plain", json!({})).await;
    let policy = json!({"metadata": {"name": "closed"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}});
    let policies = world.api::<NetworkPolicy>();
    policies.create(&Default::default(), &serde_json::from_value(policy)?).await?;
    let told = |reason: &'static str, text: &'static str| {
        let world = &world;
        async move { world.events().await.into_iter().filter(|(seen, note)| seen == reason && note.contains(text)).count() }
    };
    eventually("the pod is told", || async {
        told("LadonPodLimited", "hostPort 8080/TCP, annotation kubernetes.io/egress-bandwidth").await == 1
    })
    .await;
    eventually("the policy is told", || async { told("LadonPolicyIgnored", "closed is not enforced").await == 1 }).await;
    assert_eq!(told("LadonPodLimited", "plain").await, 0);
    Ok(())
}

fn endpoint(address: &str, ready: bool, serving: bool, terminating: bool) -> Value {
    json!({"addresses": [address], "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_is_one_batch_and_leaving_endpoints_drain() -> Claim {
    let world = World::new().await;
    let _kube = world.start("a").await;
    let service = world.service("web", json!({"ports": [{"port": 80}]})).await;
    let ready = |number: usize| endpoint(&format!("10.244.1.{number}"), true, true, false);
    world.endpoints("web", (1..=2).map(ready).collect()).await;
    eventually("two members", || async { world.members("web").await == ["10.244.1.1:8080=1", "10.244.1.2:8080=1"] }).await;
    let balancer = world.balancers("web").await.remove(0);
    assert_eq!(balancer["vip_address"], service.spec.unwrap().cluster_ip.unwrap());

    let pool = world.list(&format!("/v2.0/lbaas/pools?loadbalancer_id={}", balancer["id"].as_str().unwrap())).await.remove(0);
    let batches = || world.front.seen("PUT", &format!("/v2.0/lbaas/pools/{}/members", pool["id"].as_str().unwrap())).len();
    let before = batches();
    world.endpoints("web", (1..=50).map(ready).collect()).await;
    eventually("fifty members", || async { world.members("web").await.len() == 50 }).await;
    assert_eq!(batches() - before, 1);

    world.endpoints("web", json!([endpoint("10.244.1.1", false, true, true), endpoint("10.244.1.2", true, true, false)])).await;
    eventually("the leaving one drains", || async { world.members("web").await == ["10.244.1.1:8080=0", "10.244.1.2:8080=1"] }).await;
    world.endpoints("web", json!([endpoint("10.244.1.1", false, true, true), endpoint("10.244.1.2", false, false, false)])).await;
    eventually("none is ready: the leaving one answers", || async {
        world.members("web").await == ["10.244.1.1:8080=1", "10.244.1.2:8080=0"]
    })
    .await;
    world.endpoints("web", json!([])).await;
    eventually("no member is left and the listener stays", || async {
        world.members("web").await.is_empty() && !world.list("/v2.0/lbaas/listeners").await.is_empty()
    })
    .await;
    world.api::<Service>().delete("web", &DeleteParams::default()).await?;
    eventually("nothing is left", || async { world.balancers("web").await.is_empty() }).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_service_gets_what_it_can_have_and_says_so() -> Claim {
    let world = World::new().await;
    let _kube = world.start("a").await;
    world.service("dual", json!({"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]})).await;
    world.service("headless", json!({"clusterIP": "None", "ports": [{"port": 80}]})).await;
    world.service("elsewhere", json!({"type": "ExternalName", "externalName": "example.org"})).await;
    world.service("front", json!({"type": "LoadBalancer", "ports": [{"port": 80}]})).await;
    world.service("phone", json!({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 99, "protocol": "SCTP"}]})).await;
    eventually("those with an address have load balancers", || async {
        world.balancers("dual").await.len() == 2 && world.balancers("front").await.len() == 1 && world.balancers("phone").await.len() == 1
    })
    .await;
    eventually("the API server is a member of its own Service", || async {
        world.members("default/kubernetes").await.iter().any(|member| member.starts_with("192.0.2.1:") && member.ends_with("=1"))
    })
    .await;
    eventually("SCTP is refused aloud", || async {
        world.events().await.iter().any(|(reason, note)| reason == "LadonServiceLimited" && note.contains("SCTP"))
    })
    .await;
    eventually("the status says so", || async {
        let service = world.api::<Service>().get("dual").await.unwrap();
        let conditions = service.status.and_then(|status| status.conditions).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "LadonReady" && condition.status == "True")
    })
    .await;
    assert!(world.balancers("headless").await.is_empty() && world.balancers("elsewhere").await.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_another_proxy_is_left_to_it() -> Claim {
    let world = World::new().await;
    let _kube = world.start("a").await;
    world.service("web", json!({"ports": [{"port": 80}]})).await;
    let is_told = || async {
        let service = world.api::<Service>().get("web").await.unwrap();
        let conditions = service.status.and_then(|status| status.conditions).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "LadonReady")
    };
    eventually("it is served and says so", || async { world.balancers("web").await.len() == 1 && is_told().await }).await;
    let label = |value: Value| {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": value}}}));
        let world = &world;
        async move { world.api::<Service>().patch("web", &Default::default(), &patch).await }
    };
    label(json!("other")).await?;
    eventually("nothing of it is left", || async { world.balancers("web").await.is_empty() && !is_told().await }).await;
    label(Value::Null).await?;
    eventually("it is ours again", || async { world.balancers("web").await.len() == 1 && is_told().await }).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_stands_by_finds_out_that_its_ranges_overlap() -> Claim {
    let world = World::new().await;
    let _active = world.start("a").await;
    eventually("a holds the Lease", || async { lease(&world).await == Some(("a".into(), 0)) }).await;
    let mut config = world.config("b");
    config.network.pods = vec!["10.96.0.0/16".parse()?];
    let error = world.start_with(config.clone()).await.ended().await.to_string();
    assert!(error.contains("pod network 10.96.0.0/16") && error.contains("Service subnet 10.96.0.0/15"), "{error}");
    config.network.services = vec!["10.96.0.0/16".parse()?];
    config.kubeconfig = Some("/nowhere".into());
    let error = world.start_with(config).await.ended().await.to_string();
    assert!(error.contains("pod network 10.96.0.0/16"), "before anything else: {error}");
    assert_eq!(lease(&world).await, Some(("a".into(), 0)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_converges_through_lost_answers_and_outages() -> Claim {
    let world = World::new().await;
    let _kube = world.start("a").await;
    for path in ["/v2.0/lbaas/loadbalancers", "/v2.0/lbaas/pools", "/v2.0/lbaas/listeners"] {
        world.front.lose("POST", path, 2);
    }
    world.service("web", json!({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]})).await;
    let inside = |kind: &'static str| {
        let world = &world;
        async move {
            let Some(balancer) = world.balancers("web").await.pop() else { return 0 };
            world.list(&format!("/v2.0/lbaas/{kind}?loadbalancer_id={}", balancer["id"].as_str().unwrap())).await.len()
        }
    };
    eventually("all is there once", || async {
        !world.front.is_losing() && world.balancers("web").await.len() == 1 && inside("pools").await == 2 && inside("listeners").await == 2
    })
    .await;
    world.front.set_down(true);
    world.endpoints("web", json!([])).await;
    let pod = world.pod("meanwhile", json!({})).await;
    world.service("later", json!({"ports": [{"port": 80}]})).await;
    eventually("the pod is told", || async { world.events().await.iter().any(|(reason, _)| reason == "LadonPortFailed") }).await;
    world.front.set_down(false);
    eventually("what waited is done", || async { world.devices().await == [pod.clone()] && world.balancers("later").await.len() == 1 })
        .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_there_is_one_list_of_ports_at_a_time() -> Claim {
    let world = World::new().await;
    let mut config = world.config("a");
    config.resync_secs = 1;
    let _kube = world.start_with(config).await;
    let pod = world.pod("first", json!({})).await;
    eventually("it works", || async { world.devices().await == [pod.clone()] }).await;
    world.front.set_down(true);
    let attempts = || async { world.front.refused("GET", "device_owner=ladon%3Apod") };
    eventually("a first attempt", || async { attempts().await >= 1 }).await;
    let since = std::time::Instant::now();
    let before = attempts().await;
    eventually("more of them", || async { attempts().await >= before + 3 }).await;
    assert!(since.elapsed() > std::time::Duration::from_secs(4), "every list that fails waits two seconds");
    world.front.set_down(false);
    let second = world.pod("second", json!({})).await;
    eventually("it goes on", || async { world.devices().await.contains(&second) }).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_goes_while_its_create_is_unanswered_leaves_nothing() -> Claim {
    let world = World::new().await;
    let _kube = world.start("a").await;
    eventually("it is active", || async { !world.members("default/kubernetes").await.is_empty() }).await;
    world.front.lose("POST", "/v2.0/lbaas/loadbalancers", 1000);
    world.front.lose("GET", "/v2.0/lbaas/loadbalancers", 1000);
    world.service("brief", json!({"ports": [{"port": 80}]})).await;
    eventually("it is made, unheard", || async { world.balancers("brief").await.len() == 1 }).await;
    world.api::<Service>().delete("brief", &DeleteParams::default()).await?;
    world.front.lose_nothing();
    eventually("nothing is left", || async { world.balancers("brief").await.is_empty() }).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_has_a_port_and_its_addresses_lead_there() -> Claim {
    let world = World::new().await;
    let mut config = world.config("a");
    config.hosts = vec![kube_bridge::config::Host { name: "control".into(), addresses: vec!["192.0.2.1".parse()?] }];
    let name = format!("node-{}", world.namespace);
    let _kube = world.start_with(config).await;
    world.node(&name, &["192.0.2.11", "2001:db8::11"]).await;
    let port_of = |device: String| {
        let world = &world;
        async move { world.list(&format!("/v2.0/ports?device_owner=ladon:node&device_id={device}")).await.pop() }
    };
    eventually("the node has a port", || async { port_of(name.clone()).await.is_some() }).await;
    let port = port_of(name.clone()).await.unwrap();
    assert_eq!(port["binding:host_id"], *name);
    assert_eq!(port["allowed_address_pairs"], json!([{"ip_address": "192.0.2.11"}, {"ip_address": "2001:db8::11"}]));
    eventually("so has the machine of the configuration", || async { port_of("control".into()).await.is_some() }).await;
    world.delete_node(&name).await;
    eventually("the port is gone", || async { port_of(name.clone()).await.is_none() }).await;
    Ok(())
}
