//! The versions of the CNI specification that the plugin speaks, and what each can say.

use std::fmt;
use std::str::FromStr;

/// A version of the specification, oldest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Version {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub const ALL: [Version; 4] = [Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];

    /// The version of an answer to a question that did not name a version we know.
    pub const FALLBACK: Version = Version::V1_0_0;

    pub fn as_str(self) -> &'static str {
        match self {
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// CHECK came with 0.4.0.
    pub fn has_check(self) -> bool {
        self >= Version::V0_4_0
    }

    /// GC and STATUS came with 1.1.0.
    pub fn has_gc_and_status(self) -> bool {
        self >= Version::V1_1_0
    }

    /// Before 1.0.0 every address of a result says `version` 4 or 6.
    pub fn says_address_family(self) -> bool {
        self < Version::V1_0_0
    }

    /// Since 1.1.0 an interface of a result says its MTU.
    pub fn says_mtu(self) -> bool {
        self >= Version::V1_1_0
    }

    /// All versions, as text for people.
    pub fn list() -> String {
        Version::ALL.map(Version::as_str).join(", ")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A version that the plugin does not speak.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("CNI version '{0}' is not one of {list}", list = Version::list())]
pub struct UnknownVersion(pub String);

impl FromStr for Version {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Version, UnknownVersion> {
        Version::ALL.into_iter().find(|version| version.as_str() == text).ok_or_else(|| UnknownVersion(text.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_reads_back_what_it_prints() {
        for version in Version::ALL {
            assert_eq!(version.to_string().parse(), Ok(version));
        }
        assert!("0.2.0".parse::<Version>().is_err());
        assert!("".parse::<Version>().is_err());
    }

    #[test]
    fn commands_and_fields_belong_to_versions() {
        assert!(!Version::V0_3_1.has_check() && Version::V0_4_0.has_check());
        assert!(!Version::V1_0_0.has_gc_and_status() && Version::V1_1_0.has_gc_and_status());
        assert!(Version::V0_4_0.says_address_family() && !Version::V1_0_0.says_address_family());
    }
}
