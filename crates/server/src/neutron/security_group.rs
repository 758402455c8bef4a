//! Security groups: sets of ports, and the rules that hold for them.
//!
//! Every project has a group called `default`, made when it is first needed: it lets its members talk to each other and out.
//! Its id follows from the project, so that it is found without a search and two writers can never make two. Other new
//! groups let their members talk out, and nobody in.

use std::fmt::Display;

use model::{Direction, EtherType, GroupKey, ProjectId, Rule, RuleId, SecurityGroup, SecurityGroupId};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::auth::Caller;
use crate::state::State;

use super::attribute::{self, Attribute};
use super::error::ApiError;
use super::fields::Fields;
use super::handlers::Neutron;
use super::resource::{self, Ask, Resource, Settings};
use super::rule::Rules;

/// The name of every project's first group.
pub const DEFAULT: &str = "default";
/// Names the default groups among all UUIDs of version 5.
const DEFAULT_NAMESPACE: Uuid = Uuid::from_u128(0x6c61_646f_6e00_5000_8000_6465_6661_756c);

pub struct SecurityGroups;

impl Resource for SecurityGroups {
    type Model = SecurityGroup;

    const NAME: &'static str = "security_group";
    const COLLECTION: &'static str = "security_groups";
    const PATH: &'static str = "security-groups";
    const TABLE: &'static [Attribute] = &[
        attribute::ID,
        attribute::NAME,
        attribute::DESCRIPTION,
        attribute::TENANT_ID,
        attribute::PROJECT_ID,
        Attribute::read_only("security_group_rules").hidden_from_queries(),
        attribute::TAGS,
        attribute::REVISION,
        attribute::CREATED,
        attribute::UPDATED,
    ];

    fn not_found(id: &dyn Display) -> ApiError {
        resource::group_not_found(id)
    }

    fn show(state: &State, group: &SecurityGroup, settings: Settings) -> Map<String, Value> {
        let owner = Caller { project: group.project.clone(), is_admin: true, ..Caller::default() };
        let rules = state.rules_of(group.id).map(|rule| resource::shown::<Rules>(state, rule, &owner, settings));
        resource::entries(json!({
            "name": group.name,
            "description": group.description,
            "security_group_rules": rules.collect::<Vec<_>>(),
        }))
    }

    fn show_attribute(group: &SecurityGroup, name: &str) -> Option<Value> {
        (name == "name").then(|| group.name.as_str().into())
    }

    fn is_same(_group: &SecurityGroup, _fields: &Fields) -> bool {
        true
    }

    fn create(ask: &mut Ask, id: Uuid, project: ProjectId, fields: &Fields) -> Result<SecurityGroup, ApiError> {
        let name = name(fields)?.unwrap_or_default().to_string();
        ensure_default(ask, &project)?;
        let group = SecurityGroup {
            id: SecurityGroupId(id),
            key: ask.tx.group_key()?,
            project,
            name,
            description: fields.text("description").unwrap_or_default().to_string(),
            standard: ask.born(),
        };
        let rules = [EtherType::Ipv4, EtherType::Ipv6].map(|ethertype| any(ask, &group, Direction::Egress, ethertype));
        rules.into_iter().for_each(|rule| ask.tx.put(rule));
        Ok(group)
    }

    fn update(_ask: &mut Ask, group: &mut SecurityGroup, fields: &Fields) -> Result<(), ApiError> {
        let name = name(fields)?;
        if name.is_some_and(|name| name != group.name) && is_default(group) {
            return Err(ApiError::conflict("SecurityGroupCannotUpdateDefault", "Updating default security group not allowed."));
        }
        group.name = name.unwrap_or(&group.name).to_string();
        group.description = fields.text("description").unwrap_or(&group.description).to_string();
        Ok(())
    }

    fn delete(ask: &mut Ask, group: &SecurityGroup) -> Result<(), ApiError> {
        if is_default(group) && !ask.caller.is_admin {
            let message = "Insufficient rights for removing default security group.";
            return Err(ApiError::conflict("SecurityGroupCannotRemoveDefault", message));
        }
        if ask.state().ports_in_group(group.id).next().is_some() {
            return Err(ApiError::conflict("SecurityGroupInUse", format!("Security Group {} in use.", group.id)));
        }
        // Rules of other groups that name this one end with it, as in Neutron: they can match nobody any more.
        let own = ask.state().rules_of(group.id).map(|rule| rule.id);
        let naming = ask.state().rules_naming(group.id).map(|rule| rule.id);
        let rules: Vec<RuleId> = own.chain(naming).collect();
        rules.into_iter().for_each(|id| ask.tx.delete(resource::key::<Rules>(id.0)));
        Ok(())
    }
}

/// The name that a request gives; `default` is taken.
fn name(fields: &Fields) -> Result<Option<&str>, ApiError> {
    let name = fields.text("name");
    match name.filter(|name| name.eq_ignore_ascii_case(DEFAULT)) {
        Some(_) => Err(ApiError::conflict("SecurityGroupDefaultAlreadyExists", "Default security group already exists.")),
        None => Ok(name),
    }
}

/// The id of a project's default group.
fn default_id(project: &ProjectId) -> SecurityGroupId {
    SecurityGroupId(Uuid::new_v5(&DEFAULT_NAMESPACE, project.0.as_bytes()))
}

pub fn is_default(group: &SecurityGroup) -> bool {
    group.id == default_id(&group.project)
}

/// Makes a project's default group if it has none.
pub fn ensure_default(ask: &mut Ask, project: &ProjectId) -> Result<SecurityGroupId, ApiError> {
    let id = default_id(project);
    match ask.state().group(id).map(|group| group.project == *project) {
        Some(true) => return Ok(id),
        Some(false) => return Err(taken(id)),
        None => {}
    }
    let key: GroupKey = ask.tx.group_key()?;
    let group = SecurityGroup {
        id,
        key,
        project: project.clone(),
        name: DEFAULT.to_string(),
        description: "Default security group".to_string(),
        standard: ask.born(),
    };
    for ethertype in [EtherType::Ipv4, EtherType::Ipv6] {
        let out = any(ask, &group, Direction::Egress, ethertype);
        let among = Rule { remote_group: Some(id), ..any(ask, &group, Direction::Ingress, ethertype) };
        ask.tx.put(out);
        ask.tx.put(among);
    }
    ask.tx.put(group);
    Ok(id)
}

/// An administrator gave another project's group this id: what it lets through is not this project's to trust.
fn taken(id: SecurityGroupId) -> ApiError {
    let message = format!(
        "Security group {id} should be the default group of this project and belongs to another one. Nothing was made. An administrator \
         has to delete that group."
    );
    ApiError::conflict("SecurityGroupDefaultTaken", message)
}

/// A rule that lets everything through in one direction.
fn any(ask: &Ask, group: &SecurityGroup, direction: Direction, ethertype: EtherType) -> Rule {
    Rule {
        id: RuleId(Uuid::new_v4()),
        group: group.id,
        project: group.project.clone(),
        description: String::new(),
        direction,
        ethertype,
        protocol: None,
        protocol_name: None,
        range_min: None,
        range_max: None,
        remote_prefix: None,
        remote_prefix_text: None,
        remote_group: None,
        standard: ask.born(),
    }
}

/// Whoever lists groups or rules sees the default group, also before anything needed it.
pub async fn ensure_for_list<R: Resource>(neutron: &Neutron, caller: &Caller) -> Result<(), ApiError> {
    let shows_groups = [SecurityGroups::NAME, Rules::NAME].contains(&R::NAME);
    if !shows_groups || neutron.core.state().group(default_id(&caller.project)).is_some() {
        return Ok(());
    }
    let project = caller.project.clone();
    neutron.write(caller.clone(), move |ask| ensure_default(ask, &project)).await.map(|_| ())
}

/// A change of a group's rules is a change of the group.
pub fn touch(ask: &mut Ask, id: SecurityGroupId) {
    let Some(mut group) = ask.state().group(id).cloned() else { return };
    ask.touch(&mut group.standard);
    ask.tx.put(group);
}

/// Refuses a rule that the group has already.
pub fn check_new_rule(state: &State, new: &Rule) -> Result<(), ApiError> {
    match state.rule_allowing(new.group, new.allowed()) {
        None => Ok(()),
        Some(old) => {
            let message = format!("Security group rule already exists. Rule id is {}.", old.id);
            Err(ApiError::conflict("SecurityGroupRuleExists", message))
        }
    }
}
