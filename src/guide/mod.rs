//! Guides: each is a page to read in ten minutes.
//!
//! | guide | for whom |
//! |---|---|
//! | [`getting_started`] | wants a server and a client that talk, on tasks or on threads |
//! | [`compression`] | asks which compression, which batch delay and how many links |
//! | [`failure`] | wants to know what can go wrong, what it looks like, and which time-out ends it |
//! | [`security`] | puts a link between networks: TLS, certificates, limits, and what a link does not protect |
//! | [`from_the_original`] | knows the Go original and looks for its options |
//! | [`own_io`] | brings an event loop, a runtime or a transport of their own |
//! | [`copies`] | asks what a byte goes through from one end to the other |

#[doc = include_str!("getting_started.md")]
pub mod getting_started {}

#[doc = include_str!("compression.md")]
pub mod compression {}

#[doc = include_str!("failure.md")]
pub mod failure {}

#[doc = include_str!("security.md")]
pub mod security {}

#[doc = include_str!("own_io.md")]
pub mod own_io {}

#[doc = include_str!("copies.md")]
pub mod copies {}

#[doc = include_str!("from_the_original.md")]
pub mod from_the_original {}
