//! Bad input through the API: whatever there is already, it is refused at once, with what is wrong.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::http::Client;
use crate::neutron::{self, NETWORKS, PORTS, subnet};
use crate::world::{World, cidr};

/// An id that nothing has.
const NOBODY: &str = "0badcafe-0000-4000-8000-000000000000";
/// How long an answer may take.
const PROMPT: Duration = Duration::from_millis(100);

/// A request, and what is wrong with it.
struct Bad {
    what: &'static str,
    method: &'static str,
    path: String,
    body: String,
}

/// The share of bad requests that are answered with a clear error, in per cent, and how that was found.
pub fn refusals(world: &World) -> Result<(f64, String)> {
    let mut client = world.client()?;
    let requests = requests(world, &mut client)?;
    let mut answers = Vec::new();
    for bad in &requests {
        let began = Instant::now();
        let (status, document) = client.request(bad.method, &bad.path, &bad.body).context(bad.what)?;
        answers.push((bad.what, status, is_clear(status, &document), began.elapsed()));
    }
    let clear = answers.iter().filter(|(.., is_clear, took)| *is_clear && *took <= PROMPT).count();
    let told = |(what, status, is_clear, took): &(&str, u16, bool, Duration)| {
        let late = if *took > PROMPT { format!(" (after {} ms)", took.as_millis()) } else { String::new() };
        format!("{what} {status}{}{late}", if *is_clear { "" } else { " (not clear)" })
    };
    let slowest = answers.iter().map(|(.., took)| took.as_secs_f64() * 1000.0).fold(0.0, f64::max);
    let how = format!(
        "Bad requests through Ladon's API, {} of them one by one, each to be answered with a status of 4xx and a NeutronError that has a message, within {} ms: {}. The slowest \
         answer took {slowest:.1} ms.",
        answers.len(),
        PROMPT.as_millis(),
        answers.iter().map(told).collect::<Vec<_>>().join(", "),
    );
    Ok((100.0 * clear as f64 / answers.len() as f64, how))
}

/// It is the asker's mistake, and the answer says which.
fn is_clear(status: u16, document: &str) -> bool {
    let document: Value = serde_json::from_str(document).unwrap_or_default();
    let message = document["NeutronError"]["message"].as_str();
    (400..500).contains(&status) && message.is_some_and(|message| !message.is_empty())
}

/// None of them changes anything.
fn requests(world: &World, client: &mut Client) -> Result<Vec<Bad>> {
    let port = client.show(&format!("{PORTS}/{}", world.local.first().context("there are local ports")?))?["port"].clone();
    let (ip, mac) = (&port["fixed_ips"][0]["ip_address"], &port["mac_address"]);
    let (network, group, router) = (&world.networks[0].id, &world.networks[0].group, &world.routers[0]);
    let same = &port["network_id"];
    let post = |what, kind: &str, fields: Value| Bad {
        what,
        method: "POST",
        path: format!("/v2.0/{}s", kind.replace('_', "-")),
        body: json!({ kind: fields }).to_string(),
    };
    let other = |what, method, path: String, body: String| Bad { what, method, path, body };
    let rule = |min: u16, max: u16, protocol: Value| -> Value {
        json!({"security_group_id": group, "direction": "ingress", "protocol": protocol, "port_range_min": min, "port_range_max": max})
    };
    let of_unknown = neutron::interface(NOBODY).to_string();
    Ok(vec![
        other("JSON that is cut off", "POST", NETWORKS.into(), "{\"network\": ".into()),
        post("an attribute that does not exist", "network", json!({"nmae": "x"})),
        post("an MTU that is too large", "network", json!({"mtu": 65_000})),
        post("a subnet of an unknown network", "subnet", subnet(NOBODY, "10.0.0.0/24")),
        post("a CIDR that is none", "subnet", subnet(network, "10.0.0.0/33")),
        post("a subnet that overlaps", "subnet", subnet(network, &cidr(0))),
        post("a port of an unknown network", "port", json!({"network_id": NOBODY})),
        post("an address that is taken", "port", json!({"network_id": same, "fixed_ips": [{"ip_address": ip}]})),
        post("a MAC that is taken", "port", json!({"network_id": same, "mac_address": mac})),
        post("an unknown group", "port", json!({"network_id": network, "security_groups": [NOBODY]})),
        post("a host that is no text", "port", json!({"network_id": network, "binding:host_id": 7})),
        post("a range of ports that is reversed", "security_group_rule", rule(90, 80, json!("tcp"))),
        post("ports of no protocol", "security_group_rule", rule(80, 80, Value::Null)),
        other("an interface of an unknown subnet", "PUT", neutron::add_interface(router), of_unknown),
        other("a change of an unknown port", "PUT", format!("{PORTS}/{NOBODY}"), neutron::named("port", "x").to_string()),
        other("a network that is in use, deleted", "DELETE", format!("{NETWORKS}/{network}"), String::new()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_clear_if_it_is_the_askers_and_says_what_is_wrong() {
        let document = r#"{"NeutronError": {"type": "PortNotFound", "message": "Port 7 could not be found.", "detail": ""}}"#;
        assert!(is_clear(404, document));
        for (status, document) in
            [(500, document), (201, document), (400, "{}"), (400, "no JSON"), (400, r#"{"NeutronError": {"message": ""}}"#)]
        {
            assert!(!is_clear(status, document), "{status} {document}");
        }
    }
}
