//! shim.schema.json: it takes every message of a run, in both directions, and nothing that has one field too many or
//! too few.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::Value;
use teleport_conformance::scenario::{Scenario, parse, read_all};
use teleport_conformance::shim::Transcript;
use teleport_conformance::suite::{Options, run_all};

fn suite() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn schema() -> Value {
    serde_json::from_str(&std::fs::read_to_string(suite().join("shim.schema.json")).unwrap()).unwrap()
}

/// Commands that the cases may not have.
const FLUSH: &str = "id: flush\ntitle: A flush\narea: batch\nrole: client\nlevel: must\nrules: R-batch-seal
config: batch-delay=1s

@0 send hello
@0 feed hello
@0 do oneway \"GET\" \"/a\"
@0 do flush
@0 send frame 0 \"GET /a HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n\"
";

/// The validators of what goes to a shim and of what comes from it.
fn validators() -> [(&'static str, Validator); 2] {
    validators_of([("to", "command"), ("from", "answer")])
}

fn validators_of(names: [(&'static str, &'static str); 2]) -> [(&'static str, Validator); 2] {
    names.map(|(direction, name)| {
        let mut schema = schema();
        schema["anyOf"] = serde_json::json!([{"$ref": format!("#/$defs/{name}")}]);
        (direction, jsonschema::draft202012::new(&schema).unwrap())
    })
}

/// The messages of a run of some cases against this project's core, in their order.
fn messages() -> Vec<Value> {
    let (scenarios, errors) = read_all(&suite().join("cases")).unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    let mut seen = BTreeSet::new();
    // A case is chosen for a command or event that no case before it has.
    let mut is_chosen = |scenario: &&Scenario| {
        let text = std::fs::read_to_string(&scenario.path).unwrap();
        let words = text.lines().filter_map(|line| {
            let mut words = line.split(' ').skip_while(|word| !["do", "event", "closed"].contains(word));
            Some((scenario.role.name(), words.next()?.to_owned(), words.next()?.to_owned()))
        });
        // All words are to be looked at, also after a new one.
        scenario.area != "original" && words.filter(|word| seen.insert(word.clone())).count() > 0
    };
    let extra = parse(Path::new("cases/batch/flush.scn"), FLUSH).unwrap();
    let mut chosen: Vec<&Scenario> = scenarios.iter().filter(&mut is_chosen).collect();
    chosen.push(&extra);
    let path = std::env::temp_dir().join(format!("teleport-conformance-{}.jsonl", std::process::id()));
    let transcript = Some(Transcript::create(&path).unwrap());
    let command = format!("'{}'", env!("CARGO_BIN_EXE_teleport-shim-core"));
    let (_, outcomes) = run_all(&chosen, &Options { transcript, ..Options::of_shim(command) }).unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.verdict.name() == "pass"));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The names that one of the schema's lists distinguishes.
fn names(list: &str, key: &str) -> BTreeSet<String> {
    let schema = schema();
    let name = |choice: &Value| choice["properties"][key]["const"].as_str().unwrap().to_owned();
    schema["$defs"][list]["oneOf"].as_array().unwrap().iter().map(name).collect()
}

/// All that a message becomes when one of its objects, however deep, gets a field more.
fn with_one_more(message: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    if let Value::Object(fields) = message {
        let mut more = fields.clone();
        more.insert("surplus".into(), Value::Null);
        all.push(more.into());
    }
    let inner: Vec<(Value, Value)> = match message {
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.as_str().into(), value.clone())).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, value)| (at.into(), value.clone())).collect(),
        _ => Vec::new(),
    };
    for (place, value) in inner {
        for changed in with_one_more(&value) {
            let mut message = message.clone();
            match (place.as_str(), place.as_u64()) {
                (Some(key), _) => message[key] = changed,
                (_, at) => message[usize::try_from(at.unwrap()).unwrap()] = changed,
            }
            all.push(message);
        }
    }
    all
}

#[test]
fn every_message_of_a_run_fits_and_none_with_a_field_more_or_less() {
    let (mut commands, mut events) = (BTreeSet::new(), BTreeSet::new());
    let messages = messages();
    for (direction, validator) in validators() {
        let mut changed = BTreeSet::new();
        for message in messages.iter().filter_map(|line| line.get(direction)) {
            assert!(validator.is_valid(message), "{direction}: {message}: {:?}", validator.validate(message));
            commands.extend(message["command"].as_str().map(str::to_owned));
            let told = message["events"].as_array().into_iter().flatten();
            let told: Vec<_> = told.map(|event| event["event"].as_str().unwrap().to_owned()).collect();
            // One of each kind is also tried with faults.
            let is_new = changed.insert((message["command"].as_str(), message.get("error").is_some(), told.clone()));
            events.extend(told);
            if !is_new {
                continue;
            }
            for wrong in with_one_more(message) {
                assert!(!validator.is_valid(&wrong), "{direction}: {wrong}");
            }
            for key in message.as_object().unwrap().keys().filter(|key| *key != "error") {
                let mut wrong = message.clone();
                wrong.as_object_mut().unwrap().remove(key);
                assert!(!validator.is_valid(&wrong), "{direction}: {wrong}");
            }
        }
    }
    // Nothing of the schema goes untried.
    assert_eq!(commands, names("command", "command"));
    assert_eq!(events, names("event", "event"));
}

#[test]
fn the_answer_to_an_unknown_command_fits_too() {
    let [_, (_, answers)] = validators();
    assert!(answers.is_valid(&serde_json::json!({"nack": "no such command"})));
    for wrong in [serde_json::json!({"nack": "why", "now": 0}), serde_json::json!({"nack": 1}), serde_json::json!({})] {
        assert!(!answers.is_valid(&wrong), "{wrong}");
    }
}

#[test]
fn every_message_over_sockets_fits_and_none_with_a_field_more() {
    let (scenarios, errors) = read_all(&suite().join("cases")).unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    let ids = [
        "ids-client-cancel",
        "ids-server-oneway",
        "closing-client-abandoned",
        "ids-client-oneway",
        "limits-client-pending-1",
        "hello-server-version-255",
    ];
    let chosen: Vec<&Scenario> = scenarios.iter().filter(|scenario| ids.contains(&scenario.id.as_str())).collect();
    assert_eq!(chosen.len(), ids.len());
    let path = std::env::temp_dir().join(format!("teleport-conformance-tcp-{}.jsonl", std::process::id()));
    let transcript = Some(Transcript::create(&path).unwrap());
    let command = format!("'{}' smol", env!("CARGO_BIN_EXE_teleport-shim-driver"));
    run_all(&chosen, &Options { transcript, ..Options::of_shim(command) }).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut seen = BTreeSet::new();
    for (direction, validator) in validators_of([("to", "tcpCommand"), ("from", "tcpAnswer")]) {
        for message in lines.iter().filter_map(|line| line.get(direction)) {
            assert!(validator.is_valid(message), "{direction}: {message}: {:?}", validator.validate(message));
            seen.extend(
                [&message["command"], &message["event"]]
                    .into_iter()
                    .filter_map(|name| name.as_str().map(str::to_owned)),
            );
            for wrong in with_one_more(message) {
                assert!(!validator.is_valid(&wrong), "{direction}: {wrong}");
            }
        }
    }
    for name in ["describe", "new", "request", "oneway", "cancel", "respond", "close", "response", "closed"] {
        assert!(seen.contains(name), "{name}: {seen:?}");
    }
}
