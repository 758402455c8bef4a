//! The configuration reference, from the code that reads the configuration.
//!
//! The server tells its settings itself. For the other parts the source is the reference: a key's meaning, range and default stand
//! above its field and nowhere else, and this reads them out of the text that was compiled in. So a field without a doc comment is a
//! failing test and not a gap in the docs.

/// A part's name, and the source of its configuration.
const PARTS: &[(&str, &str)] = &[("node", include_str!("../../node/src/config.rs")), ("kube", include_str!("../../kube/src/config.rs"))];

/// A `pub struct` of a configuration, top-level first.
#[derive(Debug, Default, PartialEq)]
struct Section {
    name: String,
    doc: String,
    keys: Vec<Key>,
}

#[derive(Debug, Default, PartialEq)]
struct Key {
    name: String,
    /// The field's type, as Rust writes it.
    kind: String,
    doc: String,
}

/// All parts' references, as Markdown.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Configuration reference\n\nGenerated from the code by `make docs`, and printed by `ladon config-reference`; a test fails when it is stale.\n",
    );
    text.push_str(&format!("{}\n{}", heading("server"), server::config::reference()));
    for (part, source) in PARTS {
        text.push_str(&heading(part));
        let sections = sections(source);
        for (section, path) in placed(&sections) {
            text.push_str(&section_text(section, &path, &sections));
        }
    }
    text
}

/// A key that a part cannot do without and that has no default.
pub struct Needed {
    /// With its table: `tunnel.addresses`.
    pub name: String,
    meaning: String,
    example: String,
}

impl Needed {
    /// As a configuration has it, the meaning first.
    pub fn lines(&self) -> Vec<String> {
        let (table, key) = self.name.rsplit_once('.').map_or((None, &*self.name), |(table, key)| (Some(table), key));
        let heading = table.map(|table| format!("[{table}]"));
        heading.into_iter().chain([format!("# {}", self.meaning), format!("{key} = {}", self.example)]).collect()
    }
}

/// The keys that a part's configuration must have and this text has not. Lists of tables are not looked into.
pub fn missing(part: &str, text: &str) -> Vec<Needed> {
    let Some((_, source)) = PARTS.iter().find(|(name, _)| *name == part) else { return Vec::new() };
    let given: toml::Table = toml::from_str(text).unwrap_or_default();
    let sections = sections(source);
    let mut missing = Vec::new();
    for (section, heading) in placed(&sections) {
        let table = heading.trim_matches(['`', '[', ']']);
        let is_list = heading.starts_with("`[[");
        for (key, (meaning, example)) in section.keys.iter().filter(|_| !is_list).filter_map(|key| Some((key, example(&key.doc)?))) {
            let name = if table.is_empty() { key.name.clone() } else { format!("{table}.{}", key.name) };
            if !has(&given, &name) {
                missing.push(Needed { name, meaning: meaning.into(), example: example.into() });
            }
        }
    }
    missing
}

/// A meaning, and the example at its end, which keys have that must be there.
fn example(doc: &str) -> Option<(&str, &str)> {
    let (meaning, example) = doc.split_once(" Example: `")?;
    Some((meaning, example.strip_suffix("`.")?))
}

fn has(table: &toml::Table, name: &str) -> bool {
    match name.split_once('.') {
        None => table.contains_key(name),
        Some((first, rest)) => table.get(first).and_then(toml::Value::as_table).is_some_and(|table| has(table, rest)),
    }
}

fn heading(part: &str) -> String {
    format!("\n## `ladon {part}`\n\nA TOML file, named with `--config`.\n")
}

/// A section's own keys; those that are tables have a section of their own.
fn section_text(section: &Section, path: &str, sections: &[Section]) -> String {
    let mut text = if path.is_empty() { "\n".to_string() } else { format!("\n### {path}\n\n{}\n\n", section.doc) };
    text.push_str("| Key | Type | Meaning |\n|---|---|---|\n");
    for key in section.keys.iter().filter(|key| child(key, sections).is_none()) {
        text.push_str(&format!("| `{}` | {} | {} |\n", key.name, kind_for_people(&key.kind), key.doc.replace('|', "\\|")));
    }
    text
}

/// The section that a key leads to, if it is a table.
fn child<'a>(key: &Key, sections: &'a [Section]) -> Option<&'a Section> {
    sections.iter().find(|section| section.name == inner_type(&key.kind))
}

/// Each section that can be reached from `Config`, with its TOML heading; tables are headings and not keys.
fn placed(sections: &[Section]) -> Vec<(&Section, String)> {
    let mut placed = Vec::new();
    if let Some(root) = sections.iter().find(|section| section.name == "Config") {
        place(root, String::new(), sections, &mut placed);
    }
    placed
}

fn place<'a>(section: &'a Section, heading: String, sections: &'a [Section], placed: &mut Vec<(&'a Section, String)>) {
    let prefix = heading.trim_matches(['`', '[', ']']).to_string();
    placed.push((section, heading));
    for key in &section.keys {
        let Some(child) = child(key, sections) else { continue };
        let path = if prefix.is_empty() { key.name.clone() } else { format!("{prefix}.{}", key.name) };
        let heading = if key.kind.starts_with("Vec<") { format!("`[[{path}]]`") } else { format!("`[{path}]`") };
        place(child, heading, sections, placed);
    }
}

/// `Vec<T>` and `Option<T>` are about `T`.
fn inner_type(kind: &str) -> &str {
    let unwrapped = ["Vec<", "Option<"].iter().find_map(|wrapper| kind.strip_prefix(wrapper)?.strip_suffix('>'));
    unwrapped.map_or(kind, inner_type)
}

fn kind_for_people(kind: &str) -> String {
    if let Some(inner) = kind.strip_prefix("Option<").and_then(|kind| kind.strip_suffix('>')) {
        return kind_for_people(inner);
    }
    if let Some(inner) = kind.strip_prefix("Vec<").and_then(|kind| kind.strip_suffix('>')) {
        return format!("list of {}", kind_for_people(inner));
    }
    match kind.rsplit("::").next().unwrap_or(kind) {
        "String" => "text".into(),
        "PathBuf" => "path".into(),
        "bool" => "true or false".into(),
        "IpAddr" => "address".into(),
        "IpNet" => "prefix".into(),
        "SocketAddr" => "address:port".into(),
        number if number.starts_with(['u', 'i']) && number[1..].chars().all(|c| c.is_ascii_digit()) => "number".into(),
        // Names and enumerations; what they may be, the meaning says.
        _ => "text".into(),
    }
}

/// The public structures of a source with their public fields.
fn sections(source: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut doc = String::new();
    let mut rename = None;
    let mut is_inside = false;
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc.push_str(text);
        } else if line.starts_with("#[") {
            rename = renamed(line).or(rename);
        } else {
            if let Some(name) = line.strip_prefix("pub struct ").and_then(|rest| rest.strip_suffix(" {")) {
                sections.push(Section { name: name.to_string(), doc: doc.trim().to_string(), keys: Vec::new() });
                is_inside = true;
            } else if let Some(key) = line.strip_prefix("pub ").filter(|_| is_inside).and_then(|line| field(line, &doc, rename.take())) {
                sections.last_mut().expect("a field is inside a structure").keys.push(key);
            } else if line == "}" {
                is_inside = false;
            }
            doc.clear();
            rename = None;
        }
    }
    sections
}

fn field(line: &str, doc: &str, rename: Option<String>) -> Option<Key> {
    let (name, kind) = line.strip_suffix(',')?.split_once(": ")?;
    Some(Key { name: rename.unwrap_or_else(|| name.to_string()), kind: kind.to_string(), doc: doc.trim().to_string() })
}

/// The name in `#[serde(rename = "…")]`.
fn renamed(line: &str) -> Option<String> {
    Some(line.split_once("rename = \"")?.1.split_once('"')?.0.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
/// All of it.
pub struct Config {
    /// Its name. Default:
    /// `x`.
    pub name: String,
    /// Machines.
    #[serde(rename = "host")]
    pub hosts: Vec<Host>,
}

/// A machine.
pub struct Host {
    /// Where | it is.
    pub address: Option<IpAddr>,
}
"#;

    #[test]
    fn fields_become_keys_under_their_tables() {
        let sections = sections(SOURCE);
        let placed = placed(&sections);
        assert_eq!(
            placed.iter().map(|(section, path)| (section.name.as_str(), path.as_str())).collect::<Vec<_>>(),
            [("Config", ""), ("Host", "`[[host]]`")]
        );
        assert_eq!(sections[0].keys[0], Key { name: "name".into(), kind: "String".into(), doc: "Its name. Default: `x`.".into() });
        assert!(!section_text(&sections[0], "", &sections).contains("host"), "a table is no key");
        assert!(section_text(&sections[1], "`[[host]]`", &sections).contains("| `address` | address | Where \\| it is. |"));
    }

    #[test]
    fn the_page_in_docs_is_the_reference() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        if std::env::var_os("LADON_WRITE_DOCS").is_some() {
            std::fs::write(page, markdown()).unwrap();
        }
        assert!(std::fs::read_to_string(page).unwrap() == markdown(), "docs/configuration.md is stale: `make docs` writes it again");
    }

    #[test]
    fn every_key_of_every_part_says_what_it_means() {
        for (part, source) in PARTS {
            let sections = sections(source);
            assert!(!placed(&sections).is_empty(), "{part} has no Config");
            for (section, _) in placed(&sections) {
                assert!(!section.doc.is_empty(), "{part}: {} has no doc comment", section.name);
                for key in section.keys.iter().filter(|key| child(key, &sections).is_none()) {
                    let is_said = key.doc.contains("efault") || example(&key.doc).is_some();
                    assert!(is_said, "{part}: {}.{} has neither a default nor an example at its end", section.name, key.name);
                }
            }
        }
    }
}
