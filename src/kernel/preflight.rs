//! Asked before the first write: can this process load policy, and if not, what is missing?

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::Kernel;
use crate::error::Error;

/// The bit of `CAP_MAC_ADMIN` in a capability set (include/uapi/linux/capability.h).
const MAC_ADMIN: u32 = 33;

impl Kernel {
    /// Whether this process can load policy. Writes nothing.
    ///
    /// # Errors
    /// `Error::Node`: what is missing, and how to get it.
    pub(crate) fn preflight(&self) -> Result<(), Error> {
        self.enabled()?;
        self.mounted()?;
        let own = own_folder(self.proc());
        initial_namespace(&own)?;
        mac_admin(&own)?;
        if self
            .parameter("lock_policy")
            .is_some_and(|value| value == "Y")
        {
            return Err(Error::Node(format!(
                "this kernel's AppArmor policy is locked until the next boot ({} is Y): boot without that setting",
                self.parameter_file("lock_policy").display()
            )));
        }
        for file in [".load", ".replace", ".remove"] {
            self.writable(&self.apparmor.join(file))?;
        }
        self.readable()
    }

    /// Whether this process can read what is in force.
    ///
    /// # Errors
    /// `Error::Node`: what is missing, and how to get it.
    pub(crate) fn preflight_read(&self) -> Result<(), Error> {
        self.enabled()?;
        self.mounted()?;
        self.readable()
    }

    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        let value = std::fs::read_to_string(self.parameter_file(name)).ok()?;
        Some(value.trim().to_owned())
    }

    fn parameter_file(&self, name: &str) -> PathBuf {
        let root = &self.settings.root;
        root.join("sys/module/apparmor/parameters").join(name)
    }

    fn enabled(&self) -> Result<(), Error> {
        let why = match self.parameter("enabled").as_deref() {
            Some("Y") => return Ok(()),
            None if self.apparmor.is_dir() => return Ok(()),
            Some(_) => "is switched off",
            None => "is missing",
        };
        Err(Error::Node(format!(
            "AppArmor {why} in this kernel ({}): boot with the kernel parameters \
             `apparmor=1 security=apparmor`, or with apparmor in `lsm=`",
            self.parameter_file("enabled").display()
        )))
    }

    fn mounted(&self) -> Result<(), Error> {
        if self.apparmor.is_dir() {
            return Ok(());
        }
        Err(Error::Node(format!(
            "{0} has no folder apparmor: on a host run `mount -t securityfs securityfs {0}`; in a container mount the host's /sys/kernel/security by hostPath and name its place with --securityfs",
            self.settings.securityfs.display()
        )))
    }

    fn readable(&self) -> Result<(), Error> {
        let file = self.apparmor.join("profiles");
        let Err(error) = File::open(&file).and_then(|mut open| open.read(&mut [0; 1])) else {
            return Ok(());
        };
        let file = file.display();
        Err(match error.kind() {
            io::ErrorKind::PermissionDenied if !rustix::process::geteuid().is_root() => {
                Error::Node(format!("only root can read {file}: run as root"))
            }
            io::ErrorKind::PermissionDenied => {
                initial_namespace(&own_folder(self.proc()))?;
                Error::Node(format!(
                    "root may not read {file}: {}",
                    self.cause_of_denial()
                ))
            }
            _ => Error::Node(format!(
                "cannot read {file} ({error}): is {} a securityfs of this kernel?",
                self.settings.securityfs.display()
            )),
        })
    }

    fn writable(&self, file: &Path) -> Result<(), Error> {
        let Err(error) = OpenOptions::new().write(true).open(file) else {
            return Ok(());
        };
        let file = file.display();
        Err(Error::Node(match error.kind() {
            io::ErrorKind::PermissionDenied => {
                format!("{file} may not be written: {}", self.cause_of_denial())
            }
            io::ErrorKind::ReadOnlyFilesystem => format!(
                "{file} is mounted read-only: mount it writable (`readOnly: false` on the volumeMount)"
            ),
            _ => format!("cannot open {file} ({error}): this kernel loads no policy there"),
        }))
    }

    fn cause_of_denial(&self) -> String {
        let own = own_folder(self.proc());
        let label = ["attr/apparmor/current", "attr/current"]
            .iter()
            .find_map(|file| std::fs::read_to_string(own.join(file)).ok())
            .unwrap_or_default();
        match label.trim() {
            "unconfined" => "AppArmor does not deny it, since this process is unconfined: look for another security module, or at the mount".to_owned(),
            label => format!("this process' own AppArmor profile, {label}, denies files below /sys: mount securityfs at another path, such as /host/securityfs, and name it with --securityfs"),
        }
    }
}

/// This process' own folder: in `proc` where that shows this process, which another pid
/// namespace's does not.
fn own_folder(proc: &Path) -> PathBuf {
    let own = proc.join("self");
    if own.join("status").exists() {
        own
    } else {
        PathBuf::from("/proc/self")
    }
}

/// The initial user namespace maps all ids to themselves (`user_namespaces(7)`).
fn initial_namespace(own: &Path) -> Result<(), Error> {
    let map = std::fs::read_to_string(own.join("uid_map")).unwrap_or_default();
    let fields: Vec<_> = map.split_whitespace().collect();
    // Without the file, the kernel has no user namespaces.
    if map.is_empty() || fields == ["0", "0", "4294967295"] {
        return Ok(());
    }
    Err(Error::Node("this process is in a user namespace, whose root may not load policy: run without rootless mode, user-namespace remapping, or `hostUsers: false`".to_owned()))
}

fn mac_admin(own: &Path) -> Result<(), Error> {
    let file = own.join("status");
    let status =
        std::fs::read_to_string(&file).map_err(Error::io(format!("read {}", file.display())))?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .unwrap_or_default();
    if effective >> MAC_ADMIN & 1 == 1 {
        return Ok(());
    }
    Err(Error::Node("this process lacks CAP_MAC_ADMIN: run as root, in a container with `capabilities: {add: [MAC_ADMIN]}`".to_owned()))
}
