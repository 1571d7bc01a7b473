//! The second fence: a watchdog device resets the machine when this node may still serve and nobody watches
//! over it any more.
//!
//! The heartbeat thread says at each turn that it lives, and what it does ([`Pulse`]); a thread of its own
//! pings the device for as long as that is as it should be ([`judge()`] decides), so that a driver that is slow
//! delays no advert. The device is open, and thereby armed, from the moment at which this node becomes master
//! until everything of that is undone. What the node may serve is not decided here, and nobody waits for the
//! device: it ends what the other fence, the gate, has made harmless before.

mod device;
mod judge;
mod keeper;
mod pulse;
mod settimeout;
mod task;

pub use self::device::{CharDevice, Device, DeviceError, Facts};
pub use self::judge::{Duty, Judgement, Told, Withheld, judge};
pub use self::keeper::{Keeper, WatchdogView};
pub use self::pulse::{Pulse, Watched, pulse};
pub use self::task::{WatchdogTask, WatchdogViews, spawn};
