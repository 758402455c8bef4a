//! Changes of the northbound database, until the real chassis has acknowledged them (`ovn-nbctl --wait=hv`): its switch has answered a
//! barrier behind the last flow.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::ovsdb::{Database, only_row};

/// What makes the central daemon and the chassis answer for all that there is by now.
pub fn bump() -> Value {
    json!({"op": "mutate", "table": "NB_Global", "where": [], "mutations": [["nb_cfg", "+=", 1]]})
}

/// Makes the changes in one transaction, and waits. What the operations have answered. `north` monitors `hv_cfg`.
pub fn change(north: &mut Database, operations: &[Value]) -> Result<Vec<Value>> {
    let look = json!({"op": "select", "table": "NB_Global", "where": [], "columns": ["nb_cfg"]});
    let results = north.transact(&[operations, &[bump(), look]].concat())?;
    let asked = results.last().and_then(only_row).and_then(|row| row["nb_cfg"].as_i64()).context("there is an NB_Global")?;
    north.until(|update| {
        let rows = update["NB_Global"].as_object().into_iter().flatten();
        rows.into_iter().any(|(_, row)| row["new"]["hv_cfg"].as_i64() >= Some(asked))
    })?;
    Ok(results)
}

/// A connection for such changes alone, so that whoever makes them need not hold all of OVN.
pub struct Acknowledged {
    north: Database,
}

impl Acknowledged {
    pub fn connect(socket: &Path) -> Result<Acknowledged> {
        let mut north = Database::connect(socket, "OVN_Northbound")?;
        north.monitor(&json!({"NB_Global": {"columns": ["hv_cfg"]}}))?;
        Ok(Acknowledged { north })
    }

    /// See [`change`].
    pub fn change(&mut self, operations: &[Value]) -> Result<Vec<Value>> {
        change(&mut self.north, operations)
    }
}
