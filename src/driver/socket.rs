//! How sockets are set up.

use socket2::SockRef;

/// How much the kernel may hold that it has not sent yet. Its buffers can be megabytes, of which a slow peer takes none
/// for a long time: how far it is would not be known, and what waits there shares no batch.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_BYTES: u32 = 128 * 1024;

/// Sets a connection up for many small messages and for write time-outs that mean something. Without either it still
/// works, so that failures are no matter.
pub(crate) fn set_up<'s>(stream: impl Into<SockRef<'s>>) {
    let socket = stream.into();
    let _ = socket.set_tcp_nodelay(true);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES);
}
