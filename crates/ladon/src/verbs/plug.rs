//! `ladon plug` and `ladon unplug`: this machine's own interface on a network.
//!
//! The port is made through the API first, then the node is asked to make the interface. Both are keyed by (machine, interface's
//! name): the same command again finds the port and the interface that it made before, so a lost answer does no harm.

use std::path::Path;
use std::time::Duration;

use model::{PortId, owner};
use node::control::{PlugRequest, PluggedInterface, Reply, Request};
use serde_json::{Map, Value, json};

use crate::api::Api;
use crate::cli::{Format, Plug, Reach, Unplug};
use crate::control::{Control, PROMPT, confused};
use crate::failure::{Failure, Result};

/// Room for the node's answer after its own deadline.
const GRACE: Duration = Duration::from_secs(3);

/// The tag of a port that was there before `ladon plug --port`, and stays after `ladon unplug`.
const BORROWED: &str = "ladon-borrowed";

/// How many of `plug0`, `plug1`… are tried.
const NAMES_MAX: usize = 1_000;

/// A port, and whether this command made it.
struct Found {
    port: PortId,
    is_new: bool,
}

/// Makes the port and the interface, and says what came of it.
pub async fn plug(reach: &Reach, wanted: &Plug) -> Result<String> {
    let api = Api::new(reach)?;
    let mut control = Control::connect(&reach.control).await?;
    let Reply::Status(status) = control.ask(&Request::Status, PROMPT).await? else { return Err(confused()) };
    let host = status.host.0;
    let network = network_id(&api, &wanted.network).await?;
    let interface = match &wanted.name {
        Some(name) => name.clone(),
        None => free_name(&mut control, &api, &host, &network).await?,
    };
    let found = match &wanted.port {
        Some(id) => existing_port(&api, id, &host, &interface).await?,
        None => own_port(&api, wanted, &network, &host, &interface).await?,
    };
    let request = PlugRequest {
        interface: interface.clone(),
        port: found.port,
        default_route: wanted.default_route,
        routes: wanted.route.clone(),
        deadline_ms: wanted.timeout * 1_000,
    };
    match plugged(&mut control, request).await {
        Ok(plugged) => Ok(describe(reach.output, &plugged)),
        Err(failure) => {
            undo(reach, &api, &found, interface).await;
            Err(failure)
        }
    }
}

/// The interface that the node makes.
async fn plugged(control: &mut Control, request: PlugRequest) -> Result<PluggedInterface> {
    let deadline = Duration::from_millis(request.deadline_ms);
    match control.ask(&Request::Plug(request), deadline + GRACE).await? {
        Reply::Plugged(plugged) => Ok(plugged),
        _ => Err(confused()),
    }
}

/// Takes the interface away, then its port.
pub async fn unplug(reach: &Reach, wanted: &Unplug) -> Result<String> {
    let api = Api::new(reach)?;
    let mut control = Control::connect(&reach.control).await?;
    let request = Request::Unplug { interface_or_port: wanted.interface.clone() };
    let Reply::Unplugged { interface, port } = control.ask(&request, PROMPT).await? else { return Err(confused()) };
    let parted = part_with(&api, port, wanted.keep_port).await;
    let is_kept = parted.map_err(|(fate, failure)| stranded(&interface, port, fate, wanted.keep_port, &failure))?;
    Ok(match reach.output {
        Format::Table => {
            format!("{interface} is gone{}\n", if is_kept { format!("; its port {port} is left") } else { ", and so is its port".into() })
        }
        Format::Json => format!("{:#}\n", json!({"interface": interface, "port": port, "is_port_deleted": !is_kept})),
    })
}

/// What is to become of a port whose interface is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// Somebody else made it: it is nobody's again.
    GivenBack,
    /// The user keeps it.
    Kept,
    Deleted,
    /// The server does not say whose it was.
    Unknown,
}

/// Does to the port of an interface that is gone what is to become of it. True if it is left.
async fn part_with(api: &Api, port: PortId, is_kept: bool) -> std::result::Result<bool, (Fate, Failure)> {
    let there = ports(api, &[("id", &port.to_string())]).await.map_err(|failure| (Fate::Unknown, failure))?;
    let is_borrowed = there.iter().flat_map(|port| port["tags"].as_array().into_iter().flatten()).any(|tag| tag == BORROWED);
    let (fate, done) = match (is_borrowed, is_kept) {
        (true, _) => (Fate::GivenBack, give_back(api, port).await),
        (false, true) => (Fate::Kept, Ok(())),
        (false, false) => (Fate::Deleted, api.delete(&format!("/v2.0/ports/{port}")).await),
    };
    done.map(|()| fate != Fate::Deleted).map_err(|failure| (fate, failure))
}

async fn give_back(api: &Api, port: PortId) -> Result<()> {
    let change = json!({"port": {"binding:host_id": "", "device_id": "", "device_owner": ""}});
    put(api, &format!("/v2.0/ports/{port}"), &change).await?;
    api.delete(&format!("/v2.0/ports/{port}/tags/{BORROWED}")).await
}

/// The interface is gone, and its port is not what it should be.
fn stranded(interface: &str, port: PortId, fate: Fate, is_kept: bool, failure: &Failure) -> Failure {
    let keep = if is_kept { " --keep-port" } else { "" };
    let again = format!("`ladon plug --network NETWORK --name {interface} --port {port}`, then `ladon unplug {interface}{keep}`");
    let (state, means, what_to_do) = match fate {
        Fate::GivenBack | Fate::Kept => ("is not given back", "nobody else can use the port, which was there before", again),
        Fate::Unknown => ("is still this machine's", "nobody else can use the port or its addresses", again),
        Fate::Deleted => ("is not", "the port's addresses stay taken", format!("`openstack port delete {port}`")),
    };
    Failure::new(
        format!("{interface} is gone, but its port {port} {state}: {}", failure.what_happened),
        format!("{means}; nothing else is affected"),
        format!("once the server answers, {what_to_do}"),
    )
}

/// What this command began, it takes back; what was there before stays.
async fn undo(reach: &Reach, api: &Api, found: &Found, interface: String) {
    if !found.is_new {
        return;
    }
    // The failure that led here is the one to report. A port that is left over is found again by the same command.
    if let Ok(mut control) = Control::connect(&reach.control).await {
        let _ = control.ask(&Request::Unplug { interface_or_port: interface }, PROMPT).await;
    }
    let _ = api.delete(&format!("/v2.0/ports/{}", found.port)).await;
}

/// The id of the network with that id or name.
async fn network_id(api: &Api, name_or_id: &str) -> Result<String> {
    for key in ["id", "name"] {
        let body = api.get(&format!("/v2.0/networks?{key}={}&fields=id", dial::escape(name_or_id))).await?;
        let ids: Vec<&str> = body["networks"].as_array().into_iter().flatten().filter_map(|network| network["id"].as_str()).collect();
        match ids[..] {
            [] => {}
            [id] => return Ok(id.to_string()),
            _ => {
                let what = format!("{} networks are called '{name_or_id}': {}", ids.len(), ids.join(", "));
                return Err(Failure::new(what, "not affected; nothing was changed", "give --network the id of the one that you mean"));
            }
        }
    }
    let what = format!("there is no network '{name_or_id}'");
    Err(Failure::new(what, "not affected; nothing was changed", "see `openstack network list`, or make it with `openstack network create`"))
}

/// The interface that this machine has on the network already, or the first name that nothing has.
async fn free_name(control: &mut Control, api: &Api, host: &str, network: &str) -> Result<String> {
    let Reply::Interfaces { interfaces } = control.ask(&Request::Interfaces, PROMPT).await? else { return Err(confused()) };
    let ours = ports(api, &[("device_owner", owner::METAL), ("binding:host_id", host), ("network_id", network)]).await?;
    if let Some(name) = ours.iter().find_map(|port| port["device_id"].as_str().filter(|name| !name.is_empty())) {
        return Ok(name.to_string());
    }
    let elsewhere = ports(api, &[("device_owner", owner::METAL), ("binding:host_id", host)]).await?;
    let is_taken = |name: &str| {
        interfaces.iter().any(|plugged| plugged.link.interface == name)
            || elsewhere.iter().any(|port| port["device_id"] == name)
            || Path::new("/sys/class/net").join(name).exists()
    };
    first_free(is_taken)
}

fn first_free(is_taken: impl Fn(&str) -> bool) -> Result<String> {
    let free = (0..NAMES_MAX).map(|number| format!("plug{number}")).find(|name| !is_taken(name));
    free.ok_or_else(|| {
        Failure::new(format!("plug0 to plug{} are all taken", NAMES_MAX - 1), "not affected", "give the interface a name with --name")
    })
}

/// The port for (machine, interface): the one that is there, or a new one.
async fn own_port(api: &Api, wanted: &Plug, network: &str, host: &str, interface: &str) -> Result<Found> {
    let there = ports(api, &[("device_owner", owner::METAL), ("binding:host_id", host), ("device_id", interface)]).await?;
    if let Some(port) = there.first() {
        if port["network_id"] != network {
            return Err(taken(host, interface, port["network_id"].as_str().unwrap_or("?")));
        }
        return Ok(Found { port: port_id(port)?, is_new: false });
    }
    let groups = group_ids(api, &wanted.security_group).await?;
    let body = new_port(wanted, network, host, interface, &groups);
    let made = api.post("/v2.0/ports", &json!({ "port": body })).await?;
    Ok(Found { port: port_id(&made["port"])?, is_new: true })
}

fn taken(host: &str, interface: &str, network: &str) -> Failure {
    let what = format!("{interface} of {host} is a port of another network, {network}");
    Failure::new(what, "not affected; it stays there", format!("give another --name, or `ladon unplug {interface}` first"))
}

fn new_port(wanted: &Plug, network: &str, host: &str, interface: &str, groups: &[String]) -> Value {
    let mut port = Map::new();
    port.insert("network_id".into(), network.into());
    port.insert("name".into(), format!("{host}-{interface}").into());
    port.insert("device_owner".into(), owner::METAL.into());
    port.insert("device_id".into(), interface.into());
    port.insert("binding:host_id".into(), host.into());
    if !wanted.address.is_empty() {
        port.insert("fixed_ips".into(), wanted.address.iter().map(|address| json!({ "ip_address": address })).collect());
    }
    if !groups.is_empty() {
        port.insert("security_groups".into(), json!(groups));
    }
    Value::Object(port)
}

/// The ids of security groups that are named or given by id.
async fn group_ids(api: &Api, names: &[String]) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for name in names {
        let mut found = Vec::new();
        for key in ["id", "name"] {
            let body = api.get(&format!("/v2.0/security-groups?{key}={}&fields=id", dial::escape(name))).await?;
            found.extend(
                body["security_groups"].as_array().into_iter().flatten().filter_map(|group| group["id"].as_str()).map(str::to_string),
            );
        }
        let [id] = &found[..] else {
            let what = format!("{} security groups are called '{name}'", found.len());
            return Err(Failure::new(
                what,
                "not affected; nothing was changed",
                "give --security-group an id from `openstack security group list`",
            ));
        };
        ids.push(id.clone());
    }
    Ok(ids)
}

/// A port that somebody else made and nobody uses, bound to this machine and interface.
async fn existing_port(api: &Api, id: &str, host: &str, interface: &str) -> Result<Found> {
    let there = ports(api, &[("id", id)]).await?;
    let Some(port) = there.first() else {
        return Err(Failure::new(format!("there is no port {id}"), "not affected; nothing was changed", "see `openstack port list`"));
    };
    let bound = port["binding:host_id"].as_str().unwrap_or_default();
    if !bound.is_empty() && bound != host {
        let what = format!("port {id} belongs to {bound}, and this machine is {host}");
        return Err(Failure::new(
            what,
            "not affected; it stays there",
            format!("run this on {bound}, or `openstack port set --host {host} {id}`"),
        ));
    }
    let device = port["device_id"].as_str().unwrap_or_default();
    let is_ours = bound == host && device == interface && port["device_owner"] == owner::METAL;
    if !is_ours
        && (port["status"] == "ACTIVE" || !device.is_empty() || port["device_owner"].as_str().is_some_and(|owner| !owner.is_empty()))
    {
        let what = format!("port {id} is in use: it is {}, and its device is '{device}'", port["status"].as_str().unwrap_or("?"));
        return Err(Failure::new(
            what,
            "not affected; it stays as it is",
            "give --port a port that nothing has, or none: `ladon plug` makes one",
        ));
    }
    if !is_ours {
        let change = json!({"port": {"binding:host_id": host, "device_id": interface, "device_owner": owner::METAL}});
        // The tag first: a port that is ours and does not have it would be deleted by `ladon unplug`.
        put(api, &format!("/v2.0/ports/{id}/tags/{BORROWED}"), &Value::Null).await?;
        put(api, &format!("/v2.0/ports/{id}"), &change).await?;
    }
    Ok(Found { port: port_id(port)?, is_new: false })
}

async fn put(api: &Api, path: &str, body: &Value) -> Result<()> {
    let body = Some(body).filter(|body| !body.is_null());
    let answer = api.ask(hyper::Method::PUT, path, body).await?;
    if answer.status.is_success() { Ok(()) } else { Err(api.refused(path, &answer)) }
}

async fn ports(api: &Api, filters: &[(&str, &str)]) -> Result<Vec<Value>> {
    let query: Vec<String> = filters.iter().map(|(key, value)| format!("{}={}", dial::escape(key), dial::escape(value))).collect();
    let body = api.get(&format!("/v2.0/ports?{}", query.join("&"))).await?;
    Ok(body["ports"].as_array().cloned().unwrap_or_default())
}

fn port_id(port: &Value) -> Result<PortId> {
    port["id"].as_str().and_then(|id| id.parse().ok()).ok_or_else(|| {
        Failure::new(
            "the server's answer has no port id",
            "not affected",
            "see that --api leads to a `ladon server`, and look with `openstack port list`",
        )
    })
}

fn describe(format: Format, plugged: &PluggedInterface) -> String {
    if format == Format::Json {
        return format!("{:#}\n", json!(plugged));
    }
    let link = &plugged.link;
    let mut text = format!("{}  port {}  MAC {}  MTU {}\n", link.interface, plugged.port, link.mac, link.mtu);
    for address in &plugged.addresses {
        text.push_str(&format!("  address {address}\n"));
    }
    for (destination, gateway) in &plugged.routes {
        let through = gateway.map_or_else(|| "on the link".to_string(), |gateway| format!("through {gateway}"));
        text.push_str(&format!("  route   {destination} {through}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_that_does_not_answer_is_given_a_little_more_than_its_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("node.sock");
        let _silent = UnixListener::bind(&socket).unwrap();
        let mut control = Control::connect(&socket).await.unwrap_or_else(|failure| panic!("{}", failure.what_happened));
        let deadline = Duration::from_secs(20);
        let request = PlugRequest {
            interface: "plug0".into(),
            port: "bbbbbbbb-0000-0000-0000-000000000002".parse().unwrap(),
            default_route: false,
            routes: Vec::new(),
            deadline_ms: deadline.as_millis() as u64,
        };
        let begun = Instant::now();
        assert!(plugged(&mut control, request).await.is_err());
        assert_eq!(begun.elapsed().as_secs(), (deadline + GRACE).as_secs());
    }

    #[test]
    fn names_are_tried_in_turn_and_not_for_ever() {
        let taken = |count: usize| first_free(move |name| name[4..].parse::<usize>().unwrap() < count);
        assert_eq!(taken(0).ok().as_deref(), Some("plug0"));
        assert_eq!(taken(NAMES_MAX - 1).ok(), Some(format!("plug{}", NAMES_MAX - 1)));
        let failure = taken(NAMES_MAX).unwrap_err();
        assert!(failure.what_happened.contains("all taken"), "{}", failure.what_happened);
    }
}
