//! A reader of what a sender may write (spec/05-messages.md, 5.1), and of nothing else.

/// Cuts the frames of a server into ids and messages. Panics at whatever a server must not write.
pub fn responses(mut plain: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut frames = Vec::new();
    while !plain.is_empty() {
        let (id, rest) = plain.split_first_chunk::<4>().expect("an id is whole");
        let head = rest.windows(4).position(|w| w == b"\r\n\r\n").expect("a head ends") + 4;
        let text = std::str::from_utf8(&rest[..head]).expect("these heads are text");
        let mut lines = text.split("\r\n").take_while(|line| !line.is_empty());
        let start = lines.next().expect("there is a start line");
        let status = start.strip_prefix("HTTP/1.1 ").expect("HTTP/1.1 and one space").get(..3).expect("a status");
        assert!(("200"..="599").contains(&status), "a final status: {start}");
        let mut lengths = lines.filter_map(|line| {
            let (name, value) = line.split_once(": ").expect("a field has a colon and one space");
            assert!(!name.eq_ignore_ascii_case("transfer-encoding"), "no transfer coding is written");
            name.eq_ignore_ascii_case("content-length").then_some(value)
        });
        let length: usize = match (status, lengths.next()) {
            ("204" | "304", _) => 0,
            (_, length) => length.expect("there is a length").parse().expect("it is a number"),
        };
        assert_eq!(lengths.next(), None, "there is one length");
        let message = rest.get(..head + length).expect("a body is whole");
        frames.push((u32::from_le_bytes(*id), message.to_vec()));
        plain = &rest[message.len()..];
    }
    frames
}
