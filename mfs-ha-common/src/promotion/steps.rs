//! The steps of promotion and resignation, as tables: identity, time limit and what undoes each.

use core::time::Duration;

/// How long mfsmaster may take to be gone before the node counts as stuck (rule M3).
pub const STOP_LIMIT: Duration = Duration::from_secs(5);

/// How long a new master waits for its VIP before it leaves the mastership to others.
pub const PROMOTE_LIMIT: Duration = Duration::from_secs(3);

/// How long a leaving node waits for its VIP to be gone before it says farewell all the same.
pub const RESIGN_LIMIT: Duration = Duration::from_millis(200);

/// Default of [`Service::Metadata`]'s `stage_limit`.
pub const STAGE_LIMIT: Duration = Duration::from_secs(10);

/// Default of [`Service::Metadata`]'s `start_limit`.
pub const START_LIMIT: Duration = Duration::from_secs(30);

/// How long [`Step::AdmitChunkservers`] may take: those that were there before come back within the delay that
/// their configuration sets for a new try, 5 s by default, and a second of MooseFS's own clock.
pub const ADMIT_LIMIT: Duration = Duration::from_secs(7);

/// The way into service, in order (rule M1). Without a gate the last step is left out: ports cannot be closed
/// one by one then.
pub const PROMOTION: [Step; 9] = [
    Step::StopStray,
    Step::StopMetalogger,
    Step::Stage,
    Step::Verify,
    Step::Install,
    Step::RecordEpoch,
    Step::StartMaster,
    Step::TakeVip,
    Step::AdmitChunkservers,
];

/// The way out of it, in order (rule M3).
pub const RESIGNATION: [Step; 3] = [Step::StopMaster, Step::ReleaseVip, Step::RestoreMetadata];

/// One step. All but [`Step::TakeVip`] and [`Step::ReleaseVip`] are asked for by
/// [`Action::RunStep`](crate::action::Action::RunStep); those two are what
/// [`Action::SetVip`](crate::action::Action::SetVip) does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Step {
    /// Kill any mfsmaster that works on the data directory.
    StopStray,
    /// End the metalogger, so that its files are final.
    StopMetalogger,
    /// Put the newest valid image and one merged changelog together, beside the live directory.
    Stage,
    /// Read again what was staged.
    Verify,
    /// Move the live metadata into the archive and what was staged into its place.
    Install,
    /// Write down the epoch that begins.
    RecordEpoch,
    /// Start mfsmaster and wait until it listens.
    StartMaster,
    /// Take the VIP. Behind a gate it is asked for at once, and this step waits for it.
    TakeVip,
    /// Open the ports for metaloggers and chunkservers and wait until those have registered: a client that
    /// reads before them waits for 10 s.
    AdmitChunkservers,
    /// Kill mfsmaster and wait until it is gone.
    StopMaster,
    /// Give the VIP up.
    ReleaseVip,
    /// Undo [`Step::Install`] where the master that was to follow never served.
    RestoreMetadata,
}

/// What is known of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepInfo {
    /// Number in `docs/protocol.md`: P for promotion, R for resignation.
    pub id: &'static str,
    /// Name in status and log.
    pub name: &'static str,
    /// How long it may take, unless configured; for [`Step::StopMaster`] how long the VIP waits for it.
    pub limit: Duration,
    /// What undoes it, in words, or why nothing has to.
    pub undo: &'static str,
}

impl Step {
    /// Returns what is known of it.
    #[must_use]
    pub const fn info(self) -> &'static StepInfo {
        match self {
            Self::StopStray => &STOP_STRAY,
            Self::StopMetalogger => &STOP_METALOGGER,
            Self::Stage => &STAGE,
            Self::Verify => &VERIFY,
            Self::Install => &INSTALL,
            Self::RecordEpoch => &RECORD_EPOCH,
            Self::StartMaster => &START_MASTER,
            Self::TakeVip => &TAKE_VIP,
            Self::AdmitChunkservers => &ADMIT_CHUNKSERVERS,
            Self::StopMaster => &STOP_MASTER,
            Self::ReleaseVip => &RELEASE_VIP,
            Self::RestoreMetadata => &RESTORE_METADATA,
        }
    }

    /// Returns the name that status and log use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.info().name
    }

    /// Returns the step of a promotion that follows, `None` after the last one and for a resignation's.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        let mut rest = PROMOTION.into_iter().skip_while(|step| *step != self);
        rest.next();
        rest.next()
    }
}

/// What a node serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Service {
    /// The virtual address alone.
    #[default]
    Vip,
    /// MooseFS metadata behind it.
    Metadata {
        /// How long [`Step::Stage`] may take. [`Step::Verify`] and [`Step::Install`] handle the same files
        /// and have as long where this is longer than their own limit.
        stage_limit: Duration,
        /// How long [`Step::StartMaster`] may take.
        start_limit: Duration,
    },
}

impl Service {
    /// Metadata with the default limits.
    pub const METADATA: Self = Self::Metadata {
        stage_limit: STAGE_LIMIT,
        start_limit: START_LIMIT,
    };

    /// Says whether serving takes more than the VIP.
    #[must_use]
    pub const fn is_metadata(self) -> bool {
        matches!(self, Self::Metadata { .. })
    }

    /// Returns how long a step may take.
    #[must_use]
    pub fn limit(self, step: Step) -> Duration {
        let limit = step.info().limit;
        let Self::Metadata {
            stage_limit,
            start_limit,
        } = self
        else {
            return limit;
        };
        match step {
            Step::Stage => stage_limit,
            Step::Verify | Step::Install => limit.max(stage_limit),
            Step::StartMaster => start_limit,
            Step::StopStray
            | Step::StopMetalogger
            | Step::RecordEpoch
            | Step::TakeVip
            | Step::AdmitChunkservers
            | Step::StopMaster
            | Step::ReleaseVip
            | Step::RestoreMetadata => limit,
        }
    }
}

const STOP_STRAY: StepInfo = StepInfo {
    id: "P1",
    name: "stop_stray",
    limit: Duration::from_secs(2),
    undo: "none: nothing else may work on the directory",
};

const STOP_METALOGGER: StepInfo = StepInfo {
    id: "P2",
    name: "stop_metalogger",
    limit: Duration::from_secs(12),
    undo: "none: a standby starts it again",
};

const STAGE: StepInfo = StepInfo {
    id: "P4",
    name: "stage",
    limit: STAGE_LIMIT,
    undo: "none: the live directory was not touched",
};

const VERIFY: StepInfo = StepInfo {
    id: "P5",
    name: "verify",
    limit: Duration::from_secs(5),
    undo: "none: it only reads",
};

const INSTALL: StepInfo = StepInfo {
    id: "P3",
    name: "install",
    limit: Duration::from_secs(5),
    undo: "restore_metadata, unless the master served",
};

const RECORD_EPOCH: StepInfo = StepInfo {
    id: "P6",
    name: "record_epoch",
    limit: Duration::from_secs(2),
    undo: "none: an epoch that was not committed does not count",
};

const START_MASTER: StepInfo = StepInfo {
    id: "P7",
    name: "start_master",
    limit: START_LIMIT,
    undo: "stop_master",
};

const TAKE_VIP: StepInfo = StepInfo {
    id: "P8",
    name: "take_vip",
    limit: PROMOTE_LIMIT,
    undo: "release_vip",
};

const ADMIT_CHUNKSERVERS: StepInfo = StepInfo {
    id: "P9",
    name: "admit_chunkservers",
    limit: ADMIT_LIMIT,
    undo: "none: the gate closes with the lease",
};

const STOP_MASTER: StepInfo = StepInfo {
    id: "R1",
    name: "stop_master",
    limit: RESIGN_LIMIT,
    undo: "none: the next promotion starts one",
};

const RELEASE_VIP: StepInfo = StepInfo {
    id: "R2",
    name: "release_vip",
    limit: RESIGN_LIMIT,
    undo: "none: the next promotion takes it",
};

const RESTORE_METADATA: StepInfo = StepInfo {
    id: "R3",
    name: "restore_metadata",
    limit: Duration::from_secs(10),
    undo: "none: it is the undo of install",
};
