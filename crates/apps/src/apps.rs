//! The list of apps.

use crate::app::App;
use crate::{balancing, classify, host_config, l2, neighbours, routing, security, spoof};

/// Every app, in the order of the packet.
pub const ALL: &[&App] =
    &[&classify::APP, &spoof::APP, &host_config::APP, &neighbours::APP, &balancing::APP, &security::APP, &routing::APP, &l2::APP];

#[cfg(test)]
mod tests {
    use super::*;
    use pipeline::Table;

    #[test]
    fn every_app_owns_a_table() {
        for app in ALL {
            assert!(Table::ALL.iter().any(|table| table.app() == app.name), "{} has no table", app.name);
        }
    }
}
