//! How sockets are set up.

#[cfg(feature = "thread")]
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// How long nothing comes before the kernel asks whether the peer is still there, and how often and how far apart it
/// asks: a link whose peer has vanished ends within a minute, though nothing is sent on it (R-no-ping).
const KEEPALIVE: (Duration, u32, Duration) = (Duration::from_secs(30), 3, Duration::from_secs(10));

/// How long the peer may acknowledge nothing of what was sent, or take nothing, before the kernel ends the connection:
/// without, it tries again for a quarter of an hour.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);

/// How much the kernel may hold that it has not sent yet. Its buffers can be megabytes, of which a slow peer takes none
/// for a long time: how far it is would not be known, and what waits there shares no batch.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_BYTES: u32 = 128 * 1024;

/// Sets a connection up for many small messages and for write time-outs that mean something. Without either it still
/// works, so that failures are no matter.
pub(crate) fn set_up<'s>(stream: impl Into<SockRef<'s>>) {
    let socket = stream.into();
    let _ = socket.set_tcp_nodelay(true);
    let (idle, retries, interval) = KEEPALIVE;
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(retries);
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES);
        let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    }
}

/// Where a socket is to be found from this machine that listens here.
#[cfg(feature = "thread")]
pub(super) fn from_here(mut addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    addr
}
