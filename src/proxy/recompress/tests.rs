//! Any body in any coding comes out as it went in, to the byte where that was said.

use std::io::Write;

use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use proptest::prelude::*;

use super::coding::{Coding, ZstdForm, encode_brotli, encode_zstd};
use super::*;
use crate::proxy::{Inbound, Kind};

fn recompressor(mode: Recompress) -> Arc<Recompressor> {
    let inbound = Inbound { kind: Kind::Http, ..Inbound::default() };
    Recompressor::new(&ProxyConfig { recompress: mode, inbound, ..ProxyConfig::default() }).unwrap()
}

fn head(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

/// Through a link and out of it: what was on the link, and what came out.
fn through(recompressor: &Arc<Recompressor>, headers: &HeaderMap, body: &Bytes) -> Option<[(HeaderMap, Bytes); 2]> {
    let peer = Peer::of(&{
        let mut headers = HeaderMap::new();
        recompressor.announce(&mut headers, true);
        headers
    });
    smol::block_on(async {
        let lowered = recompressor.lower(headers, body, peer).await?;
        let mut link = headers.clone();
        let decoded = lowered.apply_to(&mut link);
        let mut out = link.clone();
        let restored = recompressor.restore(&mut out, decoded.clone(), true).await;
        Some([(link, decoded), (out, restored)])
    })
}

/// JSON of 10 KB in which something differs from item to item.
fn text() -> Vec<u8> {
    (0..300_u32)
        .flat_map(|n| format!("{{\"id\":{},\"name\":\"n{n}\"}},", n.wrapping_mul(2_654_435_761)).into_bytes())
        .collect()
}

fn gzip(plain: &[u8], level: u32, header: flate2::GzBuilder) -> Vec<u8> {
    let mut encoder: GzEncoder<Vec<u8>> = header.write(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn zlib(plain: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// Bodies with something in them to find, and bodies without.
fn any_plain() -> impl Strategy<Value = Vec<u8>> {
    let words =
        prop::collection::vec(prop::sample::select(vec!["{\"id\":", "true,", "\"name\"", "0123", "x", "\n"]), 0..2000);
    prop_oneof![
        3 => words.prop_map(|words| words.concat().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..3000),
    ]
}

/// A body coded by an encoder that is known here.
fn any_coded() -> impl Strategy<Value = (Coding, Vec<u8>, Vec<u8>)> {
    (any_plain(), 0..4u8, 0..=9u32, any::<bool>(), any::<bool>()).prop_map(|(plain, coding, level, a, b)| {
        let (coding, coded) = match coding {
            0 => {
                let builder = flate2::GzBuilder::new().mtime(if a { 1_700_000_000 } else { 0 });
                let builder = if b { builder.filename("a.json").comment("c").extra(&b"xy"[..]) } else { builder };
                (Coding::Gzip, gzip(&plain, level, builder))
            }
            1 => (Coding::Deflate, zlib(&plain, level)),
            2 => (Coding::Brotli, encode_brotli(&plain, (level % 7) as i32, if a { 22 } else { 18 }, 0).unwrap()),
            _ => {
                let form = ZstdForm { level: level.max(1) as i32, has_size: a, has_checksum: b };
                (Coding::Zstd, encode_zstd(&plain, form).unwrap())
            }
        };
        (coding, plain, coded)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 24 } else { 400 }))]

    #[test]
    #[cfg(feature = "preflate")]
    fn known_encoders_come_back_to_the_byte((coding, plain, coded) in any_coded()) {
        let body = Bytes::from(coded);
        let headers = head(&[("content-encoding", coding.name()), ("etag", "\"a\""), ("content-length", "7")]);
        let recompressor = recompressor(Recompress::Exact);
        match through(&recompressor, &headers, &body) {
            // Too small to gain anything, or so unlike text that the recipe would be as long as the body.
            None => {
                let passed: u64 = recompressor.stats().passed().filter(|(why, _)| *why == "no_gain").map(|(_, n)| n).sum();
                prop_assert!(passed == 1, "{:?}", recompressor.stats());
            }
            Some([(link, decoded), (out, restored)]) => {
                prop_assert!(decoded == plain);
                prop_assert_eq!(&link["etag"], "W/\"a\"");
                prop_assert_eq!(&link["content-length"], &decoded.len().to_string());
                prop_assert!(!link.contains_key("content-encoding"));
                prop_assert!(restored == body);
                let mut expected = headers.clone();
                expected.insert("content-length", body.len().into());
                prop_assert_eq!(out, expected);
            }
        }
    }

    #[test]
    fn any_coded_body_keeps_its_content((coding, plain, coded) in any_coded()) {
        let headers = head(&[("content-encoding", coding.name())]);
        let body = Bytes::from(coded);
        if let Some([(_, decoded), (out, restored)]) = through(&recompressor(Recompress::Content), &headers, &body) {
            prop_assert!(decoded == plain);
            prop_assert_eq!(&out, &headers);
            prop_assert!(coding::decode(coding, &restored, plain.len()).unwrap().plain == plain);
        } else {
            prop_assert!(body.len() < MIN_CODED_BYTES);
        }
    }

    #[test]
    fn what_is_no_coded_body_is_left_alone(bytes in prop::collection::vec(any::<u8>(), 100..300), flip in any::<usize>()) {
        let plain = br#"{"id":1,"name":"x"},"#.repeat(200);
        for coding in Coding::ALL {
            let headers = head(&[("content-encoding", coding.name())]);
            prop_assert!(through(&recompressor(Recompress::Content), &headers, &Bytes::from(bytes.clone())).is_none());
            let mut bent = coding::encode(coding, &plain).unwrap();
            let at = flip % bent.len();
            bent[at] ^= 0x10;
            // Either it is noticed, or it is a coded body of something, and comes back to the byte.
            let body = Bytes::from(bent);
            if let Some([_, (_, restored)]) = through(&recompressor(Recompress::Exact), &headers, &body) {
                prop_assert!(restored == body);
            }
        }
    }
}

#[test]
fn no_damaged_stream_does_harm() {
    // What stands in a DEFLATE stream is read by a program that was made for good ones.
    let plain = br#"{"id":1,"name":"x","more":[1,2,3]},"#.repeat(300);
    let recompressor = recompressor(Recompress::Exact);
    let headers = head(&[("content-encoding", "gzip")]);
    for seed in 0..40_u64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut encoder = DeflateEncoder::new(Vec::new(), flate2::Compression::new(random.u32(0..=9)));
        encoder.write_all(&plain[..random.usize(..plain.len())]).unwrap();
        let mut stream = encoder.finish().unwrap();
        let at = random.usize(..stream.len());
        stream[at] ^= 1 << random.u8(0..8);
        let mut text = Vec::new();
        // Only what still inflates gets that far.
        if coding::inflate(&stream, &mut text, 1 << 20) != Ok(stream.len()) {
            continue;
        }
        let body =
            Bytes::from([&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3], &stream[..], &wrap::gzip_trailer(&text)].concat());
        if let Some([_, (_, restored)]) = through(&recompressor, &headers, &body) {
            assert!(restored == body, "{seed}");
        }
    }
}

#[test]
fn a_mark_that_does_not_fit_leaves_the_content() {
    let recompressor = recompressor(Recompress::Exact);
    let body = Bytes::from(gzip(&text(), 6, flate2::GzBuilder::new()));
    let [(link, decoded), _] = through(&recompressor, &head(&[("content-encoding", "gzip")]), &body).unwrap();
    let other = Bytes::from([&decoded[..], b"x"].concat());
    let mut coded_already = link.clone();
    coded_already.insert("content-encoding", HeaderValue::from_static("br"));
    let broken = head(&[("teleport-coding", "gzip; by=nobody.00000000")]);
    for (n, (mut headers, body)) in
        [(link, other), (coded_already, decoded.clone()), (broken, decoded)].into_iter().enumerate()
    {
        let out = smol::block_on(recompressor.restore(&mut headers, body.clone(), true));
        assert!(out == body && !headers.contains_key("teleport-coding"), "{n}");
        assert_eq!(headers.contains_key("content-encoding"), n == 1);
        assert_eq!(recompressor.stats().not_restored, n as u64 + 1);
    }
}

#[test]
fn who_is_busy_lets_pass() {
    let recompressor = recompressor(Recompress::Exact);
    recompressor.busy.store(recompressor.most_busy, Ordering::Relaxed);
    let body = Bytes::from(zlib(&text(), 6));
    let headers = head(&[("content-encoding", "deflate")]);
    assert!(through(&recompressor, &headers, &body).is_none());
    recompressor.busy.store(0, Ordering::Relaxed);
    assert!(through(&recompressor, &headers, &body).is_some());
    assert_eq!(recompressor.busy.load(Ordering::Relaxed), 0);
    assert!(recompressor.stats().passed().any(|passed| passed == ("busy", 1)));
}

#[test]
fn a_head_that_would_get_too_long_is_left_alone() {
    let mut config = ProxyConfig { recompress: Recompress::Content, ..ProxyConfig::default() };
    config.outbound.max_head_bytes = 4096;
    let recompressor = Recompressor::new(&config).unwrap();
    let body = Bytes::from(zlib(&text(), 6));
    let headers = |len: usize| head(&[("content-encoding", "deflate"), ("cookie", &"x".repeat(len))]);
    assert!(through(&recompressor, &headers(3_000), &body).is_some());
    assert!(through(&recompressor, &headers(3_900), &body).is_none());
}

#[test]
#[cfg(feature = "preflate")]
fn the_recipe_of_a_large_body_is_as_long_as_both_ends_have_room_for() {
    let mut random = fastrand::Rng::with_seed(5);
    let items = (0..4_000).map(|n| format!("{{\"id\": {n}, \"name\": \"user {n}\", \"x\": {}}}, ", random.f64()));
    let plain: Vec<u8> = items.collect::<String>().into_bytes();
    // By an encoder that is not known here.
    let body = Bytes::from(miniz_oxide::deflate::compress_to_vec_zlib(&plain, 6));
    let headers = head(&[("content-encoding", "deflate")]);
    let with_heads_of = |own: usize, peer: &str| {
        let mut config = ProxyConfig { recompress: Recompress::Exact, ..ProxyConfig::default() };
        config.outbound.max_head_bytes = own;
        let recompressor = Recompressor::new(&config).unwrap();
        let mut announcement = HeaderMap::new();
        recompressor.announce(&mut announcement, true);
        let said = announcement["teleport-recompress"].to_str().unwrap().replace(&format!(", head={own}"), peer);
        let peer = Peer::of(&head(&[("teleport-recompress", &said)]));
        smol::block_on(recompressor.lower(&headers, &body, peer)).map(|lowered| {
            let mut link = headers.clone();
            let decoded = lowered.apply_to(&mut link);
            let mark = link["teleport-coding"].len();
            assert!(smol::block_on(recompressor.restore(&mut link, decoded, true)) == body);
            mark
        })
    };
    let mark = with_heads_of(64 * 1024, ", head=65536").unwrap();
    assert!((4_000..32 * 1024).contains(&mark), "{mark}");
    assert_eq!(with_heads_of(64 * 1024, ", head=1000000"), Some(mark));
    for (own, peer) in [(64 * 1024, ""), (64 * 1024, ", head=4096"), (4096, ", head=65536")] {
        assert_eq!(with_heads_of(own, peer), None, "{own} {peer:?}");
    }
}

#[test]
fn it_takes_a_link_on_one_side_and_compression_there() {
    let config = |mode, inbound, outbound| {
        let mut config = ProxyConfig { recompress: mode, ..ProxyConfig::default() };
        (config.inbound.kind, config.outbound.kind) = (inbound, outbound);
        config
    };
    let is_there = |mode, inbound, outbound| Recompressor::new(&config(mode, inbound, outbound)).is_some();
    assert!(is_there(Recompress::Exact, Kind::Http, Kind::Teleport));
    assert!(is_there(Recompress::Content, Kind::Teleports, Kind::Unix));
    assert!(!is_there(Recompress::Exact, Kind::Teleport, Kind::Teleport));
    assert!(!is_there(Recompress::Exact, Kind::Http, Kind::Https));
    assert!(!is_there(Recompress::Off, Kind::Http, Kind::Teleport));
    let mut plain = config(Recompress::Exact, Kind::Http, Kind::Teleport);
    plain.outbound.compression = Compression::None;
    let body = Bytes::from(zlib(&text(), 6));
    let recompressor = Recompressor::new(&plain).unwrap();
    assert!(through(&recompressor, &head(&[("content-encoding", "deflate")]), &body).is_none());
}

/// A file of tests/data/coded: made by gzip 1.12, Python 3 with zlib 1.2.13, brotli 1.0.9 and zstd 1.5.4 on the command line.
#[cfg(feature = "preflate")]
fn file(name: &str) -> Bytes {
    std::fs::read(format!("{}/tests/data/coded/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap().into()
}

#[test]
#[cfg(feature = "preflate")]
fn what_other_programs_made_comes_back() {
    let plain = file("items.json");
    let mut differ = Vec::new();
    for (name, coding, is_exact) in [
        ("gzip-1.gz", "gzip", true),
        ("gzip-6.gz", "gzip", true),
        ("gzip-9.gz", "gzip", true),
        ("full-header.gz", "gzip", true),
        ("python-flushes.gz", "gzip", true),
        ("two-members.gz", "gzip", false),
        ("python-zlib-1.zz", "deflate", true),
        ("python-zlib-6.zz", "deflate", true),
        ("python-zlib-9.zz", "deflate", true),
        ("brotli-4.br", "br", false),
        ("brotli-5.br", "br", true),
        ("brotli-11.br", "br", false),
        ("zstd-3.zst", "zstd", true),
        ("zstd-1-piped.zst", "zstd", true),
        ("zstd-19.zst", "zstd", false),
    ] {
        let (headers, coded) = (head(&[("content-encoding", coding)]), file(name));
        let exact = through(&recompressor(Recompress::Exact), &headers, &coded);
        if exact.is_some() != is_exact {
            differ.push(name);
        }
        if let Some([(_, decoded), (out, restored)]) = exact {
            assert!(decoded == plain && out == headers && restored == coded, "{name}");
        }
        let [(_, decoded), (out, restored)] = through(&recompressor(Recompress::Content), &headers, &coded).unwrap();
        assert!(if name == "two-members.gz" { decoded == plain.repeat(2) } else { decoded == plain }, "{name}");
        let again = coding::decode(Coding::named(coding).unwrap(), &restored, decoded.len()).unwrap().plain;
        assert!(out == headers && again == decoded, "{name}");
        // Cut, or with something behind, it is nothing to decode.
        for bad in [coded.slice(..coded.len() - 1), Bytes::from([&coded[..], b"garbage"].concat())] {
            assert!(through(&recompressor(Recompress::Content), &headers, &bad).is_none(), "{name}");
        }
    }
    assert!(differ.is_empty(), "restored to the byte, or not, against what is expected: {differ:?}");
}

#[test]
#[cfg(feature = "preflate")]
fn a_recipe_that_could_go_on_for_ever_is_taken_of_trusted_ends_alone() {
    let recompressor = recompressor(Recompress::Exact);
    let headers = head(&[("content-encoding", "gzip")]);
    let [(link, decoded), _] = through(&recompressor, &headers, &file("gzip-6.gz")).unwrap();
    let restored = |trusts| {
        let mut headers = link.clone();
        smol::block_on(recompressor.restore(&mut headers, decoded.clone(), trusts))
    };
    assert!(restored(true) == file("gzip-6.gz"));
    assert!(restored(false) == decoded);
}
