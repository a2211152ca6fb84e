//! Where a build's worker lives: the rungs of the ladder.

use crate::IdMap;

/// What the user asks for: a rung by name, or the strongest that works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The strongest that works.
    #[default]
    Auto,
    /// This one or none.
    Only(RungName),
}

/// The rungs by name, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RungName {
    /// A user namespace with a range of ids.
    Range,
    /// A user namespace with one id, and all others emulated.
    Single,
    /// Root without the right to make namespaces.
    Chroot,
    /// A user namespace with one id, where who owns a file is lost.
    Pretended,
}

impl RungName {
    /// All of them, strongest first.
    pub const ALL: [RungName; 4] = [RungName::Range, RungName::Single, RungName::Chroot, RungName::Pretended];

    /// As in `--sandbox`.
    pub fn as_str(self) -> &'static str {
        match self {
            RungName::Range => "range",
            RungName::Single => "single",
            RungName::Chroot => "chroot",
            RungName::Pretended => "pretended",
        }
    }

    /// What a step makes elsewhere counts here, and the other way round, but for rungs with a name: there something may come out
    /// otherwise.
    pub fn sets_results_apart(self) -> Option<&'static str> {
        match self {
            RungName::Range | RungName::Single => None,
            RungName::Chroot | RungName::Pretended => Some(self.as_str()),
        }
    }
}

impl std::str::FromStr for RungName {
    type Err = std::io::Error;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let unknown = || std::io::Error::other(format!("there is no sandbox {name:?}"));
        RungName::ALL.into_iter().find(|rung| rung.as_str() == name).ok_or_else(unknown)
    }
}

impl std::fmt::Display for RungName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a worker lives, found to work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Root of a user namespace with these ids.
    Range(IdMap),
    /// Root of a user namespace with this one id, and all others emulated.
    Single(IdMap),
    /// As that, with nothing emulated: calls that need other ids are said to have worked.
    Pretended(IdMap),
    /// A child process like any other, as root; what it runs has another root folder and nothing else of its own.
    Chroot,
}

impl Place {
    /// The rung.
    pub fn name(&self) -> RungName {
        match self {
            Place::Range(_) => RungName::Range,
            Place::Single(_) => RungName::Single,
            Place::Pretended(_) => RungName::Pretended,
            Place::Chroot => RungName::Chroot,
        }
    }

    /// A short stable name, fit for a file name: trees on disk are kept apart where their files' owners mean something else.
    pub fn key(&self) -> String {
        match self {
            Place::Range(map) => map.key(),
            // The same trees: what is not recorded in them is in no layer either.
            Place::Single(map) | Place::Pretended(map) => format!("single-{}", map.key()),
            Place::Chroot => "chroot".to_owned(),
        }
    }

    /// Who outside owns what root of this place owns: user and group.
    pub fn root_outside(&self) -> (u32, u32) {
        match self {
            Place::Range(map) | Place::Single(map) | Place::Pretended(map) => map.root_outside(),
            Place::Chroot => (0, 0),
        }
    }

    /// What does not work here for a step, to be said once for each build; `None` where nothing is missing.
    pub fn warning(&self) -> Option<&'static str> {
        match self {
            Place::Range(_) => None,
            Place::Single(_) => Some(
                "this account has no range of ids, so RUN has the sandbox single: other users are emulated and the image is the same, but one \
                 user is not kept from another's files and processes; `lithify doctor` says what would give more",
            ),
            Place::Pretended(_) => Some(
                "nothing emulates other users here, so RUN has the sandbox pretended: chown, setuid and mknod do nothing and say that \
                 they worked. WHO OWNS A FILE IS LOST, and the image is not the one that other machines make; `lithify doctor` says \
                 what would give more",
            ),
            Place::Chroot => Some(
                "no namespaces can be made here, so RUN has the sandbox chroot: the image is the same, but RUN finds an empty \
                 /proc and /sys, this container's host name and other process numbers, and what it must not do is for the container to say; \
                 `lithify doctor` says what would give more",
            ),
        }
    }
}
