//! From traffic to a dictionary, and through a pair of proxies that have it.

// Callers and origins are real sockets in real time.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use common::origin;

/// A folder of its own, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("httptp-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file with so many bodies of one kind, or of random bytes.
fn bodies(path: &Path, count: u64, are_alike: bool) {
    let mut text = String::new();
    for n in 0..count {
        let mut random = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        text += &match are_alike {
            true => format!("{{\"id\":\"{random:016x}\",\"site\":{},\"banner\":{{\"w\":{}}}}}\n", n % 91, 300 + n % 3),
            false => {
                let mut noise = String::new();
                for _ in 0..60 {
                    random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    noise += &format!("{:016x}", random);
                }
                format!("{{\"{noise}\":1}}\n")
            }
        };
    }
    fs::write(path, text).unwrap();
}

fn httptp(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_httptp")).args(args).output().unwrap()
}

fn train(folder: &Folder, args: &[&str]) -> (Output, PathBuf) {
    let (traffic, dictionary) = (folder.file("traffic.jsonl"), folder.file("traffic.dict"));
    let files = ["train", traffic.to_str().unwrap(), dictionary.to_str().unwrap()];
    (httptp(&[&files[..], args].concat()), dictionary)
}

fn error(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A proxy, ended at the end.
struct Proxy {
    process: Child,
    addr: String,
    log: Receiver<String>,
}

impl Proxy {
    fn start(args: &[String]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_httptp"))
            .args(["--in=127.0.0.1:0", "--expvar-addr="])
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, log) = channel();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
        std::thread::spawn(move || lines.for_each(|line| _ = sender.send(line)));
        let mut proxy = Self { process, addr: String::new(), log };
        let line = proxy.log_with("listening on ");
        proxy.addr = line.split("listening on ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        proxy
    }

    /// The first line of the log with this in it.
    fn log_with(&self, text: &str) -> String {
        loop {
            let line = self.log.recv_timeout(Duration::from_secs(10)).expect("such a line");
            if line.contains(text) {
                return line;
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The status of the answer to a request.
fn post(proxy: &Proxy, body: &str) -> String {
    let mut caller = TcpStream::connect(&proxy.addr).unwrap();
    caller.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let length = body.len();
    write!(caller, "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
        .unwrap();
    let mut answer = String::new();
    caller.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn a_dictionary_is_trained_and_both_proxies_speak_with_it() {
    let folder = Folder::new("train");
    bodies(&folder.file("traffic.jsonl"), 4_000, true);
    let (output, dictionary) = train(&folder, &["--size=8192"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("trained on 2000 requests") && told.contains("--in-dictionary="), "{told}");
    assert!(fs::read(&dictionary).unwrap().starts_with(b"\x37\xa4\x30\xec"));
    assert_eq!(dictionary.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    let origin = origin("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"ok\":true}\n");
    let far = |dictionary: Option<&Path>| {
        let given = dictionary.map(|path| format!("--in-dictionary={}", path.display()));
        let args = ["--in-type=teleport", "--out-type=http", &format!("--out={origin}")].map(str::to_owned);
        Proxy::start(&args.into_iter().chain(given).collect::<Vec<_>>())
    };
    let near = |far: &Proxy| {
        Proxy::start(&[format!("--out={}", far.addr), format!("--out-dictionary={}", dictionary.display())])
    };
    let with = far(Some(&dictionary));
    let pair = near(&with);
    for n in 0..20 {
        assert_eq!(post(&pair, &format!("{{\"id\":\"{n:016x}\",\"site\":{n}}}")), "200");
    }
    // A far proxy that has it not says which one, and nothing is answered wrongly.
    let without = far(None);
    let pair = near(&without);
    assert_eq!(post(&pair, "{}"), "502");
    let line = without.log_with("zstd-dictionary");
    let id = u32::from_le_bytes(fs::read(&dictionary).unwrap()[4..8].try_into().unwrap());
    assert!(line.contains(&format!("dictionary {id}")), "{line}");
}

#[test]
fn a_dictionary_that_saves_nothing_is_not_written() {
    let folder = Folder::new("noise");
    bodies(&folder.file("traffic.jsonl"), 1_000, false);
    let (output, dictionary) = train(&folder, &["--delay=50ms"]);
    let text = error(&output);
    assert!(text.contains("saves less than 1 %") && text.contains("50ms"), "{text}");
    assert!(!dictionary.exists());
}

#[test]
fn files_that_are_none_are_named() {
    let folder = Folder::new("wrong");
    let file = folder.file("traffic.dict");
    let option = format!("--out-dictionary={}", file.display());
    for args in [&["check", &option][..], &[&option]] {
        let text = error(&httptp(args));
        assert!(text.contains("--out-dictionary") && text.contains("No such file"), "{text}");
    }
    fs::write(&file, "{}").unwrap();
    let text = error(&httptp(&["check", &option]));
    assert!(text.contains(file.to_str().unwrap()) && text.contains("no Zstandard dictionary"), "{text}");
    // One that is there stays, whatever it is.
    bodies(&folder.file("traffic.jsonl"), 500, true);
    let text = error(&train(&folder, &[]).0);
    assert!(text.contains("is there already") && fs::read_to_string(&file).unwrap() == "{}", "{text}");
    fs::remove_file(&file).unwrap();
    // Too little to train on.
    bodies(&folder.file("traffic.jsonl"), 2, true);
    let text = error(&train(&folder, &[]).0);
    assert!(text.contains("give a longer file"), "{text}");
}
