use super::*;

fn read_text(text: &str) -> Result<Traffic, ReadError> {
    read_from(text.as_bytes(), 1000.0, false)
}

fn file(name: &str) -> Traffic {
    read(Path::new(&format!("{}/tests/data/estimate/{name}", env!("CARGO_MANIFEST_DIR"))), 1000.0).unwrap()
}

#[test]
fn recordings_are_read() {
    let traffic = file("recording.jsonl");
    assert_eq!((traffic.exchanges.len(), kinds(&traffic), traffic.notes.len()), (60, 1, 0));
    let first = &traffic.exchanges[0];
    assert_eq!((first.request.method(), first.request.uri().path(), first.at), (&Method::POST, "/bid", Duration::ZERO));
    assert_eq!(first.request.headers()["host"], "exchange.example");
    assert!(first.request.body().starts_with(b"{\"id\":") && first.response.body().starts_with(b"{\"id\":0"));
    assert!(
        traffic.exchanges.is_sorted_by_key(|exchange| exchange.at)
            && traffic.exchanges[59].at > Duration::from_millis(10)
    );
}

#[test]
fn hars_are_read() {
    let traffic = file("shop.har");
    assert_eq!(traffic.exchanges.len(), 11, "one was aborted");
    let of = |path: &str| traffic.exchanges.iter().find(|exchange| exchange.request.uri().path() == path).unwrap();
    let first = &of("/api/items/0").request;
    assert_eq!(
        (first.uri(), &first.headers()["host"]),
        (&"/api/items/0?lang=en".parse().unwrap(), &"shop.example".parse().unwrap())
    );
    assert_eq!(of("/api/items/4").request.body(), "{\"a\":1}");
    assert_eq!(of("/api/items/5").response.body(), &b"\0\x01\x02\x03"[..]);
    let coded = &of("/api/items/3").response;
    assert!(coded.headers()["content-encoding"] == "gzip" && coded.body().starts_with(&[0x1f, 0x8b]));
    assert!(of("/api/items/6").response.body().is_empty());
    assert_eq!(traffic.notes.len(), 3, "{:?}", traffic.notes);
    assert!(traffic.exchanges[10].at > Duration::from_secs(1));
}

#[test]
fn lines_of_json_are_bodies() {
    let traffic = file("bodies.jsonl");
    assert_eq!((traffic.exchanges.len(), traffic.exchanges[19].at), (20, Duration::from_millis(19)));
    assert_eq!(traffic.exchanges[1].request.body(), r#"{"event":"push","number":1,"user":"user1"}"#);
    // Empty lines count as lines.
    assert_eq!(read_text("\n{\"a\":1}\n\n[2]\n\"three\"").unwrap().exchanges.len(), 3);
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let good = r#"{"at_us":1,"took_us":1,"request":{"method":"GET","target":"/","fields":[["host","h"]],"text":""},"response":{"status":200,"fields":[],"text":"x"}}"#;
    assert!(read_text(good).is_ok());
    for (text, expected) in [
        (String::new(), "there is no request in it: "),
        ("\n \n".into(), "there is no request in it: "),
        ("{\"a\":1}\nnonsense\n".into(), "line 2: no JSON: "),
        (format!("{good}\n{{\"at_us\":"), "line 2: no JSON: EOF while parsing a value (column 9)"),
        (
            format!("{good}\n\n{}", good.replace("\"took_us\":1", "\"took_us\":-1")),
            "line 3: took_us has to be a whole number",
        ),
        (good.replace("GET", "G T"), "line 1: \"G T\" is no method"),
        (good.replace("\"/\"", "\"no target\""), "line 1: \"no target\" is no target"),
        (good.replace("[[\"host\",\"h\"]]", "[[\"host\"]]"), "line 1: a field is a name and a value"),
        (good.replace("\"host\"", "\"ho st\""), "line 1: \"ho st\" is no field name"),
        (good.replace("\"h\"]", "\"h\\n\"]"), "line 1: host: \"h\\n\" is no field value"),
        (good.replace("[[\"host\",\"h\"]]", "[]"), "line 1: the request has no Host"),
        (good.replace("\"fields\":[],", ""), "line 1: fields has to be a list of pairs of texts"),
        (good.replace(",\"text\":\"x\"", ""), "line 1: the body has to be in text or in base64"),
        (good.replace(",\"text\":\"x\"", ",\"base64\":\"?\""), "line 1: a body is no base64: "),
        (good.replace("200", "100"), "line 1: the status is not from 200 to 599"),
        (good.replace("\"text\":\"\"", "\"text\":\"body\""), "line 1: a GET request with a body cannot be carried"),
        ("{\n \"log\": {\n".into(), "line 3: no JSON: EOF"),
        ("{\n}".into(), "line 1: log.entries has to be a list"),
        (
            r#"{"log":{"entries":[{"response":{"status":0}},{"response":{"status":200}}]}}"#.into(),
            "entry 2 of log.entries: startedDateTime has to be text",
        ),
        (
            r#"{"log":{"entries":[{"startedDateTime":"x","response":{"status":200}}]}}"#.into(),
            "entry 1 of log.entries: startedDateTime is no date",
        ),
        (r#"{"log":{"entries":[]}}"#.into(), "there is no request in it: "),
    ] {
        let error = read_text(&text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}\n{error}");
    }
    assert!(matches!(read(Path::new("/nowhere/at/all"), 1.0), Err(ReadError::Io(_))));
}

#[test]
fn a_file_that_is_cut_loses_its_last_line() {
    let traffic = read_from(&b"{\"a\":1}\n{\"a\":"[..], 1000.0, true).unwrap();
    assert_eq!(traffic.exchanges.len(), 1);
}
