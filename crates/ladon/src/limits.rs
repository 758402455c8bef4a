//! Every queue, cache, retry and rate with its limit, from the code: the constant is the limit, its doc comment says what it
//! bounds and what happens when it is reached, and this reads both out of the source into `docs/limits.md`.
//!
//! Two rules make the page complete, and tests hold them: a queue, a semaphore or a set of things under way is made with a named
//! constant, and a constant with a limit's name has a doc comment. Deliberately *not* here: numbers of protocols (`openflow`),
//! what a configuration sets ([`crate::reference`]).

/// The page, as `ladon config-reference` prints it.
pub const PAGE: &str = include_str!("../../../docs/limits.md");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::PAGE;

    /// The crates with limits, and whose they are.
    const CRATES: [(&str, &str); 9] = [
        ("server", "`ladon server`"),
        ("store", "The store, in `ladon server`"),
        ("stream", "The stream between server and node"),
        ("node", "`ladon node`"),
        ("apps", "The flows of `ladon node`"),
        ("ovsdb", "What `ladon node` reads of ovsdb-server"),
        ("cni", "`ladon-cni`"),
        ("kube", "`ladon kube`"),
        ("ladon", "The operator's commands"),
    ];
    /// How a limit's name ends, or begins where what ends it is what is limited.
    const ENDS: [&str; 24] = [
        "_MAX",
        "_MIN",
        "TIMEOUT",
        "DEADLINE",
        "INTERVAL",
        "PERIOD",
        "RETRY",
        "_FIRST",
        "CEILING",
        "_PER_SECOND",
        "AT_ONCE",
        "GRACE",
        "PAUSE",
        "_AFTER",
        "EVERY",
        "_AGAIN",
        "CHANNEL",
        "OUTBOUND",
        "TICK",
        "_PER_CONNECTION",
        "IDLE_CONNECTIONS",
        "CACHE_BYTES",
        "CHUNK_BYTES",
        "_ROUND",
    ];
    /// Named alike and no limits of Ladon's: what protocols and other programs say.
    const OTHERS: [&str; 8] = [
        "EMBEDDED_PREFIX_MAX",
        "DHCP_V4_PREFIX_MAX",
        "DHCP_V6_PREFIX_MAX",
        "LENGTH_MIN",
        "LENGTH_MAX_V6",
        "COMPACT_BYTES_MIN",
        "TRY_AGAIN",
        "INTERVAL_MAX_SECS",
    ];

    /// A constant of the source.
    #[derive(Debug)]
    struct Limit {
        place: String,
        name: String,
        value: String,
        doc: String,
    }

    /// The source files of a crate, tests left out.
    fn files(folder: &Path, found: &mut Vec<PathBuf>) {
        let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "tests" {
                files(&path, found);
            } else if name.ends_with(".rs") && name != "tests.rs" && name != "limits.rs" && name != "suite.rs" {
                found.push(path);
            }
        }
    }

    /// Every crate's source without its tests: crate, module, text.
    fn sources() -> Vec<(&'static str, String, String)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let of = |&(name, _): &(&'static str, &str)| {
            let folder = root.join(name).join("src");
            let mut found = Vec::new();
            files(&folder, &mut found);
            let source = |path: PathBuf| {
                let module = path.strip_prefix(&folder).unwrap().with_extension("").display().to_string();
                let text = std::fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_string();
                (name, module.trim_end_matches("/mod").replace('/', "::"), text)
            };
            found.into_iter().map(source).collect::<Vec<_>>()
        };
        CRATES.iter().flat_map(of).collect()
    }

    /// The limits of one file.
    fn limits(module: &str, text: &str) -> Vec<Limit> {
        let (mut limits, mut doc) = (Vec::new(), String::new());
        for line in text.lines().map(str::trim) {
            if let Some(more) = line.strip_prefix("///") {
                doc.push_str(more);
                continue;
            }
            let constant =
                ["const ", "pub const ", "pub(super) const ", "pub(crate) const "].iter().find_map(|word| line.strip_prefix(word));
            if let Some((name, rest)) = constant.and_then(|rest| rest.split_once(": ")).filter(|(name, _)| is_limit(name)) {
                let (_, value) = rest.split_once(" = ").unwrap_or((rest, rest));
                let place = if module == "lib" { name.to_string() } else { format!("{module}::{name}") };
                limits.push(Limit {
                    place,
                    name: name.into(),
                    value: for_people(name, value.trim_end_matches(';')),
                    doc: doc.trim().into(),
                });
            }
            if !line.starts_with("#[") {
                doc.clear();
            }
        }
        limits
    }

    fn is_limit(name: &str) -> bool {
        ENDS.iter().any(|end| name.ends_with(end) || name == end.trim_start_matches('_')) && !OTHERS.contains(&name)
    }

    /// `Duration::from_secs(2)` is 2 s, `4 << 20` 4 MiB; what is computed stays as it is.
    fn for_people(name: &str, value: &str) -> String {
        let of =
            |call: &str| value.strip_prefix("Duration::from_")?.strip_prefix(call)?.strip_suffix(')').filter(|n| n.bytes().all(is_digit));
        if let Some(seconds) = of("secs(") {
            return format!("{seconds} s");
        }
        if let Some(millis) = of("millis(") {
            return format!("{millis} ms");
        }
        match value.split_once(" << ") {
            Some((many, "20")) => format!("{many} MiB"),
            Some((many, "10")) => format!("{many} KiB"),
            _ if value.bytes().all(|byte| is_digit(byte)) && name.contains("SECS") => format!("{} s", value.replace('_', "")),
            _ if value.bytes().all(|byte| is_digit(byte)) => value.replace('_', ""),
            _ => format!("`{value}`"),
        }
    }

    fn is_digit(byte: u8) -> bool {
        byte.is_ascii_digit() || byte == b'_'
    }

    fn page() -> String {
        let mut text = String::from(
            "# Limits\n\nEvery queue, cache, retry and rate has a limit, and these are all of them. Generated from the code by `make docs`; a test \
             fails when the page is stale, or when something is queued without a limit that is named here. None can be configured: each is there so \
             that what goes wrong in one place stays there, and is far from what a deployment of the size that Ladon is made for needs.\n",
        );
        let sources = sources();
        for (name, title) in CRATES {
            let rows: Vec<Limit> =
                sources.iter().filter(|(of, ..)| *of == name).flat_map(|(_, module, text)| limits(module, text)).collect();
            if !rows.is_empty() {
                text.push_str(&format!("\n## {title}\n\n| Limit | Value | What it bounds, and what happens then |\n|---|---|---|\n"));
            }
            for Limit { place, value, doc, .. } in rows {
                text.push_str(&format!("| `{place}` | {value} | {} |\n", doc.replace('|', "\\|")));
            }
        }
        text
    }

    #[test]
    fn the_page_in_docs_has_every_limit() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/limits.md");
        let page = page();
        if std::env::var_os("LADON_WRITE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
            return;
        }
        let (new, old): (BTreeSet<&str>, BTreeSet<&str>) = (page.lines().collect(), PAGE.lines().collect());
        let differs: Vec<_> = new.symmetric_difference(&old).collect();
        assert!(page == PAGE, "docs/limits.md is stale: `make docs` writes it again: {differs:#?}");
    }

    #[test]
    fn every_limit_says_what_it_bounds() {
        let sources = sources();
        let all = sources.iter().flat_map(|(krate, module, text)| limits(module, text).into_iter().map(move |limit| (krate, limit)));
        let silent: Vec<String> =
            all.filter(|(_, limit)| limit.doc.is_empty()).map(|(krate, limit)| format!("{krate} {}", limit.place)).collect();
        assert!(silent.is_empty(), "without a doc comment: {silent:#?}");
    }

    /// What a call of `maker` is given in each line of a text.
    fn given<'a>(text: &'a str, maker: &str) -> Vec<&'a str> {
        let argument = |line: &'a str| Some(line.split_once(maker)?.1.split([')', ',']).next()?.trim());
        text.lines().filter(|line| !line.trim().starts_with("//")).filter_map(argument).collect()
    }

    #[test]
    fn nothing_is_queued_without_a_limit_on_the_page() {
        let sources = sources();
        let names: BTreeSet<String> = sources.iter().flat_map(|(_, module, text)| limits(module, text)).map(|limit| limit.name).collect();
        let mut bare = Vec::new();
        for (krate, module, text) in &sources {
            for maker in ["mpsc::channel(", "broadcast::channel(", "Semaphore::new(", "buffer_unordered(", ".buffered(", "LruCache::new("] {
                // One: handed over from hand to hand.
                let unnamed = given(text, maker).into_iter().filter(|argument| *argument != "1" && !argument.is_empty());
                let unnamed = unnamed.filter(|argument| !names.contains(argument.rsplit("::").next().unwrap_or(argument)));
                bare.extend(unnamed.map(|argument| format!("{krate} {module}: {maker}{argument})")));
            }
            if text.contains("unbounded_channel") || text.contains("UnboundedSender") {
                bare.push(format!("{krate} {module}: an unbounded channel"));
            }
            // A time that is waited has a name.
            for maker in ["sleep(", "timeout(", "interval("] {
                let unnamed = given(text, maker).into_iter().filter(|argument| argument.starts_with("Duration::from_"));
                bare.extend(unnamed.map(|argument| format!("{krate} {module}: {maker}{argument})")));
            }
        }
        assert!(bare.is_empty(), "give these a constant whose name ends like a limit's, with a doc comment, and `make docs`: {bare:#?}");
    }

    #[test]
    fn a_constant_becomes_a_row() {
        let found =
            limits("a::b", "/// Things that wait; more are\n/// dropped.\npub const WAITING_MAX: usize = 4 << 20;\nconst OTHER: u8 = 1;\n");
        let [Limit { place, value, doc, .. }] = &found[..] else { panic!("{found:?}") };
        assert_eq!((place.as_str(), value.as_str(), doc.as_str()), ("a::b::WAITING_MAX", "4 MiB", "Things that wait; more are dropped."));
        assert_eq!(for_people("X_MAX", "65_536"), "65536");
        assert_eq!(for_people("X_PAUSE", "Duration::from_millis(500)"), "500 ms");
        assert_eq!(for_people("X_MAX", "A * 2"), "`A * 2`");
    }
}
