//! Attaching the program to an interface: native where the driver can, else generic.

use aya::programs::links::FdLink;
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, XdpMode};

use super::link::{HeldLink, Stay};
use super::{BpfError, PROGRAM, Program, os_error};
use crate::interface::{AttachMode, Interface};
use crate::netlink::NetlinkError;

/// How the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the network stack, later and slower; works with every driver.
    Generic,
}

impl Mode {
    /// Returns the name that status shows.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    /// Returns which one it is that the kernel shows, if it is one of ours.
    const fn of(shown: AttachMode) -> Option<Self> {
        match shown {
            AttachMode::Native => Some(Self::Native),
            AttachMode::Generic => Some(Self::Generic),
            AttachMode::Hardware | AttachMode::Several | AttachMode::Unknown(_) => None,
        }
    }

    /// What would help where this mode is not possible. Generic mode is the last resort.
    const fn alternative(self) -> &'static str {
        match self {
            Self::Native => ", and `xdp.mode = \"native\"` allows no other: set it to \"auto\"",
            Self::Generic => "",
        }
    }

    const fn flags(self) -> XdpMode {
        match self {
            Self::Native => XdpMode::Driver,
            Self::Generic => XdpMode::Skb,
        }
    }
}

/// An attachment. Dropping it detaches the program.
#[derive(Debug)]
pub struct Attached {
    /// How it is attached.
    pub mode: Mode,
    /// Why native mode was not possible, where it was wanted.
    pub fallback_reason: Option<String>,
    _link: HeldLink,
}

/// Why the program is not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Something else filters this interface already.
    #[error(
        "another XDP program is attached to {interface}: stop what put it there (`bpftool net show dev {interface}`), take off what a dead instance left (`mfs-ha release` with its configuration), or choose another interface"
    )]
    Occupied {
        /// The interface.
        interface: String,
    },
    /// The kernel or the driver refused.
    #[error(
        "cannot attach the XDP program to {interface} in {} mode{}",
        mode.name(),
        mode.alternative()
    )]
    Refused {
        /// The interface.
        interface: String,
        /// The mode that was tried.
        mode: Mode,
        /// Why.
        #[source]
        source: Box<ProgramError>,
    },
    /// The gate is not possible there (rule G8).
    #[error("cannot attach the gate to {interface}; `gate = \"off\"` runs without one")]
    Gate {
        /// The interface.
        interface: String,
        /// Why.
        #[source]
        source: Box<ProgramError>,
    },
    /// The interfaces of this host cannot be listed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The object or its pins are unusable.
    #[error(transparent)]
    Program(#[from] BpfError),
}

impl Program {
    /// Attaches to an interface: in `mode`, or in native mode with generic as the fallback.
    ///
    /// # Errors
    /// Another program is attached, or the kernel refuses every mode that is allowed.
    pub(super) fn attach(
        &mut self,
        interface: &Interface,
        mode: Option<Mode>,
        stay: &Stay,
    ) -> Result<Attached, AttachError> {
        if let Some(attached) = self.take_over(interface, mode, stay)? {
            return Ok(attached);
        }
        match mode {
            Some(mode) => self.attach_in(interface, mode, None, stay),
            None => match self.attach_in(interface, Mode::Native, None, stay) {
                Err(AttachError::Refused { source, .. }) => {
                    self.attach_in(interface, Mode::Generic, Some(root_cause(&source)), stay)
                }
                other => other,
            },
        }
    }

    /// Puts the program in the place of an earlier life's, if that runs in a mode that is allowed.
    fn take_over(
        &mut self,
        interface: &Interface,
        wanted: Option<Mode>,
        stay: &Stay,
    ) -> Result<Option<Attached>, AttachError> {
        let Some(pin) = self.link_pin(PROGRAM, interface.ifindex) else {
            return Ok(None);
        };
        let present = interface.xdp.as_ref().and_then(|xdp| {
            let mode = Mode::of(xdp.mode)?;
            let is_allowed = wanted.is_none_or(|wanted| wanted == mode);
            is_allowed.then_some((mode, &xdp.program_ids))
        });
        let xdp = self.xdp_mut()?;
        let taken = HeldLink::take_over(
            &pin,
            stay,
            |id| present.is_some_and(|(_, ids)| ids.contains(&id)),
            |link: XdpLink| {
                let id = xdp.attach_to_link(link)?;
                xdp.take_link(id).map(drop)
            },
        )?;
        let Some((link, (mode, _))) = taken.zip(present) else {
            return Ok(None);
        };
        self.is_at_home = true;
        let is_fallback = wanted.is_none() && mode == Mode::Generic;
        Ok(Some(Attached {
            mode,
            fallback_reason: is_fallback.then(|| "it did at an earlier start".to_owned()),
            _link: link,
        }))
    }

    fn attach_in(
        &mut self,
        interface: &Interface,
        mode: Mode,
        fallback_reason: Option<String>,
        stay: &Stay,
    ) -> Result<Attached, AttachError> {
        let pin = self.link_pin(PROGRAM, interface.ifindex);
        let xdp = self.xdp_mut()?;
        let link = xdp
            .attach_to_if_index(interface.ifindex, mode.flags())
            .and_then(|id| xdp.take_link(id))
            .map_err(|source| refusal(interface, mode, source))?;
        let link =
            FdLink::try_from(link).map_err(|_not_a_link| BpfError::Mismatch { name: PROGRAM })?;
        Ok(Attached {
            mode,
            fallback_reason,
            _link: HeldLink::new(link, pin, stay)?,
        })
    }
}

fn refusal(interface: &Interface, mode: Mode, source: ProgramError) -> AttachError {
    let interface = interface.name.clone();
    // EBUSY: a program is attached in this mode. EEXIST: one is attached in the other mode.
    if matches!(
        os_error(&source),
        Some(nix::libc::EBUSY | nix::libc::EEXIST)
    ) {
        return AttachError::Occupied { interface };
    }
    AttachError::Refused {
        interface,
        mode,
        source: Box::new(source),
    }
}

fn root_cause(error: &ProgramError) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
