//! Answers on standard output: a table for people, JSON for programs.

use std::io::{self, Write};

use serde_json::Value;

/// A column: its heading, and the keys under which a row may hold its cell.
#[derive(Clone, Copy)]
pub struct Column {
    pub heading: &'static str,
    pub keys: &'static [&'static str],
}

/// What stands in a cell of which nothing is known.
const NOTHING: &str = "-";

/// `rows` under `columns`, as wide as needed; columns in which no row has anything are left out, unless it is the first.
pub fn table(columns: &[Column], rows: &[Value]) -> String {
    let cells: Vec<Vec<String>> = rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()).collect();
    let is_shown = |index: usize| index == 0 || cells.iter().any(|row| row[index] != NOTHING);
    let shown: Vec<usize> = (0..columns.len()).filter(|index| is_shown(*index)).collect();
    let headings = shown.iter().map(|index| columns[*index].heading.to_string()).collect();
    let body = cells.iter().map(|row| shown.iter().map(|index| row[*index].clone()).collect());
    lay_out(&std::iter::once(headings).chain(body).collect::<Vec<_>>())
}

/// Cells in columns, two spaces apart.
fn lay_out(lines: &[Vec<String>]) -> String {
    let width = |index: usize| lines.iter().map(|line| line[index].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..lines.first().map_or(0, Vec::len)).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let padded = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// True if a cell of the row contains `text`.
pub fn has_cell_with(row: &Value, columns: &[Column], text: &str) -> bool {
    columns.iter().any(|column| cell(row, column).contains(text))
}

fn cell(row: &Value, column: &Column) -> String {
    let found = column.keys.iter().map(|key| visible(&plain(&row[*key]))).find(|text| !text.is_empty());
    found.unwrap_or_else(|| NOTHING.to_string())
}

/// A value as people write it; nothing for null and for what is empty.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(is_true) => (if *is_true { "yes" } else { "no" }).to_string(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        // Neutron's fixed_ips: the address is what people look for.
        Value::Object(fields) => fields.get("ip_address").map_or_else(|| value.to_string(), plain),
        Value::Number(number) => number.to_string(),
    }
}

/// `text` on one line and without power over the terminal: names are other people's words, and may hold anything.
pub fn visible(text: &str) -> String {
    text.chars().map(|c| if is_visible(c) { c.to_string() } else { c.escape_default().to_string() }).collect()
}

/// False for control characters, and for those of Unicode that show as nothing or turn the direction of what follows.
fn is_visible(c: char) -> bool {
    let is_invisible =
        matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    !c.is_control() && !is_invisible
}

/// Says something besides the answer. Nobody there to read it is no failure.
pub fn tell(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints `text`. A reader that has seen enough (`| head`) is no failure.
pub fn print(text: &str) -> io::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const COLUMNS: [Column; 3] = [
        Column { heading: "NAME", keys: &["name", "id"] },
        Column { heading: "ADDRESSES", keys: &["fixed_ips"] },
        Column { heading: "WHY", keys: &["why"] },
    ];

    #[test]
    fn a_table_is_as_wide_as_its_cells_and_leaves_out_what_nobody_has() {
        let rows = [json!({"name": "web", "fixed_ips": [{"ip_address": "10.0.0.3"}, {"ip_address": "fd00::3"}]}), json!({"id": "0f3a"})];
        assert_eq!(table(&COLUMNS, &rows), "NAME  ADDRESSES\nweb   10.0.0.3, fd00::3\n0f3a  -\n");
        assert_eq!(table(&COLUMNS, &[]), "NAME\n");
    }

    #[test]
    fn a_filter_looks_into_every_cell() {
        let row = json!({"name": "web", "fixed_ips": [{"ip_address": "10.0.0.3"}]});
        assert!(has_cell_with(&row, &COLUMNS, "10.0.0.3") && has_cell_with(&row, &COLUMNS, "we"));
        assert!(!has_cell_with(&row, &COLUMNS, "db"));
    }

    #[test]
    fn a_name_has_no_power_over_the_terminal() {
        let rows = [json!({"name": "a\nb\u{1b}[31mred\u{7}\t\u{9b}1m\u{202e}x", "why": ["ü", "\r"]})];
        let expected = "NAME                                       WHY\na\\nb\\u{1b}[31mred\\u{7}\\t\\u{9b}1m\\u{202e}x  ü, \\r\n";
        assert_eq!(table(&[COLUMNS[0], COLUMNS[2]], &rows), expected);
    }
}
