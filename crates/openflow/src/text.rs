//! How `ovs-ofctl` prints matches and flows.
