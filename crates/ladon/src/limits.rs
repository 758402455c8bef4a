//! Every queue, cache, retry and rate with its limit, from the code: the constant is the limit, its doc comment says what it
//! bounds and what happens when it is reached, and this reads both out of the source into `docs/limits.md`.
//!
//! Two rules make the page complete, and tests hold them: a queue, a semaphore or a set of things under way is made with a named
//! constant, and a constant with a limit's name has a doc comment. A third keeps it honest: whoever makes a limit sees it hold, in a
//! test that names the constant. Deliberately *not* here: numbers of protocols (`openflow`), what a configuration sets
//! ([`crate::reference`]).

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
    const OTHERS: [&str; 9] = [
        "EMBEDDED_PREFIX_MAX",
        "DHCP_V4_PREFIX_MAX",
        "DHCP_V6_PREFIX_MAX",
        "LENGTH_MIN",
        "LENGTH_MAX_V6",
        "COMPACT_BYTES_MIN",
        "TRY_AGAIN",
        "INTERVAL_MAX_SECS",
        "FIRST",
    ];

    /// Limits, by crate, of which there is nothing to see: how often something is looked at, how long something that is no failure is let
    /// come, how much is read at once, and what other programs and protocols say.
    const NOTHING_TO_SEE: [(&str, &str); 7] = [
        ("server", "run::IDLE_BLOCKS_PERIOD views::routes::LOOK_AGAIN_AFTER"),
        ("store", "etcd::history::FORGET_PERIOD"),
        (
            "node",
            "agent::GROUPS_AGAIN bridge::session::CHUNK_BYTES connections::limit::COMPARE_EVERY \
             host::COMPARE_EVERY host::routes::TOLD_PREFIX_MIN pods::conflist::LOOK_EVERY \
             pods::sweep::EVERY record::LOCK_PAUSE respond::options6::RESERVED_MAX run::MISSED_EVERY",
        ),
        ("apps", "merge::PAGES_MAX"),
        ("cni", "environment::IFNAME_MAX interface::ALIAS_MAX"),
        ("kube", "alone::NAME_PAUSE topology::PAUSE"),
        ("ladon", "failure::EXIT_TIMEOUT verbs::cluster::WAIT_PAUSE verbs::cluster::WAIT_ROUND"),
    ];

    /// A file of a crate.
    struct Source {
        krate: &'static str,
        module: String,
        /// Without its tests.
        code: String,
        tests: String,
    }

    /// A constant of the source.
    #[derive(Debug)]
    struct Limit {
        module: String,
        place: String,
        name: String,
        value: String,
        doc: String,
    }

    /// The source files in a folder and below it.
    fn files(folder: &Path, found: &mut Vec<PathBuf>) {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        let mut entries: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                files(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("src/limits.rs") {
                found.push(path);
            }
        }
    }

    /// Every file of the crates with limits.
    fn sources() -> Vec<Source> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let of = |&(krate, _): &(&'static str, &str)| {
            let mut found = Vec::new();
            ["src", "tests"].iter().for_each(|folder| files(&root.join(krate).join(folder), &mut found));
            let read =
                |path: PathBuf| source(krate, path.strip_prefix(root.join(krate)).unwrap(), &std::fs::read_to_string(&path).unwrap());
            found.into_iter().map(read).collect::<Vec<_>>()
        };
        CRATES.iter().flat_map(of).collect()
    }

    fn source(krate: &'static str, path: &Path, text: &str) -> Source {
        let is_tests = path.iter().any(|part| ["tests", "tests.rs", "suite.rs"].iter().any(|tests| part == *tests));
        let (code, tests) = if is_tests { ("", text) } else { text.split_once("#[cfg(test)]\nmod tests {").unwrap_or((text, "")) };
        let module = path.with_extension("").display().to_string();
        let module = module.trim_start_matches("src/").trim_end_matches("/mod").replace('/', "::");
        let tests: Vec<&str> = tests.lines().filter(|line| !line.trim().starts_with("//")).collect();
        Source { krate, module, code: code.into(), tests: tests.join("\n") }
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
                    module: module.into(),
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

    /// The limits of a crate.
    fn limits_of(krate: &str, sources: &[Source]) -> Vec<Limit> {
        sources.iter().filter(|source| source.krate == krate).flat_map(|source| limits(&source.module, &source.code)).collect()
    }

    /// The tests that name a limit of `krate`: by its name alone where they stand beside or below it, or where the crate has no other
    /// limit of that name; elsewhere with a module of its own before it, and in another crate by a path that begins with its own.
    fn seen_in(krate: &str, limit: &Limit, is_only_one: bool, sources: &[Source]) -> Vec<String> {
        let is_it = |path: &str, source: &Source| {
            let (before, name) = path.rsplit_once("::").unwrap_or(("", path));
            let is_at_home = source.krate == krate;
            let is_near = is_at_home && format!("{}::", source.module).starts_with(&format!("{}::", limit.module));
            let is_told = is_near || is_only_one || limit.module.split("::").any(|module| before.rsplit("::").next() == Some(module));
            name == limit.name && is_told && (is_at_home || before.split("::").next() == Some(krate))
        };
        let is_path = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
        let names = |source: &&Source| {
            source.tests.contains(&limit.name) && source.tests.split(|letter| !is_path(letter)).any(|path| is_it(path, source))
        };
        sources.iter().filter(names).map(|source| place(krate, source)).collect()
    }

    /// Where the tests of a file stand, for someone who reads about `krate`.
    fn place(krate: &str, source: &Source) -> String {
        let module = source.module.trim_start_matches("tests::");
        let tests = match source.code.is_empty() {
            false => format!("{module}::tests"),
            true if source.module.starts_with("tests::") => format!("tests/{}.rs", module.replace("::", "/")),
            true => module.to_string(),
        };
        if source.krate == krate { tests } else { format!("{}: {tests}", source.krate) }
    }

    /// The limits of a list, each with its crate.
    fn listed(list: &[(&str, &str)]) -> impl Iterator<Item = String> {
        list.iter().flat_map(|(krate, limits)| limits.split(' ').map(move |limit| format!("{krate} {limit}")))
    }

    /// Every limit, with its crate and the tests that name it.
    fn seen(sources: &[Source]) -> Vec<(&'static str, Limit, Vec<String>)> {
        let of = |&(krate, _): &(&'static str, &str)| {
            let all = limits_of(krate, sources);
            let named = |name: &str| all.iter().filter(|limit| limit.name == name).count();
            let seen: Vec<_> = all.iter().map(|limit| seen_in(krate, limit, named(&limit.name) == 1, sources)).collect();
            all.into_iter().zip(seen).map(move |(limit, seen)| (krate, limit, seen)).collect::<Vec<_>>()
        };
        CRATES.iter().flat_map(of).collect()
    }

    fn page() -> String {
        let mut text = String::from(
            "# Limits\n\nEvery queue, cache, retry and rate has a limit, and these are all of them. Generated from the code by `make docs`; a test \
             fails when the page is stale, or when something is queued without a limit that is named here. None can be configured: each is there so \
             that what goes wrong in one place stays there, and is far from what a deployment of the size that Ladon is made for needs.\n\n\
             The last column has the tests that name the limit and see what happens there; where it is empty, there is nothing to see: how often \
             something is looked at, and what other programs say.\n",
        );
        let seen = seen(&sources());
        for (name, title) in CRATES {
            let rows: Vec<_> = seen.iter().filter(|(of, ..)| *of == name).collect();
            if !rows.is_empty() {
                text.push_str(&format!(
                    "\n## {title}\n\n| Limit | Value | What it bounds, and what happens then | Seen in |\n|---|---|---|---|\n"
                ));
            }
            for (_, Limit { place, value, doc, .. }, tests) in rows {
                let tests: Vec<String> = tests.iter().map(|place| format!("`{place}`")).collect();
                text.push_str(&format!("| `{place}` | {value} | {} | {} |\n", doc.replace('|', "\\|"), tests.join(", ")));
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
        let all = seen(&sources()).into_iter();
        let silent: Vec<String> =
            all.filter(|(_, limit, _)| limit.doc.is_empty()).map(|(krate, limit, _)| format!("{krate} {}", limit.place)).collect();
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
        let names: BTreeSet<String> =
            sources.iter().flat_map(|source| limits(&source.module, &source.code)).map(|limit| limit.name).collect();
        let mut bare = Vec::new();
        for Source { krate, module, code: text, .. } in &sources {
            for maker in [
                "mpsc::channel(",
                "broadcast::channel(",
                "Semaphore::new(",
                "Semaphore::const_new(",
                "buffer_unordered(",
                ".buffered(",
                "LruCache::new(",
            ] {
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

    /// Every limit is seen to hold by a test that names it, but for those of which there is nothing to see.
    #[test]
    fn every_limit_is_seen_to_hold() {
        let unseen = seen(&sources()).into_iter().filter(|(.., tests)| tests.is_empty());
        let unseen: BTreeSet<String> = unseen.map(|(krate, limit, _)| format!("{krate} {}", limit.place)).collect();
        let known: BTreeSet<String> = listed(&NOTHING_TO_SEE).collect();
        let new: Vec<_> = unseen.difference(&known).collect();
        assert!(new.is_empty(), "fill these in a test, see what their doc comment says, and name them there: {new:#?}");
        let old: Vec<_> = known.difference(&unseen).collect();
        assert!(old.is_empty(), "a test names these now, or they are gone: take them off the list: {old:#?}");
    }

    #[test]
    fn a_limit_is_seen_by_the_tests_that_mean_it() {
        let beside = "/// Rows.\nconst ROWS_MAX: u8 = 4;\n#[cfg(test)]\nmod tests {\n    fill(ROWS_MAX);\n}\n";
        let files = |other: &str| {
            let folder =
                [("src/a/mod.rs", beside), ("src/b.rs", "/// Others.\nconst ROWS_MAX: u8 = 5;\n"), ("tests/filling/all.rs", other)];
            folder.map(|(path, text)| source("node", Path::new(path), text))
        };
        let seen = |other: &str| seen(&files(other)).into_iter().map(|(_, _, tests)| tests).collect::<Vec<_>>();
        assert_eq!(seen("fill(ROWS_MAX);"), [vec!["a::tests"], vec![]], "one of two, nobody knows which");
        assert_eq!(seen("fill(node::b::ROWS_MAX);"), [vec!["a::tests"], vec!["tests/filling/all.rs"]]);
        assert_eq!(seen("// b::ROWS_MAX"), [vec!["a::tests"], vec![]]);
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
