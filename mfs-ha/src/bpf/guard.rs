//! The gate on an interface: what the network stack sends and receives.
//!
//! Kernels since 6.6 have tcx, several programs in a row; before that there are filters of the clsact qdisc. On
//! `lo` it is the same: XDP there would copy every large packet into one piece first.

use std::path::Path;

use aya::programs::links::FdLink;
use aya::programs::tc::{
    self, NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError,
};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier};
use aya::util::KernelVersion;
use mfs_ha_common::gate::Direction;

use super::link::{HeldLink, Stay};
use super::{AttachError, BpfError, GATE_PROGRAMS, Program, os_error};
use crate::netlink::Netlink;

/// How the gate is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateKind {
    /// By tcx links.
    Tcx,
    /// As filters of the clsact qdisc.
    Clsact,
}

impl GateKind {
    /// Returns what this kernel has.
    pub(super) fn of_kernel() -> Self {
        let has_tcx =
            KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0));
        if has_tcx { Self::Tcx } else { Self::Clsact }
    }

    /// Returns the name that status shows.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// An interface to guard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    pub(super) ifindex: u32,
}

/// The gate on one interface (rule G2, and rule G3 on `lo`). Dropping it takes it off. It looks at what comes in
/// also where the XDP program does: that one may be gone before anybody notices, and does not see what is only
/// unpacked later.
#[derive(Debug)]
pub(super) struct Guard {
    entry: HeldLink,
    exit: HeldLink,
}

impl Guard {
    /// Attaches to an interface.
    pub(super) fn attach(
        program: &mut Program,
        place: Place<'_>,
        stay: &Stay,
    ) -> Result<Self, AttachError> {
        Ok(Self {
            entry: attach(program, place, Direction::In, stay)?,
            exit: attach(program, place, Direction::Out, stay)?,
        })
    }

    /// Puts back what somebody took off.
    pub(super) fn renew(
        &mut self,
        program: &mut Program,
        place: Place<'_>,
        stay: &Stay,
    ) -> Result<(), AttachError> {
        for (direction, link) in [
            (Direction::In, &mut self.entry),
            (Direction::Out, &mut self.exit),
        ] {
            if !is_attached(program, place, direction)? {
                *link = attach(program, place, direction, stay)?;
            }
        }
        Ok(())
    }
}

const fn attach_type(direction: Direction) -> TcAttachType {
    match direction {
        Direction::In => TcAttachType::Ingress,
        Direction::Out => TcAttachType::Egress,
    }
}

const fn program_name(direction: Direction) -> &'static str {
    let [entry, exit] = GATE_PROGRAMS;
    match direction {
        Direction::In => entry,
        Direction::Out => exit,
    }
}

fn attach(
    program: &mut Program,
    place: Place<'_>,
    direction: Direction,
    stay: &Stay,
) -> Result<HeldLink, AttachError> {
    let refused = |source| AttachError::Gate {
        interface: place.name.to_owned(),
        source: Box::new(source),
    };
    let kind = GateKind::of_kernel();
    if kind == GateKind::Clsact {
        prepare_clsact(place, direction).map_err(|error| refused(error.into()))?;
    }
    let name = program_name(direction);
    let pin = program.link_pin(name, place.ifindex);
    if let Some(pin) = &pin
        && kind == GateKind::Tcx
        && let Some(link) = take_over(program, place, direction, pin, stay)?
    {
        return Ok(link);
    }
    let classifier = program.classifier_mut(name)?;
    // Before whoever else is there: a program that lets a packet pass may end the row.
    let options = match kind {
        GateKind::Tcx => TcAttachOptions::TcxOrder(LinkOrder::first()),
        GateKind::Clsact => TcAttachOptions::Netlink(NlOptions {
            priority: 1,
            ..NlOptions::default()
        }),
    };
    let link = classifier
        .attach_with_options(place.name, attach_type(direction), options)
        .and_then(|id| classifier.take_link(id))
        .map_err(refused)?;
    Ok(match kind {
        GateKind::Clsact => HeldLink::filter(link, stay),
        GateKind::Tcx => {
            let link = FdLink::try_from(link).map_err(|_not_a_link| BpfError::Mismatch { name })?;
            HeldLink::new(link, pin, stay)?
        }
    })
}

/// Puts the program in the place of an earlier life's.
fn take_over(
    program: &mut Program,
    place: Place<'_>,
    direction: Direction,
    pin: &Path,
    stay: &Stay,
) -> Result<Option<HeldLink>, BpfError> {
    let kind = attach_type(direction);
    let is_at_home = program.is_at_home;
    let classifier = program.classifier_mut(program_name(direction))?;
    HeldLink::take_over(
        pin,
        stay,
        |id| match SchedClassifier::query_tcx(place.name, kind) {
            Ok((_revision, there)) => there.iter().any(|there| there.id() == id),
            // To be told takes CAP_SYS_ADMIN, which the daemon need not have. A link whose interface has gone refuses
            // the update by itself.
            Err(error) => is_at_home && os_error(&error) == Some(nix::libc::EPERM),
        },
        |link: SchedClassifierLink| {
            let id = classifier.attach_to_link(link)?;
            classifier.take_link(id).map(drop)
        },
    )
}

/// Makes the qdisc that filters belong to, and removes those that an earlier life left.
fn prepare_clsact(place: Place<'_>, direction: Direction) -> Result<(), TcError> {
    match tc::qdisc_add_clsact(place.name) {
        Err(error) if os_error(&error) != Some(nix::libc::EEXIST) => return Err(error),
        Ok(()) | Err(_) => {}
    }
    match tc::qdisc_detach_program(place.name, attach_type(direction), program_name(direction)) {
        Err(TcError::IoError(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Says whether the program is on the interface: somebody may have taken it off, and an interface that was made
/// anew may have the number of the old one. Filters of old kernels are not asked about.
fn is_attached(
    program: &mut Program,
    place: Place<'_>,
    direction: Direction,
) -> Result<bool, AttachError> {
    if GateKind::of_kernel() == GateKind::Clsact {
        return Ok(true);
    }
    let own = program.classifier_mut(program_name(direction))?;
    let id = own.info().map(|info| info.id());
    let found = id.and_then(|id| {
        let (_revision, programs) = SchedClassifier::query_tcx(place.name, attach_type(direction))?;
        Ok(programs.iter().any(|program| program.id() == id))
    });
    match found {
        // To be told whose programs these are takes CAP_SYS_ADMIN, which the daemon need not have.
        Err(error) if os_error(&error) == Some(nix::libc::EPERM) => Ok(true),
        found => found.map_err(|source: ProgramError| AttachError::Gate {
            interface: place.name.to_owned(),
            source: Box::new(source),
        }),
    }
}

/// Removes filters of an earlier life from all interfaces, and says from which. Links go with their pins.
///
/// # Errors
/// The kernel refuses, or does not list the interfaces.
pub async fn remove_all_filters() -> Result<Vec<String>, AttachError> {
    let mut removed = Vec::new();
    if GateKind::of_kernel() == GateKind::Tcx {
        return Ok(removed);
    }
    for link in Netlink::connect()?.links().await? {
        let existed = remove_filters(&link.name).map_err(|source| AttachError::Gate {
            interface: link.name.clone(),
            source: Box::new(source.into()),
        })?;
        if existed {
            removed.push(link.name);
        }
    }
    Ok(removed)
}

fn remove_filters(interface: &str) -> Result<bool, TcError> {
    let mut existed = false;
    for direction in [Direction::In, Direction::Out] {
        let (kind, name) = (attach_type(direction), program_name(direction));
        match tc::qdisc_detach_program(interface, kind, name) {
            Ok(()) => existed = true,
            Err(TcError::IoError(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
            // No qdisc, no filters.
            Err(error) if os_error(&error) == Some(nix::libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(existed)
}
