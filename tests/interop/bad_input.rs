//! What an operator, a machine or a stranger can do wrong. The real daemon says what is wrong and what would
//! be right, ends with its documented code, and leaves no VIP, pin, socket, XDP program or process behind.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper of a test fails as the test does, with its line, and shows its figures"
)]

#[path = "bad_input/bench.rs"]
mod bench;
#[path = "bad_input/captures.rs"]
mod captures;
#[path = "bad_input/configuration.rs"]
mod configuration;
#[path = "bad_input/hooks.rs"]
mod hooks;
#[path = "bad_input/interface.rs"]
mod interface;
#[path = "bad_input/neighbours.rs"]
mod neighbours;
#[path = "bad_input/running.rs"]
mod running;
#[path = "bad_input/start.rs"]
mod start;
#[path = "bad_input/vip.rs"]
mod vip;
