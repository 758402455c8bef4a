//! Small changes to an input, chosen by a seed: the same seed, the same input, on every machine.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// Longest input that is made.
const BYTES_MAX: usize = 16 << 10;
/// Changes to one input.
const CHANGES_MAX: u32 = 8;
/// Lengths and numbers at which decoders go wrong.
const EDGES: [u64; 12] = [0, 1, 3, 7, 8, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, u64::MAX];
/// What text is made of that decoders look at.
const WORDS: [&str; 14] = ["\"", "{", "}", "[", "]", ":", ",", "null", "-1", "1e999", "18446744073709551616", "\\ud800", "\0", "\n"];

/// The input that `seed` makes of the corpus.
pub fn input(corpus: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut bytes = corpus.choose(&mut random).cloned().unwrap_or_default();
    for _ in 0..random.random_range(1..=CHANGES_MAX) {
        change(&mut bytes, corpus, &mut random);
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

fn change(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut StdRng) {
    let place = random.random_range(0..=bytes.len());
    match random.random_range(0..8) {
        0 => bytes.truncate(place),
        1 => {
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << random.random_range(0..8);
            }
        }
        2 => {
            if let Some(byte) = bytes.get_mut(place) {
                *byte = random.random();
            }
        }
        3 => number(bytes, place, random),
        4 => drop(bytes.splice(place..place, WORDS.choose(random).expect("there are words").bytes())),
        5 => {
            let end = random.random_range(place..=bytes.len().min(place + 64));
            drop(bytes.drain(place..end));
        }
        6 => {
            let end = random.random_range(place..=bytes.len().min(place + 64));
            let again = bytes[place..end].to_vec();
            drop(bytes.splice(place..place, again));
        }
        _ => {
            let other = corpus.choose(random).map_or(&[][..], Vec::as_slice);
            let start = random.random_range(0..=other.len());
            let end = random.random_range(start..=other.len().min(start + 256));
            let until = random.random_range(place..=bytes.len().min(place + 256));
            drop(bytes.splice(place..until, other[start..end].iter().copied()));
        }
    }
}

/// Puts a number from the edges over one to eight bytes.
fn number(bytes: &mut [u8], place: usize, random: &mut StdRng) {
    let value = EDGES.choose(random).expect("there are edges").to_be_bytes();
    let width = [1, 2, 4, 8].choose(random).copied().expect("there are widths");
    let written = &value[8 - width..];
    let end = bytes.len().min(place + width);
    bytes[place..end].copy_from_slice(&written[..end - place]);
}
