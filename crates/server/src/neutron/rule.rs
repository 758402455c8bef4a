//! Security group rules: made and deleted, never changed.

use std::fmt::Display;

use ipnet::IpNet;
use model::{Direction, EtherType, ProjectId, Rule, RuleId, SecurityGroup, SecurityGroupId};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::auth::Caller;
use crate::state::State;

use super::attribute::{self, Attribute, Fallback};
use super::check::{self, Check};
use super::error::ApiError;
use super::fields::Fields;
use super::python;
use super::query::Query;
use super::resource::{self, Ask, Resource, Settings};
use super::security_group::{self, SecurityGroups};

/// IP protocols with a name (IANA).
const PROTOCOLS: &[(&str, u8)] = &[
    ("ah", 51),
    ("dccp", 33),
    ("egp", 8),
    ("esp", 50),
    ("gre", 47),
    ("hopopt", 0),
    ("icmp", 1),
    ("igmp", 2),
    ("ip", 0),
    ("ipip", 4),
    ("ipv6-encap", 41),
    ("ipv6-frag", 44),
    ("ipv6-icmp", 58),
    ("icmpv6", 58),
    ("ipv6-nonxt", 59),
    ("ipv6-opts", 60),
    ("ipv6-route", 43),
    ("ospf", 89),
    ("pgm", 113),
    ("rsvp", 46),
    ("sctp", 132),
    ("tcp", 6),
    ("udp", 17),
    ("udplite", 136),
    ("vrrp", 112),
];
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Protocols that only IPv6 packets carry.
const V6_ONLY: [u8; 6] = [41, 44, 58, 59, 60, 43];
/// Protocols with ports: TCP, UDP, SCTP, DCCP, UDP-Lite.
const WITH_PORTS: [u8; 5] = [6, 17, 132, 33, 136];

pub struct Rules;

impl Resource for Rules {
    type Model = Rule;

    const NAME: &'static str = "security_group_rule";
    const COLLECTION: &'static str = "security_group_rules";
    const PATH: &'static str = "security-group-rules";
    const TABLE: &'static [Attribute] = &[
        attribute::ID,
        Attribute::at_birth("description", Check::TextOrNull(attribute::TEXT_MAX)).or(Fallback::EmptyText),
        attribute::TENANT_ID,
        attribute::PROJECT_ID,
        Attribute::at_birth("security_group_id", Check::Uuid).or(Fallback::Required),
        Attribute::at_birth("direction", Check::Word(&["ingress", "egress"])).or(Fallback::Required),
        Attribute::at_birth("ethertype", Check::Anything),
        Attribute::at_birth("protocol", Check::Anything).or(Fallback::Null),
        Attribute::at_birth("port_range_min", Check::Anything).or(Fallback::Null),
        Attribute::at_birth("port_range_max", Check::Anything).or(Fallback::Null),
        Attribute::at_birth("remote_ip_prefix", Check::Anything).or(Fallback::Null),
        Attribute::at_birth("remote_group_id", Check::UuidOrNull).or(Fallback::Null),
        Attribute::read_only("normalized_cidr"),
        Attribute { check: Check::Boolean, ..Attribute::read_only("belongs_to_default_sg") },
        attribute::TAGS,
        attribute::REVISION,
        attribute::CREATED,
        attribute::UPDATED,
    ];

    fn not_found(id: &dyn Display) -> ApiError {
        resource::rule_not_found(id)
    }

    fn is_visible(state: &State, rule: &Rule, caller: &Caller) -> bool {
        state.group(rule.group).is_some_and(|group| caller.may_see(&group.project))
    }

    fn is_deletable(state: &State, rule: &Rule, caller: &Caller) -> bool {
        Rules::is_visible(state, rule, caller)
    }

    fn show(state: &State, rule: &Rule, _settings: Settings) -> Map<String, Value> {
        resource::entries(json!({
            "description": rule.description,
            "security_group_id": rule.group,
            "direction": direction_word(rule.direction),
            "ethertype": ethertype_word(rule.ethertype),
            "protocol": rule.protocol_name,
            "port_range_min": rule.range_min,
            "port_range_max": rule.range_max,
            "remote_ip_prefix": rule.remote_prefix_text,
            "normalized_cidr": rule.remote_prefix,
            "remote_group_id": rule.remote_group,
            "belongs_to_default_sg": state.group(rule.group).is_some_and(security_group::is_default),
        }))
    }

    fn candidates<'a>(state: &'a State, query: &Query) -> Box<dyn Iterator<Item = &'a Rule> + 'a> {
        if let Some(rules) = resource::by_id::<Rules>(state, query) {
            return rules;
        }
        match query.only("security_group_id").map(str::parse) {
            Some(Ok(group)) => Box::new(state.rules_of(group)),
            _ => Box::new(state.all()),
        }
    }

    fn is_same(rule: &Rule, fields: &Fields) -> bool {
        fields.parsed("security_group_id") == Some(rule.group)
    }

    fn create(ask: &mut Ask, id: Uuid, project: ProjectId, fields: &Fields) -> Result<Rule, ApiError> {
        let group = own_group(ask, fields)?;
        let ethertype = ethertype(fields)?;
        let (protocol, protocol_name) = protocol(fields, ethertype)?;
        let (range_min, range_max) = range(fields, protocol)?;
        let (remote_prefix, remote_prefix_text) = prefix(fields, ethertype)?;
        let rule = Rule {
            id: RuleId(id),
            group: group.id,
            project,
            description: fields.text("description").unwrap_or_default().to_string(),
            direction: if fields.text("direction") == Some("egress") { Direction::Egress } else { Direction::Ingress },
            ethertype,
            protocol,
            protocol_name,
            range_min,
            range_max,
            remote_prefix,
            remote_prefix_text,
            remote_group: remote_group(ask, fields)?,
            standard: ask.born(),
        };
        security_group::check_new_rule(ask.state(), &rule)?;
        security_group::touch(ask, group.id);
        Ok(rule)
    }

    fn update(_ask: &mut Ask, _rule: &mut Rule, _fields: &Fields) -> Result<(), ApiError> {
        Ok(())
    }

    fn delete(ask: &mut Ask, rule: &Rule) -> Result<(), ApiError> {
        security_group::touch(ask, rule.group);
        Ok(())
    }
}

fn direction_word(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

fn ethertype_word(ethertype: EtherType) -> &'static str {
    match ethertype {
        EtherType::Ipv4 => "IPv4",
        EtherType::Ipv6 => "IPv6",
    }
}

/// The group of a new rule: one that the caller sees.
fn own_group(ask: &Ask, fields: &Fields) -> Result<SecurityGroup, ApiError> {
    let id = fields.text("security_group_id").unwrap_or_default();
    resource::visible::<SecurityGroups>(ask.state(), id, ask.caller).cloned()
}

/// The remote group: any that exists, also another project's, if the caller knows its id.
fn remote_group(ask: &Ask, fields: &Fields) -> Result<Option<SecurityGroupId>, ApiError> {
    let Some(id) = fields.parsed::<SecurityGroupId>("remote_group_id") else { return Ok(None) };
    if fields.text("remote_ip_prefix").is_some_and(|prefix| !prefix.is_empty()) {
        let message = "Only one of remote_ip_prefix or remote_group_id or remote_address_group_id may be provided.";
        return Err(ApiError::bad("SecurityGroupMultipleRemoteEntites", message));
    }
    if ask.state().group(id).is_none() {
        return Err(resource::group_not_found(&id));
    }
    Ok(Some(id))
}

fn ethertype(fields: &Fields) -> Result<EtherType, ApiError> {
    let Some(value) = fields.get("ethertype") else { return Ok(EtherType::Ipv4) };
    match value.as_str().unwrap_or_default().to_ascii_lowercase().as_str() {
        "ipv4" => Ok(EtherType::Ipv4),
        "ipv6" => Ok(EtherType::Ipv6),
        _ => {
            let word = python::text(value);
            let message = format!("Security group rule for ethertype '{word}' not supported. Allowed values are ['IPv4', 'IPv6'].");
            Err(ApiError::bad("SecurityGroupRuleInvalidEtherType", message))
        }
    }
}

/// The protocol as a number, and as the API says it.
fn protocol(fields: &Fields, ethertype: EtherType) -> Result<(Option<u8>, Option<String>), ApiError> {
    let Some(value) = fields.set("protocol").filter(|value| *value != "any" && *value != "") else { return Ok((None, None)) };
    let (number, mut name) = known_protocol(value).ok_or_else(|| {
        let names = PROTOCOLS.iter().map(|(name, _)| format!("'{name}'")).collect::<Vec<_>>().join(", ");
        let message = format!(
            "Security group rule protocol {} not supported. Only protocol values [None, 'any', {names}] and integer \
             representations [0 to 255] are supported.",
            python::text(value)
        );
        ApiError::bad("SecurityGroupRuleInvalidProtocol", message)
    })?;
    let mut number = number;
    if ethertype == EtherType::Ipv6 && ["icmp", "icmpv6"].contains(&name.as_str()) {
        (number, name) = (ICMPV6, "ipv6-icmp".to_string());
    }
    if ethertype == EtherType::Ipv4 && V6_ONLY.contains(&number) {
        let message = format!("Invalid ethertype IPv4 for protocol {name}.");
        return Err(ApiError::bad("SecurityGroupEthertypeConflictWithProtocol", message));
    }
    Ok((Some(number), Some(name)))
}

fn known_protocol(value: &Value) -> Option<(u8, String)> {
    if let Some(number) = check::integer(value) {
        return u8::try_from(number).ok().map(|number| (number, number.to_string()));
    }
    let name = value.as_str()?.to_ascii_lowercase();
    PROTOCOLS.iter().find(|(known, _)| *known == name).map(|(_, number)| (*number, name))
}

/// Ports, or ICMP's type and code.
fn range(fields: &Fields, protocol: Option<u8>) -> Result<(Option<u16>, Option<u16>), ApiError> {
    let (min, max) = (bound(fields, "port_range_min")?, bound(fields, "port_range_max")?);
    if min.is_none() && max.is_none() {
        return Ok((None, None));
    }
    let refuse = |kind, message: String| Err(ApiError::bad(kind, message));
    match protocol {
        None => refuse("SecurityGroupProtocolRequiredWithPorts", "Must also specify protocol if port range is given.".to_string()),
        Some(ICMP | ICMPV6) => icmp(min, max),
        Some(protocol) if WITH_PORTS.contains(&protocol) => ports(min, max),
        Some(protocol) => refuse(
            "SecurityGroupInvalidProtocolForPort",
            format!("Ports cannot be specified for protocol {protocol}. Ports are only supported for DCCP, SCTP, TCP, UDP, UDPLITE."),
        ),
    }
}

fn bound(fields: &Fields, name: &str) -> Result<Option<u16>, ApiError> {
    let Some(value) = fields.set(name) else { return Ok(None) };
    let port = check::integer(value).and_then(|port| u16::try_from(port).ok());
    port.map(Some).ok_or_else(|| invalid_port(&python::text(value)))
}

fn invalid_port(port: &str) -> ApiError {
    ApiError::bad("SecurityGroupInvalidPortValue", format!("Invalid value for port {port}"))
}

fn icmp(kind: Option<u16>, code: Option<u16>) -> Result<(Option<u16>, Option<u16>), ApiError> {
    for (value, attribute, field) in [(kind, "port_range_min", "type"), (code, "port_range_max", "code")] {
        if let Some(value) = value.filter(|value| *value > u16::from(u8::MAX)) {
            let message = format!("Invalid value for ICMP {field} ({attribute}) {value}. It must be 0 to 255.");
            return Err(ApiError::bad("SecurityGroupInvalidIcmpValue", message));
        }
    }
    match (kind, code) {
        (None, Some(code)) => {
            let message = format!("ICMP code (port-range-max) {code} is provided but ICMP type (port-range-min) is missing.");
            Err(ApiError::bad("SecurityGroupMissingIcmpType", message))
        }
        both => Ok(both),
    }
}

/// Both ends or none; the whole range is none.
fn ports(min: Option<u16>, max: Option<u16>) -> Result<(Option<u16>, Option<u16>), ApiError> {
    if min == Some(0) || max == Some(0) {
        return Err(invalid_port("0"));
    }
    match (min, max) {
        (Some(1), Some(u16::MAX)) => Ok((None, None)),
        (Some(min), Some(max)) if min <= max => Ok((Some(min), Some(max))),
        _ => {
            let message = "For TCP/UDP protocols, port_range_min must be <= port_range_max";
            Err(ApiError::bad("SecurityGroupInvalidPortRange", message))
        }
    }
}

/// The remote prefix without host bits, and as it was written.
fn prefix(fields: &Fields, ethertype: EtherType) -> Result<(Option<IpNet>, Option<String>), ApiError> {
    let Some(value) = fields.set("remote_ip_prefix").filter(|value| *value != "") else { return Ok((None, None)) };
    let text = value.as_str().unwrap_or_default();
    let net = check::net(text).or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
    let invalid = || ApiError::bad("InvalidCIDR", format!("Invalid CIDR {} given as IP prefix.", python::text(value)));
    let net = net.ok_or_else(invalid)?;
    if net.addr().is_ipv4() != (ethertype == EtherType::Ipv4) {
        let message = format!("Conflicting value ethertype {} for CIDR {text}", ethertype_word(ethertype));
        return Err(ApiError::bad("SecurityGroupRuleParameterConflict", message));
    }
    Ok((Some(net.trunc()), Some(net.to_string())))
}
