//! No input of the corpus and none that a seed makes of it does harm.
//!
//! `LADON_FUZZ_SEED` begins elsewhere, `LADON_FUZZ_ROUNDS` goes on for longer. A failure names its seed and keeps the input.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fuzz::{TARGETS, Target, mutate};

const SEED: u64 = 1;

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no corpus", folder.display());
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

fn does_no_harm(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let corpus = corpus(target);
    for (path, bytes) in &corpus {
        (target.run)(bytes);
        assert!(bytes.len() <= 16 << 10, "{} is too long for a corpus", path.display());
    }
    let corpus: Vec<Vec<u8>> = corpus.into_iter().map(|(_, bytes)| bytes).collect();
    let first = number("LADON_FUZZ_SEED").unwrap_or(SEED);
    let rounds = number("LADON_FUZZ_ROUNDS").unwrap_or(u64::from(target.rounds));
    for seed in first..first + rounds {
        let input = mutate::input(&corpus, seed);
        if catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err() {
            let kept = std::env::temp_dir().join(format!("ladon-fuzz-{name}-{seed}"));
            std::fs::write(&kept, &input).unwrap();
            panic!(
                "LADON_FUZZ_SEED={seed} LADON_FUZZ_ROUNDS=1 does harm; the input is kept at {}: put it into corpus/{name}",
                kept.display()
            );
        }
    }
}

macro_rules! borders {
    ($($test:ident $name:literal)*) => {
        $(#[test]
        fn $test() {
            does_no_harm($name);
        })*

        #[test]
        fn every_border_has_a_test() {
            assert_eq!(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>(), [$($name),*]);
        }
    };
}

borders! {
    a_switch_does_no_harm "openflow"
    a_database_does_no_harm "ovsdb"
    a_dhcp_client_does_no_harm "dhcp"
    a_dhcpv6_client_does_no_harm "dhcpv6"
    a_neighbour_does_no_harm "nd"
    a_machine_does_no_harm "packet-in"
    a_container_runtime_does_no_harm "cni"
    a_peer_does_no_harm "views"
    a_client_of_the_api_does_no_harm "api"
}

#[test]
fn a_seed_makes_the_same_input_again() {
    let corpus = [b"some".to_vec(), b"bytes".to_vec()];
    assert_eq!(mutate::input(&corpus, 7), mutate::input(&corpus, 7));
    assert!((0..20).any(|seed| mutate::input(&corpus, seed) != mutate::input(&corpus, seed + 1)));
}
