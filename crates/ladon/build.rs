//! Has the linker pack the table of addresses that are set right at every start: in full it is 1.2 MB of the file that each process
//! reads, and keeps resident. glibc 2.36 (Debian 12) and newer read it packed.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|environment| environment == "gnu") {
        println!("cargo::rustc-link-arg-bin=ladon=-Wl,-z,pack-relative-relocs");
    }
}
