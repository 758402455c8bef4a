//! Who calls: what the handlers know of a request's sender.

use model::ProjectId;

/// The sender of a request, put into the request's extensions by the authentication middleware.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Caller {
    /// The project in which the caller acts; empty without one.
    pub project: ProjectId,
    pub user: String,
    pub roles: Vec<String>,
    /// May see and change every project's objects.
    pub is_admin: bool,
}

impl Caller {
    /// True if the caller may see what belongs to `project`.
    pub fn may_see(&self, project: &ProjectId) -> bool {
        self.is_admin || self.project == *project
    }
}
