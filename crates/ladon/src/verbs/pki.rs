//! `ladon pki`: certificates for demos and tests.

use model::NodeName;
use stream::Credentials;
use stream::pki::{Authority, PkiError};

use crate::cli::{Pki, PkiWhat};
use crate::failure::{Failure, Result};

/// Makes what was asked for; prints the files.
pub fn pki(pki: &Pki) -> Result<String> {
    let failed = |error: PkiError| {
        Failure::new(
            format!("no certificate was made in {}: {}", pki.dir.display(), stream::describe(&error)),
            "not affected; servers and nodes that run keep their certificates",
            "see that the directory can be written, that ca.crt and ca.key in it belong together, and that the name is a node's",
        )
    };
    let authority = Authority::open(&pki.dir).map_err(failed)?;
    let made: Vec<Credentials> = match &pki.what {
        PkiWhat::Ca => Vec::new(),
        PkiWhat::Server => vec![authority.server().map_err(failed)?],
        PkiWhat::Node { names } => {
            names.iter().map(|name| authority.node(&NodeName(name.clone()))).collect::<std::result::Result<_, _>>().map_err(failed)?
        }
    };
    let mut text = format!("authority    {}\n", pki.dir.join("ca.crt").display());
    for credentials in made {
        text.push_str(&format!("certificate  {}\nkey          {}\n", credentials.certificate.display(), credentials.key.display()));
    }
    Ok(text)
}
