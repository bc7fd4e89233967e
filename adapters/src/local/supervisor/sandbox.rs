//! What a run can see: its own folder, the system's libraries and programs, and nothing of the node.
//!
//! Three layers, each by itself enough for the node's secrets: another user id (root), a view of its own of the file system
//! (root: its folder at a neutral place, its own `/tmp`, a `/proc` of its own processes), and Landlock (anybody). Without
//! a second user id Landlock is required.

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

/// Where a run of a root node sees its folder.
pub(super) const VIEW: &str = "/run/causeway/run";

/// Read and executed.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/locale.alias",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/resolv.conf",
    "/etc/ssl/certs",
    "/etc/terminfo",
    "/etc/timezone",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/sys/kernel/mm/transparent_hugepage",
];

/// What a run may know of the machine where it has no `/proc` of its own.
const PROC: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/kernel",
    "/proc/sys/vm",
    "/proc/uptime",
    "/proc/version",
];

/// Read and written.
const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

const FILE_RIGHTS: BitFlags<AccessFs> = landlock::make_bitflags!(AccessFs::{
    Execute | WriteFile | ReadFile | Truncate | IoctlDev
});

/// Prepared once by the launcher, used by every run.
pub(super) struct Sandbox {
    rules: Vec<(PathFd, BitFlags<AccessFs>)>,
    proc_rules: Vec<(PathFd, BitFlags<AccessFs>)>,
    landlock: bool,
    pub root: bool,
    view: bool,
    isolates: bool,
}

impl Sandbox {
    pub fn prepare(read_paths: &[PathBuf], both_required: bool) -> Self {
        let read = AccessFs::from_read(ABI::V5);
        let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
        let mut rules = Vec::new();
        for path in SYSTEM.iter().map(Path::new).chain(read_paths.iter().map(PathBuf::as_path)) {
            rules.extend(rule(path, read));
        }
        for path in DEVICES {
            rules.extend(rule(Path::new(path), device));
        }
        let proc_rules = PROC.iter().filter_map(|path| rule(Path::new(path), read)).collect();
        let root = nix::unistd::geteuid().is_root();
        let view = root && prepare_view().is_ok() && tries(CloneFlags::CLONE_NEWNS);
        let landlock = has_landlock();
        let both = landlock && (root || tries(CloneFlags::CLONE_NEWUSER));
        let isolates = if both_required { both } else { root || landlock };
        Self { rules, proc_rules, landlock, root, view, isolates }
    }

    /// Whether the node's files are safe from runs.
    pub fn isolates(&self) -> bool {
        self.isolates
    }

    /// For people.
    pub fn describe(&self) -> Vec<String> {
        let mut notes = Vec::new();
        notes.push(if self.root {
            "each run has a user id of its own".to_owned()
        } else {
            "not root: runs share the node's user id, in a user namespace where the kernel allows one".to_owned()
        });
        notes.push(if self.landlock {
            "runs read only their folder and the system's libraries and programs (Landlock)".to_owned()
        } else {
            "no Landlock in this kernel: files that everybody may read can be read by runs".to_owned()
        });
        if self.root && !self.view {
            notes.push("no mount namespaces: absolute paths of the run's folder may be closed to it".to_owned());
        }
        if !self.isolates() {
            notes.push("runs are refused: this machine does not isolate them as far as is required".to_owned());
        }
        notes
    }

    /// Gives this process its own view and returns where its folder now is. To be called before it drops its rights.
    pub fn enter_view(&self, work: &Path, tmp: &Path) -> io::Result<PathBuf> {
        if !self.view {
            return Ok(work.to_owned());
        }
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none: Option<&str> = None;
        let mount_at = |source: &Path, target: &str| mount(Some(source), target, none, MsFlags::MS_BIND, none);
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount_at(work, VIEW)?;
        // by descriptor, because the run's folder may itself lie under a folder that is about to be covered
        let folder = std::fs::File::open(tmp)?;
        let tmp = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        for shared in ["/tmp", "/var/tmp", "/dev/shm"] {
            if Path::new(shared).is_dir() {
                mount_at(&tmp, shared)?;
            }
        }
        let hidden = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        // not allowed inside some containers; then Landlock alone decides what of /proc is seen
        let _ = mount(Some("proc"), "/proc", Some("proc"), hidden, Some("hidepid=2"));
        Ok(PathBuf::from(VIEW))
    }

    /// Closes everything but `own` and the system to this process for good.
    pub fn close(&self, own: &[&Path]) -> io::Result<()> {
        if !self.landlock {
            return Ok(());
        }
        let all = AccessFs::from_all(ABI::V5);
        let read = AccessFs::from_read(ABI::V5);
        let mut set = Ruleset::default()
            .handle_access(all)
            .and_then(|set| set.scope(Scope::from_all(ABI::V6)))
            .and_then(|set| set.create())
            .map_err(io::Error::other)?
            .no_new_privs(true);
        for (fd, rights) in &self.rules {
            set = set.add_rule(PathBeneath::new(fd, *rights)).map_err(io::Error::other)?;
        }
        if self.view {
            if let Some((fd, rights)) = rule(Path::new("/proc"), read) {
                set = set.add_rule(PathBeneath::new(fd, rights)).map_err(io::Error::other)?;
            }
        } else {
            // what the program may know of itself; its children's entries stay closed to them
            if let Some((fd, rights)) = rule(Path::new("/proc/self"), read) {
                set = set.add_rule(PathBeneath::new(fd, rights)).map_err(io::Error::other)?;
            }
            for (fd, rights) in &self.proc_rules {
                set = set.add_rule(PathBeneath::new(fd, *rights)).map_err(io::Error::other)?;
            }
        }
        for path in own {
            let fd = PathFd::new(path).map_err(io::Error::other)?;
            set = set.add_rule(PathBeneath::new(fd, all)).map_err(io::Error::other)?;
        }
        let status = set.restrict_self().map_err(io::Error::other)?;
        if status.ruleset == RulesetStatus::NotEnforced {
            return Err(io::Error::other("Landlock was there and is not any more"));
        }
        Ok(())
    }
}

fn rule(path: &Path, rights: BitFlags<AccessFs>) -> Option<(PathFd, BitFlags<AccessFs>)> {
    let is_dir = std::fs::metadata(path).ok()?.is_dir();
    let fd = PathFd::new(path).ok()?;
    Some((fd, if is_dir { rights } else { rights & FILE_RIGHTS }))
}

/// Whether the kernel has Landlock switched on: a ruleset of its first version can be made.
fn has_landlock() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create)
        .is_ok()
}

fn prepare_view() -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(VIEW)?;
    for path in ["/run/causeway", VIEW] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Whether this process may have such namespaces: tried in a child, because it cannot be undone.
fn tries(namespaces: CloneFlags) -> bool {
    use nix::sys::wait::{WaitStatus, waitpid};
    match super::sys::fork() {
        Ok(Some(pid)) => matches!(waitpid(pid, None), Ok(WaitStatus::Exited(_, 0))),
        Ok(None) => {
            let none: Option<&str> = None;
            let mut tried = unshare(namespaces);
            if namespaces.contains(CloneFlags::CLONE_NEWNS) {
                tried = tried.and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none));
            }
            super::sys::exit_now(i32::from(tried.is_err()))
        }
        Err(_) => false,
    }
}

/// What a user namespace brought.
pub(super) struct UserNamespace {
    pub own_tmp: bool,
}

/// Puts a process that is not root into a user namespace of its own, where it may neither trace nor signal the node by a
/// right of its user id, and gives it a `/tmp` of its own there. Where the kernel forbids it, Landlock's scopes remain.
pub(super) fn enter_user_namespace(work: &Path, tmp: &Path) -> Option<UserNamespace> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    if unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).is_err() {
        return None;
    }
    let _ = std::fs::write("/proc/self/setgroups", "deny");
    let _ = std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"));
    let _ = std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"));
    // the run's folder keeps its place here, so a folder that holds it cannot be covered
    if work.starts_with("/tmp") {
        return Some(UserNamespace { own_tmp: false });
    }
    let none: Option<&str> = None;
    let mounted = mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .and_then(|()| mount(Some(tmp), "/tmp", none, MsFlags::MS_BIND, none));
    Some(UserNamespace { own_tmp: mounted.is_ok() })
}
