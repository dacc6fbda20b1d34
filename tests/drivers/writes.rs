//! What a batch costs: one call that writes.

use httpteleport::driver::{ClientOptions, ServerOptions};
use httpteleport::proto::{Compression, Stats};

use crate::counted::Writes;
use crate::harness::*;
use crate::tls::Authority;

/// A hundred requests at once, of 30 kB together: more than a record of TLS, less than a full batch.
fn each_batch_leaves_by_one_write<D: Driver>(client: ClientOptions, server: ServerOptions) {
    const CALLERS: u64 = 100;
    let (client, server) = (client.compression(Compression::None), server.compression(Compression::None));
    let (near, far) = (Writes::default(), Writes::default());
    let (client, server) =
        D::counted_pair((client.max_batch_delay(300 * MS), &near), (server.max_batch_delay(300 * MS), &far));
    // The hellos, and a handshake if there is one, are over after it.
    client.request(post("first"), LONG).unwrap();
    let counts = || [(client.stats(), near.count()), (server.stats(), far.count())];
    let before = counts();
    at_once(CALLERS as usize, |_| drop(client.request(post("x".repeat(200)), LONG).unwrap()));
    // The counters of a link may be told a little later than its bytes.
    let since = || {
        let since = |(now, before): ((Stats, u64), (Stats, u64))| {
            (now.0.frames_out - before.0.frames_out, now.0.batches_out - before.0.batches_out, now.1 - before.1)
        };
        counts().into_iter().zip(before).map(since).collect::<Vec<_>>()
    };
    eventually("that all are counted", || since().iter().all(|(frames, ..)| *frames == CALLERS));
    for (writes, (_, batches, count)) in [&near, &far].into_iter().zip(since()) {
        assert_eq!(count, batches, "one write for each batch");
        // Some may miss the first one, where all is slow.
        assert!(batches <= CALLERS / 10, "{batches} batches");
        assert!(writes.largest() > 2 * 200, "they shared one");
    }
}

both! {
    fn a_batch_leaves_by_one_write<D>() {
        each_batch_leaves_by_one_write::<D>(ClientOptions::default(), ServerOptions::default());
    }

    fn a_batch_leaves_by_one_write_in_tls<D>() {
        let authority = Authority::new();
        each_batch_leaves_by_one_write::<D>(authority.client(), authority.server());
    }
}
