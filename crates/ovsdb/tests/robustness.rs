//! Whatever a server sends, decoding ends in a value or an error, and an update that does not fit changes nothing.

use ovsdb::*;
use proptest::prelude::*;
use serde_json::json;

fn schema() -> Schema {
    let strings = json!({"key": "string", "value": "string", "min": 0, "max": "unlimited"});
    Schema::decode(&json!({"name": "db", "version": "1.0.0", "tables": {"T": {
        "columns": {
            "name": {"type": "string"},
            "number": {"type": {"key": "integer", "min": 0, "max": 1}},
            "reals": {"type": {"key": "real", "min": 0, "max": 3}},
            "rows": {"type": {"key": {"type": "uuid", "refTable": "T"}, "min": 0, "max": "unlimited"}},
            "ids": {"type": strings},
        },
        "indexes": [["name"]],
    }}}))
    .unwrap()
}

fn monitor() -> Monitor {
    Monitor::of("db").table("T", &["name", "number", "reals", "rows", "ids"])
}

const ROW: &str = "6e5d54f5-d4bb-4a3d-8ee1-4b1d8e3c2a10";

fn reply() -> Json {
    json!([false, "00000000-0000-0000-0000-000000000000", {"T": {ROW: {"initial": {
        "name": "a", "number": 1, "rows": ["uuid", ROW], "ids": ["map", [["k", "v"], ["l", "w"]]]}}}}])
}

fn replica() -> Replica {
    let mut replica = Replica::new(&schema(), &monitor()).unwrap();
    replica.resume(&MonitorReply::decode(&reply()).unwrap()).unwrap();
    replica
}

fn update(row: Json) -> Update {
    let params = vec![json!("m"), json!("00000000-0000-0000-0000-000000000000"), json!({"T": {ROW: row}})];
    Update::from_message(Message::Notification { method: "update3".into(), params }).unwrap().unwrap()
}

fn row(replica: &Replica) -> Row {
    (**replica.row("T", ROW.parse().unwrap()).unwrap()).clone()
}

#[test]
fn a_set_is_changed_by_its_difference_and_a_scalar_by_its_value() {
    let mut replica = replica();
    let other = Uuid::from_u128(5);
    let change = json!({"name": "b", "number": ["set", []], "rows": ["set", [["uuid", ROW], ["uuid", other.to_string()]]]});
    replica.update(&update(json!({"modify": change}))).unwrap();
    let row = row(&replica);
    assert_eq!((row.string("name"), row.integer("number")), (Some("b"), None));
    assert_eq!(row.uuids("rows").collect::<Vec<_>>(), [other]);
    assert!(replica.table("T").unwrap().find("a").is_none());
    assert!(replica.table("T").unwrap().find("b").is_some());
}

#[test]
fn a_map_is_changed_by_its_difference() {
    let mut replica = replica();
    // k goes (its old pair is named), l changes, m comes.
    let change = json!({"ids": ["map", [["k", "v"], ["l", "x"], ["m", "y"]]]});
    replica.update(&update(json!({"modify": change}))).unwrap();
    assert_eq!(row(&replica).texts("ids").collect::<Vec<_>>(), [("l", "x"), ("m", "y")]);
}

#[test]
fn a_snapshot_tells_only_what_differs_from_the_replica() {
    let mut replica = replica();
    assert_eq!(replica.resume(&MonitorReply::decode(&reply()).unwrap()).unwrap(), []);
    let empty = json!([false, "00000000-0000-0000-0000-000000000000", {}]);
    let changes = replica.resume(&MonitorReply::decode(&empty).unwrap()).unwrap();
    assert!(matches!(changes.as_slice(), [Change { delta: Delta::Deleted(_), .. }]));
    assert!(replica.table("T").unwrap().is_empty());
}

#[test]
fn an_update_that_does_not_fit_changes_nothing() {
    let mut replica = replica();
    let before = row(&replica);
    for bad in
        [json!({"modify": {"name": "b", "number": "x"}}), json!({"modify": {"name": "b", "unknown": 1}}), json!({"modify": 1}), json!({})]
    {
        assert!(replica.update(&update(bad)).is_err());
        assert_eq!(row(&replica), before);
    }
    replica.update(&update(json!({"delete": null}))).unwrap();
    assert!(matches!(replica.update(&update(json!({"modify": {}}))), Err(ReplicaError::UnknownRow { .. })));
}

fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        prop::sample::select(vec!["set", "map", "uuid", ROW, "unlimited", "name", "x", ""]).prop_map(Json::from),
        ".*".prop_map(Json::from),
    ];
    let keys = prop::sample::select(vec![
        "id", "method", "params", "result", "error", "T", ROW, "initial", "modify", "delete", "name", "ids", "rows", "reals", "tables",
        "columns", "type", "key", "value", "min", "max", "indexes", "version",
    ]);
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Json::from),
            prop::collection::vec((keys.clone().prop_map(String::from), inner), 0..6)
                .prop_map(|pairs| Json::Object(pairs.into_iter().collect())),
        ]
    })
}

/// Replaces the `n`th node of a tree, counted from the root.
fn replaced(json: &Json, n: &mut usize, by: &Json) -> Json {
    if *n == 0 {
        *n = usize::MAX;
        return by.clone();
    }
    *n -= 1;
    match json {
        Json::Array(items) => items.iter().map(|item| replaced(item, n, by)).collect(),
        Json::Object(fields) => Json::Object(fields.iter().map(|(key, value)| (key.clone(), replaced(value, n, by))).collect()),
        leaf => leaf.clone(),
    }
}

fn digest(json: &Json) {
    let _ = Message::decode(json.to_string().as_bytes());
    let _ = Schema::decode(json);
    for kind in schema().tables["T"].columns.values() {
        if let Ok(value) = kind.decode(json) {
            assert_eq!(kind.decode(&value.to_json()).unwrap(), value);
        }
    }
    if let Ok(reply) = MonitorReply::decode(json) {
        let _ = replica().resume(&reply);
    }
    let _ = replica().update(&update(json.clone()));
    let select = Operation::select("T", vec![], &[]);
    for operation in [Insert::into("T").into(), select, Operation::Comment(String::new())] {
        if let Ok(outcomes) = Transaction::new("db", vec![operation]).outcomes(Ok(json.clone())) {
            let _ = outcomes[0].rows(&schema());
        }
    }
}

proptest! {
    #[test]
    fn random_json_is_decoded_without_a_panic(json in any_json()) {
        digest(&json);
    }

    #[test]
    fn mutated_replies_are_decoded_without_a_panic(n in 0usize..40, by in any_json()) {
        digest(&replaced(&reply(), &mut n.clone(), &by));
        let modify = json!({"modify": {"name": "b", "rows": ["set", [["uuid", ROW]]], "ids": ["map", [["k", "v"]]]}});
        digest(&replaced(&modify, &mut n.clone(), &by));
    }

    #[test]
    fn random_bytes_are_framed_without_a_panic(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20)) {
        let mut framer = Framer::with_limit(100);
        for chunk in chunks {
            framer.push(&chunk);
            while let Ok(Some(message)) = framer.next_message() {
                let _ = Message::decode(message);
            }
        }
    }

    /// The difference as the server computes it, applied to the old value, is the new value.
    #[test]
    fn differences_lead_from_old_to_new(
        old in prop::collection::btree_map("[a-c]", "[x-y]", 0..4),
        new in prop::collection::btree_map("[a-c]", "[x-y]", 0..4),
    ) {
        let mut difference = Vec::new();
        for (key, value) in &old {
            if !new.contains_key(key) { difference.push((key, value)); }
        }
        for (key, value) in &new {
            if old.get(key) != Some(value) { difference.push((key, value)); }
        }
        let mut replica = replica();
        let row_of = |ids: Value| json!({"insert": {"ids": ids.to_json()}});
        replica.update(&update(row_of(Value::map(&old)))).unwrap();
        replica.update(&update(json!({"modify": {"ids": Value::map(difference).to_json()}}))).unwrap();
        let seen: Vec<(String, String)> =
            row(&replica).texts("ids").map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        prop_assert_eq!(seen, new.into_iter().collect::<Vec<_>>());
    }
}
