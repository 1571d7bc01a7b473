//! The gate on an interface: what the network stack sends and, where the XDP program does not look, receives.
//!
//! Kernels since 6.6 have tcx, several programs in a row; before that there are filters of the clsact qdisc. On
//! `lo` it is the same: XDP there would copy every large packet into one piece first.

use aya::programs::links::FdLink;
use aya::programs::tc::{self, TcAttachType, TcError};
use aya::programs::{ProgramError, SchedClassifier};
use aya::util::KernelVersion;
use mfs_ha_common::gate::Direction;

use super::link::{HeldLink, Stay};
use super::{AttachError, BpfError, GATE_PROGRAMS, Program, os_error};

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

/// The gate on one interface (rule G2, and rule G3 on `lo`). Dropping it takes it off.
#[derive(Debug)]
pub(super) struct Guard {
    entry: Option<HeldLink>,
    exit: HeldLink,
}

impl Guard {
    /// Attaches to an interface.
    pub(super) fn attach(
        program: &mut Program,
        place: Place<'_>,
        has_xdp: bool,
        stay: &Stay,
    ) -> Result<Self, AttachError> {
        let exit = attach(program, place, Direction::Out, stay)?;
        let entry = if has_xdp {
            None
        } else {
            Some(attach(program, place, Direction::In, stay)?)
        };
        Ok(Self { entry, exit })
    }

    /// Brings it in line with whether the XDP program looks at what comes in, and puts back what somebody took
    /// off.
    pub(super) fn renew(
        &mut self,
        program: &mut Program,
        place: Place<'_>,
        has_xdp: bool,
        stay: &Stay,
    ) -> Result<(), AttachError> {
        if !is_attached(program, place, Direction::Out)? {
            self.exit = attach(program, place, Direction::Out, stay)?;
        }
        if has_xdp {
            self.entry = None;
        } else if self.entry.is_none() || !is_attached(program, place, Direction::In)? {
            self.entry = Some(attach(program, place, Direction::In, stay)?);
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
    let pin = program
        .links_dir()
        .map(|dir| dir.join(format!("{name}-{}", place.ifindex)));
    let classifier = program.classifier_mut(name)?;
    let link = classifier
        .attach(place.name, attach_type(direction))
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
    found.map_err(|source: ProgramError| AttachError::Gate {
        interface: place.name.to_owned(),
        source: Box::new(source),
    })
}

/// Removes filters of an earlier life from an interface, and says whether there were any. Links went with their
/// pins.
///
/// # Errors
/// The kernel refuses.
pub fn remove_filters(interface: &str) -> Result<bool, TcError> {
    if GateKind::of_kernel() == GateKind::Tcx {
        return Ok(false);
    }
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
