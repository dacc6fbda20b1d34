//! Profile `tcp`: whole drivers and programs over real sockets, in real time.

mod adapt;
mod link;
mod program;
mod socket;
mod tls;

use std::time::Duration;

pub use adapt::{ClientCan, Obstacle, for_client, for_server, for_shim};
pub use link::Tcp;
pub use program::client_can;
pub use tls::{NAME, ServerTls, Tls};

/// How a scenario's virtual time is made real.
#[derive(Clone, Debug)]
pub struct RealTime {
    /// How much later than its time something that is expected may come.
    pub slack: Duration,
    /// How long nothing must come where nothing may.
    pub settle: Duration,
    /// Scenarios that take longer are not run.
    pub longest: Duration,
}

impl Default for RealTime {
    fn default() -> Self {
        let (slack, settle) = (Duration::from_millis(500), Duration::from_millis(30));
        Self { slack, settle, longest: Duration::from_millis(1_500) }
    }
}

/// What [`RealTime::longest`] is for those who have time.
pub const SLOW: Duration = Duration::from_secs(11);
