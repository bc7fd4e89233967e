//! Bugs that can be planted at the simulator's own boundary, between a machine and its disk, network, clock and executor.
//!
//! They show that each invariant is able to fail. No machine knows of them, and no scenario of the catalogue uses them.

use clap::ValueEnum;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bug {
    /// The disk drops lease records and says they are safe.
    LoseLeases,
    /// The disk names another provider when a binding is written again.
    SwapProvider,
    /// After a restart the disk shows the first version of a custody record.
    StaleDisk,
    /// The disk stores another result when an end is written again.
    ChangeResult,
    /// The executor neither freezes nor ends runs.
    IgnoreLease,
    /// The executor starts a run as soon as it is staged.
    StartUnbound,
    /// The submitter is answered before the disk has the task.
    AckEarly,
    /// The disk loses a task that it had.
    LoseTasks,
    /// A region's timers never fire.
    NoTimers,
    /// Reasons are cut off on their way to the disk.
    NoReasons,
    /// A replica claims to be as fresh as the present moment.
    ClaimFresh,
    /// A replica applies entries in another order.
    ApplyOutOfOrder,
    /// Work is taken in without bound while the disk is slow.
    NoShedding,
}
