//! Who calls: static tokens from a file, or nobody is asked.
//!
//! With `auth = "none"` every caller is an administrator, in the project that the `X-Project-Id` header names: good on
//! loopback and on a unix socket, refused anywhere else. With `auth = "tokens"` a request carries one of the file's tokens
//! in `X-Auth-Token`, as it would carry one of Keystone's. Of the roles, `admin` opens every project, and `reader` without
//! `member` looks and changes nothing; other roles mean nothing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use model::ProjectId;
use sha2::{Digest, Sha256};

use crate::http::{self, error_document};

/// The role that makes its bearer an administrator.
pub const ADMIN_ROLE: &str = "admin";
/// The role with which one writes. It goes without saying where a token has neither this nor [`READER_ROLE`].
const MEMBER_ROLE: &str = "member";
/// The role with which one reads only, unless another role says more.
const READER_ROLE: &str = "reader";

/// The sender of a request, put into the request's extensions by [`authenticate`].
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

    /// True if all that the caller may do is to look.
    pub fn is_reader(&self) -> bool {
        let has = |role: &str| self.roles.iter().any(|own| own == role);
        has(READER_ROLE) && !has(MEMBER_ROLE) && !self.is_admin
    }

    /// The administrator that everybody is without authentication.
    fn anybody(headers: &HeaderMap) -> Caller {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_string();
        Caller { project: ProjectId(text("x-project-id")), user: text("x-user-id"), roles: vec![ADMIN_ROLE.into()], is_admin: true }
    }
}

/// Why a file of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    #[error("the file of tokens {path} cannot be read: nobody could call the API; check that it exists and who may read it")]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "{path}, line {line}: {problem}: the file is not used at all, so that no token is missing by surprise; write lines of token,project,user,roles"
    )]
    Line { path: PathBuf, line: usize, problem: &'static str },
    #[error(
        "{path} holds no token: nobody could call the API, and switches go on with what they have; write lines of token,project,user,roles, \
         one of them with the role admin"
    )]
    Empty { path: PathBuf },
}

/// How callers are known.
#[derive(Clone, Debug)]
pub enum Auth {
    None,
    Tokens(Arc<Tokens>),
}

/// The callers by the hash of their token: looking one up tells nothing about the others by its duration.
#[derive(Debug, Default)]
pub struct Tokens(HashMap<[u8; 32], Caller>);

impl Tokens {
    /// Reads lines of `token,project,user,roles`, the roles separated by spaces. Empty lines and those that begin with `#`
    /// say nothing.
    pub fn read(path: &Path) -> Result<Tokens, TokensError> {
        let text = std::fs::read_to_string(path).map_err(|source| TokensError::Read { path: path.into(), source })?;
        let tokens = Tokens::parse(&text).map_err(|(line, problem)| TokensError::Line { path: path.into(), line, problem })?;
        if tokens.0.is_empty() { Err(TokensError::Empty { path: path.into() }) } else { Ok(tokens) }
    }

    fn parse(text: &str) -> Result<Tokens, (usize, &'static str)> {
        let mut tokens = Tokens::default();
        for (number, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (hash, caller) = entry(line).map_err(|problem| (number + 1, problem))?;
            if tokens.0.insert(hash, caller).is_some() {
                return Err((number + 1, "this token was there before"));
            }
        }
        Ok(tokens)
    }

    fn caller(&self, token: &str) -> Option<&Caller> {
        self.0.get(&hash(token))
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn entry(line: &str) -> Result<([u8; 32], Caller), &'static str> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [token, project, user, roles] = fields[..] else { return Err("four fields are needed") };
    if token.is_empty() {
        return Err("the token is empty");
    }
    if !token.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
        return Err("the token has characters that no HTTP header carries");
    }
    let roles: Vec<String> = roles.split_whitespace().map(String::from).collect();
    let is_admin = roles.iter().any(|role| role == ADMIN_ROLE);
    Ok((hash(token), Caller { project: ProjectId(project.into()), user: user.into(), roles, is_admin }))
}

/// Lets known callers through, with a [`Caller`] in the request's extensions. Version documents are for everybody.
pub async fn authenticate(State(auth): State<Auth>, mut request: Request, next: Next) -> Response {
    let caller = match &auth {
        Auth::None => Some(Caller::anybody(request.headers())),
        Auth::Tokens(tokens) => {
            let token = request.headers().get("x-auth-token").and_then(|token| token.to_str().ok());
            token.and_then(|token| tokens.caller(token)).cloned()
        }
    };
    match caller {
        Some(caller) if caller.is_reader() && !request.method().is_safe() => return http::forbidden(&request),
        Some(caller) => request.extensions_mut().insert(caller),
        None if is_public(request.uri().path()) => request.extensions_mut().insert(Caller::default()),
        None => return unauthorized(),
    };
    next.run(request).await
}

fn is_public(path: &str) -> bool {
    matches!(path, "/" | "/load-balancer" | "/load-balancer/")
}

/// Keystone's middleware answers so.
fn unauthorized() -> Response {
    error_document(StatusCode::UNAUTHORIZED, "The request you have made requires authentication.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_by_value_only() {
        let tokens = Tokens::parse("# who\n\nsecret, p1, alice, member reader\nroot,p0,bob,admin\n").unwrap();
        let alice = tokens.caller("secret").unwrap();
        assert_eq!((alice.project.0.as_str(), alice.user.as_str(), alice.is_admin), ("p1", "alice", false));
        assert!(tokens.caller("root").unwrap().is_admin);
        assert!(tokens.caller("").is_none() && tokens.caller("secre").is_none());
    }

    #[test]
    fn who_has_the_role_of_a_reader_and_none_that_writes_is_a_reader() {
        let is_reader = |roles: &str| entry(&format!("token,p,user,{roles}")).unwrap().1.is_reader();
        assert!(is_reader("reader") && is_reader("reader auditor"));
        assert!(
            !is_reader("") && !is_reader("member") && !is_reader("member reader") && !is_reader("admin reader") && !is_reader("auditor")
        );
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, line) in [("a,b,c", 1), ("a,b,c,d\n,b,c,d", 2), ("a,b,c,d\na,x,y,z", 2), ("\u{7},b,c,d", 1), ("ü,b,c,d", 1)] {
            assert_eq!(Tokens::parse(text).unwrap_err().0, line, "{text}");
        }
    }
}
