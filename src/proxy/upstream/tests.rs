use std::collections::BTreeSet;
use std::io;

use super::balance::State;
use super::*;
use crate::driver::MemoryBudget;
use crate::proxy::reactor::{Timer, block_on};
use crate::proxy::{Kind, Outbound};

/// What the name service says from now on: some addresses, or nothing that it could say.
type Records = Arc<Mutex<Option<BTreeSet<SocketAddr>>>>;

fn resolver(records: &Records) -> Resolver {
    let records = records.clone();
    Arc::new(move |_| {
        let found = records.lock().unwrap().clone();
        Box::pin(async move { found.ok_or_else(|| io::Error::other("the name service is down")) })
    })
}

fn set(records: &Records, ips: &[u8]) {
    *records.lock().unwrap() = Some(ips.iter().map(|ip| SocketAddr::from(([127, 0, 0, *ip], 1))).collect());
}

fn config(addr: &str) -> ProxyConfig {
    let outbound = Outbound {
        addr: addr.to_owned(),
        kind: Kind::Http,
        resolve_interval: Duration::from_millis(5),
        ..Outbound::default()
    };
    ProxyConfig { outbound, ..ProxyConfig::default() }
}

fn names(upstreams: &Upstreams) -> Vec<String> {
    upstreams.view().iter().map(|view| view.what.to_string()).collect()
}

/// Waits until the upstreams are these, in any order.
async fn become_these(upstreams: &Upstreams, wanted: &[&str]) {
    let start = Instant::now();
    loop {
        let mut names = names(upstreams);
        names.sort();
        if names == wanted {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{names:?}, not {wanted:?}");
        Timer::after(Duration::from_millis(2)).await;
    }
}

async fn start(executor: &Arc<Executor<'static>>, addr: &str, records: &Records) -> Arc<Upstreams> {
    let budget = MemoryBudget::unlimited();
    Upstreams::start_with(executor, &config(addr), Arc::default(), budget, resolver(records)).await.unwrap()
}

#[test]
fn a_name_is_followed_as_its_addresses_come_and_go() {
    let executor = Arc::new(Executor::new());
    let records = Records::default();
    set(&records, &[1, 2]);
    block_on(executor.run(async {
        let upstreams = start(&executor, "far.example:1,127.0.0.9:1", &records).await;
        let all = ["127.0.0.9:1", "far.example:1 at 127.0.0.1", "far.example:1 at 127.0.0.2"];
        become_these(&upstreams, &all).await;
        assert!(upstreams.view().iter().all(|view| view.state == State::Up), "nobody was there before");

        set(&records, &[2, 3]);
        become_these(&upstreams, &["127.0.0.9:1", "far.example:1 at 127.0.0.2", "far.example:1 at 127.0.0.3"]).await;
        assert_eq!(upstreams.view().iter().filter(|view| view.state == State::Starting).count(), 1);

        // A name service that errs, or that knows nothing, takes nobody away.
        for nothing in [None, Some(BTreeSet::new())] {
            *records.lock().unwrap() = nothing;
            Timer::after(Duration::from_millis(30)).await;
            assert_eq!(names(&upstreams).len(), 3);
        }
    }));
}

#[test]
fn a_name_that_cannot_be_looked_up_is_dialled_by_name_until_it_can() {
    let executor = Arc::new(Executor::new());
    let records = Records::default();
    block_on(executor.run(async {
        let upstreams = start(&executor, "far.example:1", &records).await;
        assert_eq!(names(&upstreams), ["far.example:1"]);
        set(&records, &[1]);
        become_these(&upstreams, &["far.example:1 at 127.0.0.1"]).await;
    }));
}

#[test]
fn an_upstream_that_goes_ends_what_it_has() {
    let executor = Arc::new(Executor::new());
    let records = Records::default();
    set(&records, &[1, 2]);
    block_on(executor.run(async {
        let upstreams = start(&executor, "far.example:1", &records).await;
        let (ticket, upstream, _) = upstreams.pick(true, &[]).unwrap();
        assert_eq!(upstream.addr(), "127.0.0.2:1");
        set(&records, &[1]);
        while upstreams.view()[1].state != State::Leaving {
            Timer::after(Duration::from_millis(2)).await;
        }
        assert_eq!(upstreams.view()[1].pending, 1);
        drop(ticket);
        assert_eq!(names(&upstreams), ["far.example:1 at 127.0.0.1"]);
    }));
}
