//! What a kind of object must say so that the generic handlers can serve it.

use std::fmt::Display;

use model::{Object, ObjectKey, ProjectId, Standard, TunnelType};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::auth::Caller;
use crate::http::write_status;
use crate::idempotent::BadKey;
use crate::ipam::IpamError;
use crate::state::{Owned, State, Typed};
use crate::views::Claims;
use crate::writer::{Tx, WriteError};

use super::attribute::{Attribute, Policy};
use super::body::Shape;
use super::error::ApiError;
use super::fields::Fields;
use super::query::Query;

/// What the cluster's configuration means for the API.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The MTU of new networks, and the largest that one may have.
    pub network_mtu: u16,
    /// The encapsulation between nodes: what `provider:network_type` says.
    pub network_type: TunnelType,
}

/// MTU of a network over an IPv4 underlay of 1,500 bytes.
const NETWORK_MTU: u16 = 1450;

impl Default for Settings {
    fn default() -> Settings {
        Settings { network_mtu: NETWORK_MTU, network_type: TunnelType::default() }
    }
}

/// A write in progress: the transaction, and for whom.
pub struct Ask<'a, 'tx> {
    pub tx: &'a mut Tx<'tx>,
    pub caller: &'a Caller,
    pub settings: Settings,
}

impl Ask<'_, '_> {
    pub fn state(&self) -> &State {
        self.tx.state()
    }

    /// The bookkeeping of a new object.
    pub fn born(&self) -> Standard {
        let now = self.tx.now_text();
        Standard { tags: Vec::new(), created_at: now.clone(), updated_at: now, revision_number: 1 }
    }

    /// The bookkeeping of an object that changes.
    pub fn touch(&self, standard: &mut Standard) {
        standard.updated_at = self.tx.now_text();
        standard.revision_number += 1;
    }
}

/// A kind of object in the API: its table, what it looks like, and its rules.
///
/// `create`, `update` and `delete` run inside one transaction: an error leaves nothing behind. Bodies are checked against
/// the table before, visibility and ownership too; the rules here are those that need the state.
pub trait Resource: Send + Sync + 'static {
    type Model: Owned + Clone + PartialEq + Into<Object> + Send + Sync;

    /// `security_group`
    const NAME: &'static str;
    /// `security_groups`
    const COLLECTION: &'static str;
    /// `security-groups`
    const PATH: &'static str;
    const TABLE: &'static [Attribute];

    fn not_found(id: &dyn Display) -> ApiError;

    /// True if others than the owner see it.
    fn is_visible(_state: &State, _model: &Self::Model, _caller: &Caller) -> bool {
        false
    }

    /// True if others than the owner may delete it.
    fn is_deletable(_state: &State, _model: &Self::Model, _caller: &Caller) -> bool {
        false
    }

    /// All attributes, as administrators see them.
    fn show(state: &State, model: &Self::Model, settings: Settings) -> Map<String, Value>;

    /// An attribute just as in [`Resource::show`], where it is had for little: a list that filters by it passes over the others at once.
    fn show_attribute(_model: &Self::Model, _name: &str) -> Option<Value> {
        None
    }

    /// What nodes say of it, as administrators see it: of this moment, and in no state.
    fn show_claims(_model: &Self::Model, _claims: &Claims) -> Map<String, Value> {
        Map::new()
    }

    /// The objects among which a list looks: a superset of what its filters let through.
    fn candidates<'a>(state: &'a State, query: &Query) -> Box<dyn Iterator<Item = &'a Self::Model> + 'a> {
        by_id::<Self>(state, query).unwrap_or_else(|| Box::new(state.all::<Self::Model>()))
    }

    /// True if an existing object is what this request, sent a second time, made.
    fn is_same(model: &Self::Model, fields: &Fields) -> bool;

    fn create(ask: &mut Ask, id: Uuid, project: ProjectId, fields: &Fields) -> Result<Self::Model, ApiError>;
    fn update(ask: &mut Ask, model: &mut Self::Model, fields: &Fields) -> Result<(), ApiError>;
    fn delete(ask: &mut Ask, model: &Self::Model) -> Result<(), ApiError>;
}

/// The table and names of a resource.
pub fn shape<R: Resource + ?Sized>() -> Shape {
    Shape { resource: R::NAME, collection: R::COLLECTION, table: R::TABLE }
}

/// The object's place in the state.
pub fn key<R: Resource + ?Sized>(id: Uuid) -> ObjectKey {
    ObjectKey { kind: R::Model::KIND, id }
}

/// What a filter on ids alone leaves.
pub fn by_id<'a, R: Resource + ?Sized>(state: &'a State, query: &Query) -> Option<Box<dyn Iterator<Item = &'a R::Model> + 'a>> {
    let ids: std::collections::BTreeSet<Uuid> = query.filters.get("id")?.iter().filter_map(|id| Uuid::parse_str(id).ok()).collect();
    Some(Box::new(ids.into_iter().filter_map(|id| state.get::<R::Model>(id))))
}

/// True if the caller sees the object at all.
pub fn may_see<R: Resource>(state: &State, model: &R::Model, caller: &Caller) -> bool {
    caller.may_see(model.project()) || R::is_visible(state, model, caller)
}

/// The object with this id, if the caller sees it.
pub fn visible<'a, R: Resource>(state: &'a State, id: &str, caller: &Caller) -> Result<&'a R::Model, ApiError> {
    let model = Uuid::parse_str(id).ok().and_then(|id| state.get::<R::Model>(id));
    model.filter(|model| may_see::<R>(state, model, caller)).ok_or_else(|| R::not_found(&id))
}

/// The object as this caller sees it.
pub fn shown<R: Resource>(state: &State, model: &R::Model, caller: &Caller, settings: Settings) -> Map<String, Value> {
    let mut shown = R::show(state, model, settings);
    let standard = model.standard();
    let project = &model.project().0;
    shown.insert("id".into(), model.id().to_string().into());
    shown.insert("tenant_id".into(), project.as_str().into());
    shown.insert("project_id".into(), project.as_str().into());
    shown.insert("tags".into(), standard.tags.clone().into());
    shown.insert("revision_number".into(), standard.revision_number.into());
    shown.insert("created_at".into(), standard.created_at.as_str().into());
    shown.insert("updated_at".into(), standard.updated_at.as_str().into());
    if !caller.is_admin {
        for attribute in R::TABLE.iter().filter(|attribute| attribute.policy == Policy::Admin) {
            shown.remove(attribute.name);
        }
    }
    shown
}

/// An attribute as in [`shown`], if it is had for little.
pub fn shown_attribute<R: Resource>(model: &R::Model, name: &str) -> Option<Value> {
    match name {
        "project_id" | "tenant_id" => Some(model.project().0.as_str().into()),
        name => R::show_attribute(model, name),
    }
}

/// The entries of a JSON dictionary that was written out in code.
pub fn entries(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

impl From<BadKey> for ApiError {
    fn from(error: BadKey) -> ApiError {
        ApiError::bad_request(error.to_string())
    }
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> ApiError {
        let kind = match &error {
            WriteError::TooBusy | WriteError::Contended | WriteError::Stopped | WriteError::StoreAway => "ServiceUnavailable",
            WriteError::StoreUnknown(_) => "HTTPGatewayTimeout",
            WriteError::StoreFull => "StoreFull",
            WriteError::KeysExhausted { .. } => "NoNetworkAvailable",
            WriteError::StoreFailed(_) | WriteError::Internal(_) => "HTTPInternalServerError",
        };
        ApiError::new(write_status(&error), kind, error.to_string())
    }
}

impl From<IpamError> for ApiError {
    fn from(error: IpamError) -> ApiError {
        match error {
            IpamError::NetworkNotFound(network) => network_not_found(&network),
            IpamError::SubnetNotFound { subnet, network } => ApiError::invalid_input(format!(
                "Failed to create port on network {network}, because fixed_ips included invalid subnet {subnet}"
            )),
            IpamError::InvalidIpForNetwork { ip, .. } => ApiError::bad(
                "InvalidIpForNetwork",
                format!("IP address {ip} is not a valid IP for any of the subnets on the specified network."),
            ),
            IpamError::InvalidIpForSubnet { ip, .. } => {
                ApiError::bad("InvalidIpForSubnet", format!("IP address {ip} is not a valid IP for the specified subnet."))
            }
            IpamError::AutomaticSubnet { ip, subnet } => ApiError::bad(
                "AllocationOnAutoAddressSubnet",
                format!(
                    "IPv6 address {ip} cannot be directly assigned to a port on subnet {subnet} as the subnet is configured for automatic addresses"
                ),
            ),
            IpamError::IpAddressInUse { ip, network, .. } => ApiError::conflict(
                "IpAddressInUse",
                format!("Unable to complete operation for network {network}. The IP address {ip} is in use."),
            ),
            IpamError::MacsExhausted(network) => ApiError::new(
                axum::http::StatusCode::SERVICE_UNAVAILABLE,
                "NetworkMacAddressGenerationFailure",
                format!("Unable to generate unique mac on network {network}."),
            ),
            IpamError::MacAddressInUse { mac, network, .. } => ApiError::conflict(
                "MacAddressInUse",
                format!("Unable to complete operation for network {network}. The mac address {mac} is in use."),
            ),
            IpamError::Exhausted { network, .. } => {
                ApiError::conflict("IpAddressGenerationFailure", format!("No more IP addresses available on network {network}."))
            }
            IpamError::Write(error) => error.into(),
        }
    }
}

pub fn network_not_found(id: &dyn Display) -> ApiError {
    ApiError::not_found("NetworkNotFound", format!("Network {id} could not be found."))
}

pub fn subnet_not_found(id: &dyn Display) -> ApiError {
    ApiError::not_found("SubnetNotFound", format!("Subnet {id} could not be found."))
}

pub fn port_not_found(id: &dyn Display) -> ApiError {
    ApiError::not_found("PortNotFound", format!("Port {id} could not be found."))
}

pub fn router_not_found(id: &dyn Display) -> ApiError {
    ApiError::not_found("RouterNotFound", format!("Router {id} could not be found"))
}

pub fn group_not_found(id: &dyn Display) -> ApiError {
    ApiError::not_found("SecurityGroupNotFound", format!("Security group {id} does not exist"))
}

pub fn rule_not_found(id: &dyn Display) -> ApiError {
    ApiError::not_found("SecurityGroupRuleNotFound", format!("Security group rule {id} does not exist"))
}
