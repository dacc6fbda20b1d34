use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use mio::net::UnixStream;
use smol::Executor;
use smol::future::{FutureExt, poll_once, yield_now};

use super::*;
use crate::driver::smol::Alarm;

type Pipe = Watched<UnixStream>;

fn watched(stream: StdUnixStream) -> Pipe {
    stream.set_nonblocking(true).unwrap();
    Watched::new(UnixStream::from_std(stream)).unwrap()
}

fn pipes() -> (Pipe, Pipe) {
    let (a, b) = StdUnixStream::pair().unwrap();
    (watched(a), watched(b))
}

async fn read(pipe: &Pipe, room: usize) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; room];
    let n = poll_fn(|cx| pipe.poll_read(cx, &mut buf)).await?;
    buf.truncate(n);
    Ok(buf)
}

async fn write(pipe: &Pipe, byte: u8) {
    assert_eq!(pipe.with(Way::Out, |mut io| io.write(&[byte])).await.unwrap(), 1);
}

/// Whether it ended before a quarter of a minute was over, which is longer than any of it takes.
async fn in_time<T>(future: impl Future<Output = T>) -> T {
    let late = async {
        Timer::after(Duration::from_secs(15)).await;
        panic!("it did not end")
    };
    future.or(late).await
}

#[test]
fn what_a_short_read_has_not_found_is_found_when_it_comes() {
    let (mut far, near) = StdUnixStream::pair().unwrap();
    let near = watched(near);
    block_on(in_time(async {
        far.write_all(b"ab").unwrap();
        assert_eq!(read(&near, 1).await.unwrap(), b"a");
        assert_eq!(read(&near, 9).await.unwrap(), b"b");
        assert!(poll_once(read(&near, 9)).await.is_none());
        far.write_all(b"c").unwrap();
        assert_eq!(read(&near, 9).await.unwrap(), b"c");
        // The end comes together with what is before it, and is found after a read that came back short.
        far.write_all(b"d").unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read(&near, 9).await.unwrap(), b"d");
        assert_eq!(read(&near, 9).await.unwrap(), b"");
        assert_eq!(read(&near, 9).await.unwrap(), b"");
    }));
}

#[test]
fn who_writes_waits_for_room_and_learns_that_there_is_nobody() {
    let (far, near) = pipes();
    block_on(in_time(async {
        let fill = || near.with(Way::Out, |mut io| io.write(&[7; 4096]));
        let mut filled = 0;
        while let Some(written) = poll_once(fill()).await {
            filled += written.unwrap();
        }
        let drain = async {
            while filled > 0 {
                filled -= read(&far, 4096).await.unwrap().len();
            }
            std::future::pending().await
        };
        fill().or(drain).await.unwrap();
        drop(far);
        assert_eq!(fill().await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    }));
}

#[test]
fn timers_end_in_their_order_and_not_before_their_time() {
    let start = Instant::now();
    let (ended, order) = mpsc::channel();
    let executor = Executor::new();
    for millis in [9, 1, 5, 3, 7] {
        let ended = ended.clone();
        let wait = async move {
            let at = start + Duration::from_micros(millis * 1000 + 300);
            Timer::at(at).await;
            assert!(Instant::now() >= at);
            ended.send(millis).unwrap();
        };
        executor.spawn(wait).detach();
    }
    drop(ended);
    let all = block_on(executor.run(in_time(async {
        while !executor.is_empty() {
            yield_now().await;
        }
        order.iter().collect::<Vec<_>>()
    })));
    assert_eq!(all, [1, 3, 5, 7, 9]);
    block_on(async {
        assert!(poll_once(Timer::never()).await.is_none());
        assert!(poll_once(Timer::after(Duration::MAX)).await.is_none());
        assert!(poll_once(Timer::after(Duration::ZERO)).await.is_some());
    });
}

#[test]
fn a_timer_of_another_thread_ends_though_the_one_who_waits_has_longer() {
    let (tell, told) = pipes();
    let other = thread::spawn(move || block_on(in_time(read(&told, 1))));
    // By now, or soon, that thread waits for events, and this one has to wake it.
    for _ in 0..20 {
        block_on(in_time(Timer::after(Duration::from_millis(1))));
    }
    block_on(write(&tell, 1));
    assert_eq!(other.join().unwrap().unwrap(), [1]);
}

#[test]
fn others_take_over_when_the_one_who_waits_for_events_leaves() {
    let threads: Vec<_> = (1..20)
        .map(|millis| thread::spawn(move || block_on(in_time(Timer::after(Duration::from_millis(millis))))))
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn without_anybody_a_thread_stands_in() {
    let (near, far) = pipes();
    // Not `block_on` of this module.
    let answer = smol::future::block_on(in_time(async {
        let ask = async {
            Timer::after(Duration::from_millis(1)).await;
            write(&near, 1).await;
            std::future::pending().await
        };
        read(&far, 9).or(ask).await
    }));
    assert_eq!(answer.unwrap(), [1]);
}

#[test]
fn nothing_is_missed_between_threads_that_come_and_go() {
    const THREADS: u8 = 4;
    const ROUNDS: u8 = 100;
    // A ring: each reads from the one before it and writes to the one after it, half of them inside an executor of
    // their own, and all of them leave now and then.
    let (mut ins, mut outs): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| pipes()).unzip();
    outs.rotate_left(1);
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let (input, output) = (ins.remove(0), outs.remove(0));
            thread::spawn(move || {
                if number == 0 {
                    block_on(write(&output, 0));
                }
                for round in 0..ROUNDS {
                    let turn = async {
                        let got = read(&input, 9).await.unwrap();
                        assert_eq!(got, [round]);
                        if round % 7 == number {
                            Timer::after(Duration::from_micros(u64::from(round) * 10)).await;
                        }
                        if number > 0 {
                            write(&output, round).await;
                        } else if round + 1 < ROUNDS {
                            write(&output, round + 1).await;
                        }
                    };
                    match number % 2 {
                        0 => block_on(in_time(turn)),
                        _ => block_on(Executor::new().run(in_time(turn))),
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn what_happens_to_a_socket_that_is_gone_is_nobody_elses() {
    block_on(in_time(async {
        for _ in 0..1000 {
            let (mut far, near) = StdUnixStream::pair().unwrap();
            let near = watched(near);
            far.write_all(b"a").unwrap();
            drop(near);
            drop(far);
            let (far, near) = pipes();
            assert!(poll_once(read(&near, 9)).await.is_none());
            write(&far, 1).await;
            assert_eq!(read(&near, 9).await.unwrap(), [1]);
        }
    }));
    let sockets = lock(&Reactor::get().sockets).by_name.len();
    assert!(sockets < 500, "{sockets} are still watched");
}
